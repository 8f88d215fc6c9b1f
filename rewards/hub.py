"""Whether asking the hub can succeed: its client retries a dead line for half a minute before it says so."""

from __future__ import annotations

import socket
from urllib.parse import urlsplit
from urllib.request import getproxies


def reachable() -> bool:
    """False when HF_HUB_OFFLINE is set, or the hub's name does not resolve and no proxy could do that."""
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        return False
    if getproxies():
        return True
    try:
        socket.getaddrinfo(urlsplit(constants.ENDPOINT).hostname, 443)
    except OSError:
        return False
    return True
