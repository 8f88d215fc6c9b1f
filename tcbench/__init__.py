"""Version, launcher, errors and file handling: the ground floor of tcbench."""
