"""The pictures and prompts that rewards are compared on."""

from __future__ import annotations

import os
from pathlib import Path

from PIL import Image

PROMPTS = (
    "a photograph of an astronaut riding a horse",
    "a cup of coffee on a wooden table",
    "",
    "An oil painting, in the manner of the old masters, of a rocket that rises from a launch pad at dawn "
    "while a large crowd of people in colourful coats, some with umbrellas and some with telescopes, watches "
    "from the far bank of a river; warm light on the clouds, reflections on the water, mist over the reeds, "
    "a cat asleep on a wall in the foreground, seventeen geese in the sky, all of it in very fine detail",
)
"""Short ones, none at all, and one longer than any text encoder here reads (35 and 77 tokens)."""

SIZES = ((512, 512), (640, 427), (451, 300), (300, 451))
"""Width and height of pictures of the embedded world, in turn."""

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")


def reference_data() -> Path | None:
    """Photographs and published pictures: $TCBENCH_SHARED, or shared/data beside the checkout; else None."""
    beside = Path(__file__).resolve().parents[3] / "shared" / "data"
    folder = Path(os.environ.get("TCBENCH_SHARED", beside))
    return folder if folder.is_dir() else None


def photographs(scratch: Path, count: int) -> Path:
    """The folder of real photographs, else of ``count`` pictures of the embedded world below ``scratch``."""
    data = reference_data()
    return data / "photos" if data else write_renders(scratch / "renders", count)


def pictures(folder: Path, count: int) -> dict[str, Image.Image]:
    """The first ``count`` pictures in a folder and those below it, RGB, by their paths below it.

    Raises ValueError if there are fewer.
    """
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES)
    if len(paths) < count:
        raise ValueError(f"{folder} has {len(paths)} pictures; give a folder with at least {count}")
    return {path.relative_to(folder).as_posix(): Image.open(path).convert("RGB") for path in paths[:count]}


def write_renders(folder: Path, count: int) -> Path:
    """Pictures of the embedded world, enlarged, for a machine without photographs. Gives the folder."""
    import numpy as np

    from rewards.world.render import render
    from rewards.world.scenes import random_scene

    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for place in range(count):
        picture = Image.fromarray(render(random_scene(rng), place))
        picture.resize(SIZES[place % len(SIZES)], Image.Resampling.BICUBIC).save(folder / f"{place}.png")
    return folder
