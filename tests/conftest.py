"""What all tests share: the folder of real data, and a network that cannot be reached."""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Real prompts, photographs and reference values: $TCBENCH_SHARED, or shared/data beside the checkout."""
    folder = Path(os.environ.get("TCBENCH_SHARED", ROOT.parent / "shared" / "data"))
    if not folder.is_dir():
        give_up = pytest.fail if "CI" in os.environ else pytest.skip
        give_up(f"no test data at {folder}: set TCBENCH_SHARED to the folder that holds it")
    return folder


@pytest.fixture(autouse=True)
def _offline(monkeypatch: pytest.MonkeyPatch) -> None:
    """No test reaches beyond this machine."""
    connect = socket.socket.connect

    def connect_locally(self: socket.socket, address: Any) -> None:
        if self.family != socket.AF_UNIX and address[0] not in ("127.0.0.1", "::1", "localhost"):
            raise AssertionError(f"a test tried to reach {address[0]}")
        connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", connect_locally)


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("gpu"):
        import torch

        if not torch.cuda.is_available():
            pytest.skip("needs a CUDA device")
