"""Whether asking for a file can succeed, before the hub's client retries a dead line for half a minute; and
where what is fetched from elsewhere is kept.
"""

from __future__ import annotations

import os
import socket
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import getproxies


def barrier(url: str = "") -> str:
    """Why nothing can come from ``url`` (from the hub, if it is empty); empty when it can be tried."""
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        return "HF_HUB_OFFLINE is set"
    if getproxies():
        return ""  # whether a name resolves is the proxy's affair
    host = urlsplit(url or constants.ENDPOINT).hostname
    try:
        socket.getaddrinfo(host, 443)
    except OSError:
        return f"there is no line to {host}"
    return ""


def cache_folder() -> Path:
    """Where this package keeps what it fetched or built for the user."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "tcbench"
