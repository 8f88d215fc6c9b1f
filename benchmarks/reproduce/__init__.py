"""Comparisons that one command makes again, from training to the page."""
