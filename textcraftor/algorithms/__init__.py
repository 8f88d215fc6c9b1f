"""Training algorithms, which turn a batch of samples into optimiser steps."""
