"""Loading a reward prints nothing and restores the libraries' settings."""

from __future__ import annotations

import pytest
from transformers.utils import logging

from rewards.registry import load
from tcbench.quiet import quiet


def test_settings_are_restored() -> None:
    before = logging.get_verbosity(), logging.is_progress_bar_enabled()
    with quiet("transformers"):
        assert (logging.get_verbosity(), logging.is_progress_bar_enabled()) == (logging.ERROR, False)
    assert (logging.get_verbosity(), logging.is_progress_bar_enabled()) == before


@pytest.mark.parametrize("name", ["world-pick", "world-siglip"])
def test_loading_a_reward_prints_nothing(name: str, capfd: pytest.CaptureFixture[str]) -> None:
    load(name)
    assert capfd.readouterr() == ("", "")
