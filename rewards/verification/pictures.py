"""The images and prompts on which rewards are compared with their references."""

from __future__ import annotations

import os
from pathlib import Path

from PIL import Image

from tcbench.files import visible
from tcbench.images import upright

PROMPTS = (
    "a photograph of an astronaut riding a horse",
    "a cup of coffee on a wooden table",
    "",
    "An oil painting, in the manner of the old masters, of a rocket that rises from a launch pad at dawn "
    "while a large crowd of people in colourful coats, some with umbrellas and some with telescopes, watches "
    "from the far bank of a river; warm light on the clouds, reflections on the water, mist over the reeds, "
    "a cat asleep on a wall in the foreground, seventeen geese in the sky, all of it in very fine detail",
    "Ein Café in 東京, naïve Häuser; красный круг, 一只红色的大圆!",
)
"""Short ones, an empty one, one beyond the limit of every text encoder that has one (35 to 77 tokens), and
one with accents, Cyrillic, and Chinese, which BERT splits into characters."""

_SIZES = ((512, 512), (640, 427), (451, 300), (300, 451))
"""Width and height of rendered images, in turn: square, landscape and portrait are resized differently."""

_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")


def reference_data() -> Path | None:
    """Return the folder of photographs and published images, or None.

    It is $TCBENCH_SHARED, or shared/data beside the checkout.
    """
    beside = Path(__file__).resolve().parents[3] / "shared" / "data"
    folder = Path(os.environ.get("TCBENCH_SHARED", beside))
    return folder if folder.is_dir() else None


def photo_folder(scratch: Path, count: int) -> Path:
    """Return the folder of photographs; without one, write ``count`` rendered images to ``scratch``."""
    data = reference_data()
    return data / "photos" if data else _write_renders(scratch / "renders", count)


def load_photos(folder: Path, count: int) -> dict[str, Image.Image]:
    """Load the first ``count`` images of a folder and its sub-folders.

    Returns:
        RGB images by their paths below the folder.

    Raises:
        ValueError: If there are fewer.
    """
    paths = [path for path in visible(folder.rglob("*")) if path.suffix.lower() in _SUFFIXES]
    if len(paths) < count:
        raise ValueError(f"{folder} has {len(paths)} images; give a folder with at least {count}")
    return {
        path.relative_to(folder).as_posix(): upright(Image.open(path)).convert("RGB")
        for path in paths[:count]
    }


def _write_renders(folder: Path, count: int) -> Path:
    """Write enlarged images of the embedded world, and return the folder."""
    import numpy as np

    from rewards.world.render import render
    from rewards.world.scenes import Scene

    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for i in range(count):
        image = Image.fromarray(render(Scene.random(rng)))
        image.resize(_SIZES[i % len(_SIZES)], Image.Resampling.BICUBIC).save(folder / f"{i}.png")
    return folder
