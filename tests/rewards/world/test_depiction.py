"""Pictures of what a text says."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from PIL import Image

from rewards.world.captions import read
from rewards.world.claims import answers
from rewards.world.prompts import world_prompts
from rewards.world.render import render
from rewards.world.training.data import depiction
from rewards.world.vision import look
from textcraftor.micro.training.renders import write_renders


def test_a_depiction_is_what_was_said() -> None:
    for number, prompt in enumerate(world_prompts("train")[:200]):
        said = read(prompt.text)
        scene = depiction(np.random.default_rng(number), said)
        assert scene.background == said.background
        assert scene.relation == (said.relation or scene.relation)
        for item, spec in zip(scene.items, said.items, strict=True):
            assert (item.shape, item.colour) == (spec.shape, spec.colour)
            assert spec.size in (None, item.size)
            assert spec.position in (None, item.position)


def test_the_oracle_finds_it_there() -> None:
    verdicts = []
    for number, prompt in enumerate(world_prompts("train")[:100]):
        picture = render(depiction(np.random.default_rng(number), read(prompt.text)), number)
        verdicts += [answer.true for answer in answers(look(picture), prompt.text)]
    assert np.mean(verdicts) > 0.9


def test_renders_are_a_folder_of_pairs(tmp_path: Path) -> None:
    texts = [prompt.text for prompt in world_prompts("train")[:3]]
    for name in ("a", "b"):
        write_renders(tmp_path / name, texts)
    rows = [json.loads(line) for line in (tmp_path / "a" / "metadata.jsonl").read_text().splitlines()]
    assert [row["text"] for row in rows] == texts
    pictures = [np.asarray(Image.open(tmp_path / "a" / row["file_name"])) for row in rows]
    assert pictures[0].shape == (64, 64, 3)
    assert (pictures[0] != pictures[1]).any()
    for row in rows:
        name = row["file_name"]
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
