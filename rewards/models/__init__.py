"""The reward models, one paper a file."""
