"""How the embedded pipeline is trained."""
