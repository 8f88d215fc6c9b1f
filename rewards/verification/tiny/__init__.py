"""Tiny random weights of every reward's architecture, in the file layouts of the published ones."""
