"""Training batches drawn on the fly: scenes, their pictures, captions and near-miss captions."""

from __future__ import annotations

from dataclasses import astuple, replace

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from rewards.world.captions import Spec, caption, style_words
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
    Split,
    Style,
    moved,
    random_scene,
    related,
    resized,
)

ATTRIBUTES = ("shape", "colour", "size", "background", "position", "relation")
"""What a caption can have wrong."""


def random_scenes(
    rng: np.random.Generator, count: int, split: Split = "train", pairs: float = 0.3
) -> list[Scene]:
    """``count`` independent scenes."""
    return [random_scene(rng, split, pairs) for _ in range(count)]


def pictures(rng: np.random.Generator, scenes: list[Scene]) -> Tensor:
    """Renders of the scenes, float32 (B, 3, 64, 64) in [0, 1], on torch's default device."""
    seeds = rng.integers(2**31, size=len(scenes))
    images = np.stack([render(scene, int(seed)) for scene, seed in zip(scenes, seeds, strict=True)])
    return torch.from_numpy(images).to(torch.get_default_device()).permute(0, 3, 1, 2).float().div_(255.0)


def near_miss(
    rng: np.random.Generator, scene: Scene, misses: int = 1, of: tuple[str, ...] = ATTRIBUTES
) -> Scene:
    """The scene with exactly ``misses`` stated attributes replaced by other values, in name and in picture.

    ``of`` names the attributes that can be. A caption of it is wrong for the scene and its picture is wrong
    for the scene's caption. A scene without reserved combinations gets none.
    """
    options = [(index, name) for index, name in stated(scene) if name in of]
    while True:
        changed = scene
        for choice in rng.choice(len(options), size=misses, replace=False):
            changed = _replace(rng, changed, *options[int(choice)])
        if scene.reserved() or not changed.reserved():
            return changed


def depiction(rng: np.random.Generator, spec: Spec) -> Scene:
    """A scene of which what was said is true, in a random style; what was left open is random too."""
    scene = random_scene(rng, "any", pairs=float(len(spec.items) == 2))
    items = []
    for item, said in zip(scene.items, spec.items, strict=True):
        own = replace(item, shape=said.shape, colour=said.colour or item.colour)
        own = resized(own, said.size) if said.size else own
        items.append(moved(own, said.position) if said.position and own.position else own)
    scene = replace(scene, items=tuple(items), background=spec.background or scene.background)
    return related(scene, spec.relation) if spec.relation else scene


def stated(scene: Scene) -> list[tuple[int, str]]:
    """What can be wrong of a scene: (object, attribute)."""
    of_items = [(index, name) for index in range(len(scene.items)) for name in ("shape", "colour", "size")]
    return [*of_items, (0, "background"), (0, "relation" if scene.relation else "position")]


def _replace(rng: np.random.Generator, scene: Scene, index: int, attribute: str) -> Scene:
    """The scene with another value of one attribute, its objects moved and scaled to fit."""
    if attribute == "background":
        return replace(scene, background=_other(rng, tuple(BACKGROUNDS), scene.background))
    if attribute == "relation":
        assert scene.relation is not None
        return related(scene, _other(rng, tuple(RELATIONS), scene.relation))
    item = scene.items[index]
    if attribute == "shape":
        item = replace(item, shape=_other(rng, SHAPES, item.shape))
    elif attribute == "colour":
        item = replace(item, colour=_other(rng, tuple(COLOURS), item.colour))
    elif attribute == "size":
        assert item.size is not None
        item = resized(item, _other(rng, PAIR_SIZES if scene.relation else tuple(SIZES), item.size))
    else:
        assert item.position is not None
        item = moved(item, _other(rng, tuple(POSITIONS), item.position))
    return replace(scene, items=(*scene.items[:index], item, *scene.items[index + 1 :]))


def _other(rng: np.random.Generator, names: tuple[str, ...], name: str) -> str:
    return str(rng.choice([other for other in names if other != name]))


def captions(
    rng: np.random.Generator, scenes: list[Scene], style: float = 0.35, detail: float = 0.88
) -> list[str]:
    """One caption a scene (see :func:`rewards.world.captions.caption`)."""
    return [caption(rng, scene, style, detail) for scene in scenes]


PLACE = ("position", "relation")
QUALITY = ()
WRONG: tuple[tuple[str, ...], ...] = (
    QUALITY,
    PLACE,
    PLACE,
    PLACE,
    ("shape",),
    ("shape",),
    ATTRIBUTES,
    ATTRIBUTES,
)
"""What false captions have wrong, each as often: more of what is learnt last."""


def false_captions(rng: np.random.Generator, scenes: list[Scene], style: float = 0.35) -> list[str]:
    """One caption a scene that is wrong in a single thing, for contrastive training (see `WRONG`).

    A quality is wrong where it can be named, as the opposite of what it is.
    """
    texts = []
    for scene, kind in zip(scenes, rng.integers(len(WRONG), size=len(scenes)), strict=True):
        if WRONG[kind] == QUALITY and style_words(rng, scene.style):
            opposite = Style(*(1.0 - value for value in astuple(scene.style)))
            texts.append(caption(rng, replace(scene, style=opposite), style=1.0))
        else:
            texts.append(caption(rng, near_miss(rng, scene, of=WRONG[kind] or ATTRIBUTES), style))
    return texts


def soften(rng: np.random.Generator, images: Tensor) -> Tensor:
    """Half of the pictures lose fine detail as a VAE's reconstructions do, so rewards do not live on it.

    A random one of two losses: a blur by down- and up-sampling, or the high frequencies of each 8 x 8 block.
    """
    which = torch.from_numpy(rng.integers(4, size=len(images))).to(images.device)
    blurred = F.interpolate(images, scale_factor=0.5, mode="area")
    blurred = F.interpolate(blurred, scale_factor=2.0, mode="bilinear", align_corners=False)
    images = torch.where((which == 0)[:, None, None, None], blurred, images)
    return torch.where((which == 1)[:, None, None, None], _low_block_frequencies(images), images).clamp(
        0.0, 1.0
    )


def _low_block_frequencies(images: Tensor, block: int = 8, keep: int = 3) -> Tensor:
    """Keep the discrete cosine coefficients (u, v) with u + v < keep of every block."""
    n = torch.arange(block, dtype=torch.float32)
    basis = torch.cos(torch.pi * (n + 0.5) * n[:, None] / block) * (2 / block) ** 0.5
    basis[0] /= 2**0.5
    b, c, h, w = images.shape
    blocks = images.reshape(b, c, h // block, block, w // block, block)
    coefficients = torch.einsum("ui,vj,bcyixj->bcyuxv", basis, basis, blocks)
    mask = (n[:, None] + n < keep).float()[:, None, :]
    return torch.einsum("ui,vj,bcyuxv->bcyixj", basis, basis, coefficients * mask).reshape(b, c, h, w)
