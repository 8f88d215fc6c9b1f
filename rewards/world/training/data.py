"""Random training batches: scenes, their images, true captions and captions with one error."""

from __future__ import annotations

from dataclasses import astuple, replace

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from rewards.world.captions import caption, style_words
from rewards.world.render import render
from rewards.world.scenes import (
    BACKGROUNDS,
    COLOURS,
    PAIR_SIZES,
    POSITIONS,
    RELATIONS,
    SHAPES,
    SIZES,
    Scene,
    SceneSplit,
    Style,
)

ATTRIBUTES = ("shape", "colour", "size", "background", "position", "relation")
"""Attributes that can be wrong in a caption."""


def random_scenes(
    rng: np.random.Generator, count: int, split: SceneSplit = "train", pairs: float = 0.3
) -> list[Scene]:
    """Return independent random scenes (see `rewards.world.scenes.Scene.random`)."""
    return [Scene.random(rng, split, pairs) for _ in range(count)]


def render_batch(rng: np.random.Generator, scenes: list[Scene], *, soften: bool = False) -> Tensor:
    """Render scenes.

    Args:
        rng: Source of randomness.
        scenes: B scenes.
        soften: Remove fine detail from half of the images, as a VAE does, so that rewards do not depend on
            it.

    Returns:
        Float32 (B, 3, 64, 64) in [0, 1] on torch's default device.
    """
    seeds = rng.integers(2**31, size=len(scenes))
    images = np.stack([render(scene, int(seed)) for scene, seed in zip(scenes, seeds, strict=True)])
    batch = torch.from_numpy(images).to(torch.get_default_device()).permute(0, 3, 1, 2).float().div_(255.0)
    return _soften(rng, batch) if soften else batch


def near_miss(
    rng: np.random.Generator, scene: Scene, misses: int = 1, of: tuple[str, ...] = ATTRIBUTES
) -> Scene:
    """Return the scene with some attributes replaced by other values.

    A caption of the result is wrong for the scene, and its image is wrong for the scene's caption. If the
    scene has no reserved combination, the result has none.

    Args:
        rng: Source of randomness.
        scene: The scene.
        misses: Number of attributes that are replaced.
        of: Attributes that may be replaced.
    """
    options = [(index, name) for index, name in scene.stated_attributes() if name in of]
    while True:
        changed = scene
        for choice in rng.choice(len(options), size=misses, replace=False):
            changed = _replace(rng, changed, *options[int(choice)])
        if scene.reserved() or not changed.reserved():
            return changed


def _replace(rng: np.random.Generator, scene: Scene, index: int, attribute: str) -> Scene:
    """Replace one attribute by another value, and move or scale the object accordingly."""
    if attribute == "background":
        return replace(scene, background=_other(rng, tuple(BACKGROUNDS), scene.background))
    if attribute == "relation":
        assert scene.relation is not None
        return scene.with_relation(_other(rng, tuple(RELATIONS), scene.relation))
    item = scene.items[index]
    if attribute == "shape":
        item = replace(item, shape=_other(rng, SHAPES, item.shape))
    elif attribute == "colour":
        item = replace(item, colour=_other(rng, tuple(COLOURS), item.colour))
    elif attribute == "size":
        assert item.size is not None
        item = item.resized_to(_other(rng, PAIR_SIZES if scene.relation else tuple(SIZES), item.size))
    else:
        assert item.position is not None
        item = item.moved_to(_other(rng, tuple(POSITIONS), item.position))
    return replace(scene, items=(*scene.items[:index], item, *scene.items[index + 1 :]))


def _other(rng: np.random.Generator, names: tuple[str, ...], name: str) -> str:
    return str(rng.choice([other for other in names if other != name]))


def caption_batch(
    rng: np.random.Generator, scenes: list[Scene], style: float = 0.35, detail: float = 0.88
) -> list[str]:
    """Return one true caption a scene (see `rewards.world.captions.caption`)."""
    return [caption(rng, scene, style, detail) for scene in scenes]


_POSITION = ("position", "relation")
_STYLE = ()
_WRONG: tuple[tuple[str, ...], ...] = (
    _STYLE,
    _POSITION,
    _POSITION,
    _POSITION,
    ("shape",),
    ("shape",),
    ATTRIBUTES,
    ATTRIBUTES,
)
"""Attributes that a false caption can have wrong; each entry has the same chance. Position and relation are
learned last, so they are wrong most often.
"""


def false_captions(rng: np.random.Generator, scenes: list[Scene], style: float = 0.35) -> list[str]:
    """Return one caption a scene that is wrong in a single thing, for contrastive training.

    The wrong thing is an attribute (`_WRONG`), or the style, which is then named as its opposite.
    """
    texts = []
    for scene, kind in zip(scenes, rng.integers(len(_WRONG), size=len(scenes)), strict=True):
        if _WRONG[kind] == _STYLE and style_words(rng, scene.style):
            opposite = Style(*(1.0 - value for value in astuple(scene.style)))
            texts.append(caption(rng, replace(scene, style=opposite), style=1.0))
        else:
            texts.append(caption(rng, near_miss(rng, scene, of=_WRONG[kind] or ATTRIBUTES), style))
    return texts


def _soften(rng: np.random.Generator, images: Tensor) -> Tensor:
    """Remove fine detail from half of the images.

    A quarter is blurred by down- and upsampling; another quarter loses the high frequencies of each 8 x 8
    block.

    Args:
        rng: Source of randomness.
        images: (B, 3, H, W) in [0, 1]; H and W are multiples of 8.
    """
    which = torch.from_numpy(rng.integers(4, size=len(images))).to(images.device)
    blurred = F.interpolate(images, scale_factor=0.5, mode="area")
    blurred = F.interpolate(blurred, scale_factor=2.0, mode="bilinear", align_corners=False)
    images = torch.where((which == 0)[:, None, None, None], blurred, images)
    return torch.where((which == 1)[:, None, None, None], _low_block_frequencies(images), images).clamp(
        0.0, 1.0
    )


def _low_block_frequencies(images: Tensor, block: int = 8, keep: int = 3) -> Tensor:
    """Keep the discrete cosine coefficients (u, v) with u + v < ``keep`` of every block, as JPEG does."""
    # Orthonormal DCT-II: row u is the cosine of frequency u.
    n = torch.arange(block, dtype=torch.float32)
    basis = torch.cos(torch.pi * (n + 0.5) * n[:, None] / block) * (2 / block) ** 0.5
    basis[0] /= 2**0.5
    b, c, h, w = images.shape
    blocks = images.reshape(b, c, h // block, block, w // block, block)
    coefficients = torch.einsum("ui,vj,bcyixj->bcyuxv", basis, basis, blocks)
    mask = (n[:, None] + n < keep).float()[:, None, :]
    return torch.einsum("ui,vj,bcyuxv->bcyixj", basis, basis, coefficients * mask).reshape(b, c, h, w)
