"""Whether a download can succeed, and the cache folder of this package. Free of torch."""

from __future__ import annotations

import os
import socket
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import getproxies


def offline_reason(url: str = "") -> str:
    """Return why nothing can be downloaded; empty if a download can be tried.

    The hub's client retries for half a minute without a connection. This check takes no time.

    Args:
        url: Where to download from; empty for the hub.
    """
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        return "HF_HUB_OFFLINE is set"
    if getproxies():
        return ""  # the proxy resolves names, this machine need not
    host = urlsplit(url or constants.ENDPOINT).hostname
    try:
        socket.getaddrinfo(host, 443)
    except OSError:
        return f"cannot resolve {host}"
    return ""


def cache_folder() -> Path:
    """Return the folder for what this package downloads or builds for the user."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "tcbench"
