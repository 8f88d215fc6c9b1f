"""Downloads are not tried when offline mode is set or the host cannot be resolved."""

from __future__ import annotations

import socket

import pytest

from rewards.weights import hub


@pytest.fixture
def resolves(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr(hub, "getproxies", dict)
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_: [])


@pytest.mark.usefixtures("resolves")
def test_resolvable_host_allows_downloads() -> None:
    assert hub.offline_reason() == ""


@pytest.mark.usefixtures("resolves")
def test_offline_variable_forbids_downloads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert hub.offline_reason() == "HF_HUB_OFFLINE is set"


@pytest.mark.usefixtures("resolves")
def test_unresolvable_host_needs_a_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_line(host: str, *_: object) -> None:
        if host != "else.where":
            raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", no_line)
    assert hub.offline_reason() == "cannot resolve huggingface.co"
    assert hub.offline_reason("https://no.where/file") == "cannot resolve no.where"
    assert hub.offline_reason("https://else.where/file") == ""
    monkeypatch.setattr(hub, "getproxies", lambda: {"https": "proxy:1"})
    assert hub.offline_reason() == ""
