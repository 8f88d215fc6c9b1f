"""Tiny random weights of every reward, in the files and folders of the published ones."""
