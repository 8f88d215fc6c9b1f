"""Rendered images with their prompts, the training data of direct fine-tuning on the embedded world."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from rewards.world.captions import parse_prompt
from rewards.world.render import render
from tcbench.files import write_atomically
from textcraftor.io.pairs import METADATA


def write_renders(folder: Path, texts: Sequence[str], seed: int = 0) -> None:
    """Write a folder of pairs: each text with an image of which it is true, in a random style.

    Args:
        folder: Folder for the images and their metadata.
        texts: Prompts.
        seed: Seed of the scenes.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lines = []
    for number, text in enumerate(texts):
        rng = np.random.default_rng([seed, number])
        image = render(parse_prompt(text).random_scene(rng))
        name = f"{number:05d}.png"
        Image.fromarray(image).save(folder / name)
        lines.append(json.dumps({"file_name": name, "text": text}))
    write_atomically(folder / METADATA, ("\n".join(lines) + "\n").encode())
