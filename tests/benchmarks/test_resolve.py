"""Presets of rewards."""

from __future__ import annotations

from dataclasses import replace

import pytest

from benchmarks.planning import Request, _system
from benchmarks.resolve import PRESETS, expand_presets
from benchmarks.systems import SYSTEMS
from rewards.combine.terms import parse_mix
from rewards.registry import info
from textcraftor.config import make_config
from textcraftor.profiles import PROFILES


def test_presets_expand_without_repetitions() -> None:
    assert expand_presets(["paper"], "open") == ("aesthetic-v2", "pickscore", "hpsv2")
    assert expand_presets(["pickscore", "paper", "x.py:Y"], "open") == (
        "pickscore",
        "aesthetic-v2",
        "hpsv2",
        "x.py:Y",
    )
    assert expand_presets(["paper", "heldout"], "world")[:3] == ("world-aesthetic", "world-pick", "world-hps")
    assert expand_presets(["default"], "elsewhere") == PRESETS["open"]["default"]


def test_a_run_uses_the_presets_of_its_domain() -> None:
    request = Request("micro", rewards=["heldout"])
    assert _system(request).rewards == PRESETS["world"]["heldout"]
    assert _system(replace(request, model="sd15")).rewards == PRESETS["open"]["heldout"]


@pytest.mark.parametrize("domain", ["open", "world"])
def test_heldout_shares_no_family_with_the_training_rewards(domain: str) -> None:
    presets = {name: [info(one) for one in names] for name, names in PRESETS[domain].items()}
    trained = make_config("micro").rewards.mix if domain == "world" else str(PROFILES["paper"]["rewards.mix"])
    families = {info(name).family for name in parse_mix(trained)}
    assert families.isdisjoint(record.family for record in presets["heldout"])
    assert SYSTEMS["micro" if domain == "world" else "sd15"].rewards == PRESETS[domain]["default"]
