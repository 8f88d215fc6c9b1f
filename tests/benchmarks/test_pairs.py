"""A run's images as pairs to train on."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks.pairs import write_pairs
from leaderboards.records import RunFolder, Sample, ScoreSet
from textcraftor.pairs import read_pairs

MakeRun = Callable[..., RunFolder]

BRIGHT = ScoreSet("bright", "b" * 12, higher_is_better=True, role="trainable", family="toy")


def test_pairs_are_the_images_with_their_prompts(make_run: MakeRun, tmp_path: Path) -> None:
    run = make_run("base", (BRIGHT, [[0.5], [0.6]]), prompts=["a cat", "a dog"], images=True)
    assert write_pairs(run, tmp_path / "pairs") == 2
    pairs = read_pairs(tmp_path / "pairs", (16, 16))
    assert pairs.texts == ["a cat", "a dog"]
    images = pairs.images([0, 1])
    assert images.shape == (2, 3, 16, 16)
    assert images[1, 0].mean() == pytest.approx(40 / 255)


def test_a_run_without_images_is_said(make_run: MakeRun, tmp_path: Path) -> None:
    run = make_run("base", (BRIGHT, [[0.5]]))
    for file in (run.path / "samples").glob("*.jsonl"):
        file.unlink()
    with run.sample_appender() as appender:
        appender.append([Sample(0, 0, "a", "a", "animals", 7, reason="not finite")])
    with pytest.raises(ValueError, match="has no images"):
        write_pairs(run, tmp_path / "pairs")
