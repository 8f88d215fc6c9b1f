"""Training algorithms: what turns a batch of samples into optimiser steps."""
