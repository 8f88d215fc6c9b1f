"""`tcbench pairs`: a run's images and prompts as training data."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from benchmarks.pairs import write_pairs
from leaderboards.records import Sample, ScoreSet
from leaderboards.run_state import RunState
from textcraftor.config import make_config
from textcraftor.inputs import _trained_on
from textcraftor.io.pairs import Pairs
from textcraftor.io.system import write_trained

MakeRun = Callable[..., RunState]

BRIGHT = ScoreSet("bright", "b" * 12, higher_is_better=True, role="trainable", family="toy")


def test_pairs_hold_the_images_with_their_prompts(make_run: MakeRun, tmp_path: Path) -> None:
    run = make_run("base", (BRIGHT, [[0.5], [0.6]]), prompts=["a cat", "a dog"], images=True)
    assert write_pairs(run, tmp_path / "pairs") == 2
    pairs = Pairs.read(tmp_path / "pairs")
    assert pairs.texts == ["a cat", "a dog"]
    images = pairs.images([0, 1], (16, 16))
    assert images.shape == (2, 3, 16, 16)
    assert images[1, 0].mean() == pytest.approx(40 / 255)


def test_turned_photographs_are_read_upright(tmp_path: Path) -> None:
    upright = Image.fromarray(np.random.default_rng(0).integers(0, 256, (16, 32, 3), dtype=np.uint8))
    exif = Image.Exif()
    exif[0x0112] = 6
    upright.save(tmp_path / "a.png")
    upright.transpose(Image.Transpose.ROTATE_90).save(tmp_path / "b.png", exif=exif)
    lines = [f'{{"file_name": "{name}.png", "text": "a cat"}}' for name in "ab"]
    (tmp_path / "metadata.jsonl").write_text("\n".join(lines))
    first, second = Pairs.read(tmp_path).images([0, 1], (16, 32))
    assert torch.equal(first, second)


def test_a_run_without_images_is_an_error(make_run: MakeRun, tmp_path: Path) -> None:
    run = make_run("base", (BRIGHT, [[0.5]]))
    for file in (run.path / "samples").glob("*.jsonl"):
        file.unlink()
    run.append_samples([Sample(0, 0, "a", "a", "animals", 7, reason="not finite")])
    with pytest.raises(ValueError, match="has no images"):
        write_pairs(run, tmp_path / "pairs")


def test_training_on_selected_images_declares_their_rewards(make_run: MakeRun, tmp_path: Path) -> None:
    selected = make_run("best", (BRIGHT, [[0.5]]), images=True, details={"trained_on": ["pickscore"]})
    write_pairs(selected, tmp_path / "selected")
    (tmp_path / "real").mkdir()

    def trained_on(pairs: str = "", start: str = "", algorithm: str = "direct") -> list[str] | None:
        settings = {"rewards.mix": "world-clip=1", "trainable.start": start}
        if pairs:
            settings |= {"data.pairs": str(tmp_path / pairs), "data.prompts": "", "algorithm.name": algorithm}
        return _trained_on(make_config("micro", overrides=settings))

    assert trained_on() == ["world-clip"]
    assert trained_on("selected", algorithm="denoising") == ["pickscore"]
    assert trained_on("real", algorithm="denoising") is None
    assert trained_on("real") == ["world-clip"]
    start = tmp_path / "start"
    start.mkdir()
    write_trained(start, start, make_config("micro"), ["world-pick"])
    assert trained_on(start=str(start)) == ["world-clip", "world-pick"]
    assert trained_on(start=str(tmp_path / "real")) is None
