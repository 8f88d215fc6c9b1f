"""Real pictures with their texts, as the embedded world has them: what direct fine-tuning learns from."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from rewards.world.captions import read
from rewards.world.render import render
from rewards.world.training.data import depiction
from tcbench.files import write_atomically
from textcraftor.io.pairs import METADATA


def write_renders(folder: Path, texts: Sequence[str], seed: int = 0) -> None:
    """A true picture of each text, in a style of the world's own distribution, as a folder of pairs."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = []
    for number, text in enumerate(texts):
        rng = np.random.default_rng([seed, number])
        picture = render(depiction(rng, read(text)), int(rng.integers(2**31)))
        name = f"{number:05d}.png"
        Image.fromarray(picture).save(folder / name)
        lines.append(json.dumps({"file_name": name, "text": text}))
    write_atomically(folder / METADATA, ("\n".join(lines) + "\n").encode())
