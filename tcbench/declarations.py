"""How a system declares that it was trained on a custom reward, which is defined in a file of its user.

Elsewhere such a reward is unknown, and other files may use its name, so the declaration has the file's hash.
It is data: nothing is imported for it.
"""

from __future__ import annotations

import re

CUSTOM_PREFIX = "custom:"
"""Beginning of every declaration of a custom reward."""

CUSTOM_REWARD = re.compile(CUSTOM_PREFIX + r"(?P<name>[^@]+)@(?P<sha256>[0-9a-f]{12,64})")
"""A declaration: the name of the reward, and the SHA-256 of its file or the first digits of it."""

CUSTOM_REWARD_FORMAT = CUSTOM_PREFIX + "{name}@{sha256}"
"""Format string of a declaration."""
