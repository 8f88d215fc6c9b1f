"""A reward for tcbench: warm colours."""
