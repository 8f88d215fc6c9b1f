"""How the rewards of the embedded world are trained."""
