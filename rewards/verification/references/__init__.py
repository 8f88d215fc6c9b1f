"""Second computations of every reward's recipe: one image and one prompt at a time, from the files alone.

Each module has one function, ``score(files, image, prompt, **options) -> float``:

    files: Paths by the keys of the reward's weights.
    image: RGB.
    prompt: Text; ignored where the reward reads none.
    options: What the reward's record says beyond its weights, such as CLIPScore's convention.

Nothing of `rewards` outside this folder is imported, so that a mistake cannot be made in both places at once.
For the same reason the modules repeat each other rather than share code. They are meant to be read beside the
official source, and are not optimised for speed.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import cast


def load_reference(name: str) -> Callable[..., float]:
    """Return the second computation of a module of this folder; only now the module is imported."""
    return cast("Callable[..., float]", import_module(f"{__name__}.{name}").score)
