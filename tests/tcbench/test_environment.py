"""Versions of libraries and the checkout's commit."""

from __future__ import annotations

import re

import pytest

from tcbench import environment
from tcbench.environment import commit, installed_version


def test_commit_is_of_this_checkout_and_none_outside_one(monkeypatch: pytest.MonkeyPatch) -> None:
    assert re.fullmatch(r"[0-9a-f]{40}(\+changes)?", commit() or "")
    monkeypatch.setattr(environment, "__file__", "/nowhere/tcbench/environment.py")
    assert commit() is None


def test_version_of_a_missing_library_is_none() -> None:
    assert installed_version("numpy")
    assert installed_version("not-a-library") is None
