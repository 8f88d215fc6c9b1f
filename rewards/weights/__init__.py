"""Where weights come from: located, downloaded, locked, converted."""
