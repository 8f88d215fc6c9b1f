"""Scores computed a second time, a picture at a time, from the weights' files alone: nothing of `rewards`."""
