"""Rendered images of prompts: scenes that fit the text, and the folder of pairs."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from PIL import Image

from rewards.world.captions import parse_prompt
from rewards.world.claims import check_claims
from rewards.world.prompts import world_prompts
from rewards.world.render import render
from rewards.world.vision import detect_objects
from textcraftor.micro.training.renders import write_renders


def test_all_claims_are_true_of_the_scene() -> None:
    for number, prompt in enumerate(world_prompts("train")[:200]):
        spec = parse_prompt(prompt.text)
        scene = spec.random_scene(np.random.default_rng(number))
        assert scene.background == spec.background
        assert scene.relation == (spec.relation or scene.relation)
        for item, claimed in zip(scene.items, spec.items, strict=True):
            assert (item.shape, item.colour) == (claimed.shape, claimed.colour)
            assert claimed.size in (None, item.size)
            assert claimed.position in (None, item.position)


def test_the_oracle_accepts_the_image() -> None:
    true = []
    for number, prompt in enumerate(world_prompts("train")[:100]):
        image = render(parse_prompt(prompt.text).random_scene(np.random.default_rng(number)))
        true += [claim.true for claim in check_claims(detect_objects(image), prompt.text)]
    assert np.mean(true) > 0.9


def test_renders_are_a_folder_of_pairs(tmp_path: Path) -> None:
    texts = [prompt.text for prompt in world_prompts("train")[:3]]
    for name in ("a", "b"):
        write_renders(tmp_path / name, texts)
    rows = [json.loads(line) for line in (tmp_path / "a" / "metadata.jsonl").read_text().splitlines()]
    assert [row["text"] for row in rows] == texts
    images = [np.asarray(Image.open(tmp_path / "a" / row["file_name"])) for row in rows]
    assert images[0].shape == (64, 64, 3)
    assert (images[0] != images[1]).any()
    for row in rows:
        name = row["file_name"]
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
