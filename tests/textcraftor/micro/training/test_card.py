"""The world card: bars, tables and the summary of what is not reached."""

from __future__ import annotations

from pathlib import Path

import pytest

from textcraftor.diffusion.pipeline import MICRO
from textcraftor.micro.training import card
from textcraftor.micro.training.card import WorldCard
from textcraftor.micro.training.measure import ValidationSamples

MEASURES = (
    "_ceiling", "_looks", "_style_words", "_neutrality", "_acuity", "_headroom", "_independence", "_cost",
)  # fmt: skip


@pytest.mark.parametrize(("value", "reached"), [(0.98, True), (0.9799, False), (1.0, True)])
def test_a_share_reaches_its_bar_at_the_bar(value: float, reached: bool) -> None:
    bar = card._at_least("claims", 0.98, value)
    assert (bar.bar, bar.reached) == (">= 98 %", reached)


@pytest.mark.parametrize(("value", "reached"), [(0.98 - 0.93, True), (0.101, False), (0.02, False)])
def test_a_range_has_two_ends(value: float, reached: bool) -> None:
    bar = card._between("claims", 0.05, 0.10, value)
    assert (bar.bar, bar.value, bar.reached) == ("5 to 10 points", f"{100 * value:.2f} points", reached)


def test_the_card_counts_bars_and_names_those_that_are_not_reached(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bars = [
        card._at_least("claims", 0.98, 0.99),
        card._between("headroom", 0.05, 0.10, 0.2),
        card._Bar("for information", "-", "42"),
    ]
    section = card._Section("Title", "a counterpart", "a measurement", "No method.", bars)
    for name in MEASURES:
        monkeypatch.setattr(WorldCard, name, lambda self: section)
    notes: list[str] = []
    WorldCard(tmp_path, ValidationSamples(MICRO), 3.0, ", vivid", notes.append).write(tmp_path / "card.md")
    text = (tmp_path / "card.md").read_text()
    assert "8 of 16 bars are reached. Not reached: headroom; headroom" in text
    assert "| claims | >= 98 % | 99.0 % | yes |" in text
    assert "| headroom | 5 to 10 points | 20.00 points | **no** |" in text
    assert "| for information | - | 42 | - |" in text
    assert len(notes) == 8


def test_judges_and_the_selector_share_no_family_with_trained_rewards() -> None:
    section = WorldCard(Path(), ValidationSamples(MICRO), 3.0, "")._independence()
    assert [bar.reached for bar in section.bars if bar.reached is not None] == [True] * 5
