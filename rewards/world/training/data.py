"""Random training batches: scenes, their images, true captions and captions with one error."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from rewards.world.captions import caption, holds
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

MISSES = (*ATTRIBUTES, "swap", "count")
"""Kinds of errors: a wrong attribute, an attribute of two objects swapped, an object too many or too few."""


def random_scenes(
    rng: np.random.Generator,
    count: int,
    split: SceneSplit = "train",
    pairs: float = 0.3,
    looks: Callable[[np.random.Generator], Style] = Style.random,
) -> list[Scene]:
    """Return independent random scenes (see `rewards.world.scenes.Scene.random`)."""
    return [Scene.random(rng, split, pairs, looks) for _ in range(count)]


def render_batch(scenes: list[Scene], soften: np.random.Generator | None = None) -> Tensor:
    """Render scenes.

    Args:
        scenes: B scenes.
        soften: Source of randomness with which fine detail is removed from half of the images, as a VAE does,
            so that rewards do not depend on it. None keeps all detail.

    Returns:
        Float32 (B, 3, 64, 64) in [0, 1] on torch's default device.
    """
    images = np.stack([render(scene) for scene in scenes])
    batch = torch.from_numpy(images).to(torch.get_default_device()).permute(0, 3, 1, 2).float().div_(255.0)
    return batch if soften is None else _soften(soften, batch)


def near_miss(
    rng: np.random.Generator, scene: Scene, misses: int = 1, of: tuple[str, ...] = ATTRIBUTES
) -> Scene:
    """Return the scene with some errors; its style stays.

    A caption of the result that says all is wrong for the scene, and its image is wrong for the scene's
    caption. If the scene has no reserved combination, the result has none.

    Args:
        rng: Source of randomness.
        scene: The scene.
        misses: Number of errors.
        of: Kinds of errors, of `MISSES`, that may occur.

    Raises:
        ValueError: If the scene cannot have so many of these errors.
    """
    options = _possible_misses(scene, of)
    if len(options) < misses:
        raise ValueError(
            f"the scene can have {len(options)} of the errors {', '.join(of)}, expected {misses}"
        )
    while True:
        changed = scene
        chosen = [options[int(choice)] for choice in rng.choice(len(options), size=misses, replace=False)]
        # Another number of objects comes last: it makes a new scene.
        for index, attribute in sorted(chosen, key=lambda option: option[1] == "count"):
            changed = _replace(rng, changed, index, attribute)
        if scene.reserved() or not changed.reserved():
            return changed


def can_miss(scene: Scene, kind: str) -> bool:
    """Return whether a scene can have an error of a kind of `MISSES`."""
    return bool(_possible_misses(scene, (kind,)))


def _possible_misses(scene: Scene, kinds: tuple[str, ...]) -> list[tuple[int, str]]:
    """Return (object index, attribute) of the errors of some kinds; swaps name what is swapped."""
    options = [(index, name) for index, name in scene.stated_attributes() if name in kinds]
    if "swap" in kinds and len(scene.items) == 2:
        first, second = scene.items
        names = [n for n in ("shape", "colour") if getattr(first, n) != getattr(second, n)]
        # Swapping the only difference gives the same objects at each other's places: a wrong relation.
        swaps = [name for name in names if len(names) == 2 or first.size != second.size]
        # A swap has a single result, so one with a reserved combination is no option.
        options += [
            (0, f"swap {name}") for name in swaps if scene.reserved() or not _swap(scene, name).reserved()
        ]
    if "count" in kinds:
        options.append((0, "count"))
    return options


def _replace(rng: np.random.Generator, scene: Scene, index: int, attribute: str) -> Scene:
    """Replace one attribute by another value, and move or scale the object accordingly."""
    if attribute == "count":
        return _recount(rng, scene)
    if attribute.startswith("swap "):
        return _swap(scene, attribute.removeprefix("swap "))
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


def _swap(scene: Scene, name: str) -> Scene:
    """Return a scene of two objects with their shapes or their colours swapped."""
    values = [getattr(item, name) for item in scene.items[::-1]]
    items = [replace(i, **{name: value}) for i, value in zip(scene.items, values, strict=True)]
    return replace(scene, items=tuple(items))


def _recount(rng: np.random.Generator, scene: Scene) -> Scene:
    """Return a scene with one object more or less, with the first object's shape and colour."""
    first = scene.items[0]
    while True:
        other = Scene.random(rng, "any", float(len(scene.items) == 1), lambda _: scene.style)
        items = (replace(other.items[0], shape=first.shape, colour=first.colour), *other.items[1:])
        if len({(item.shape, item.colour) for item in items}) == len(items):
            return replace(other, items=items, background=scene.background)


def _other(rng: np.random.Generator, names: tuple[str, ...], name: str) -> str:
    return str(rng.choice([other for other in names if other != name]))


def caption_batch(
    rng: np.random.Generator,
    scenes: list[Scene],
    style: float = 0.35,
    detail: float = 0.88,
    good_style: float | None = None,
) -> list[str]:
    """Return one true caption a scene (see `rewards.world.captions.caption`)."""
    return [caption(rng, scene, style, detail, good_style) for scene in scenes]


_MISS_SHARES = {
    "shape": 0.26,
    "colour": 0.10,
    "size": 0.16,
    "background": 0.06,
    "position": 0.16,
    "relation": 0.10,
    "swap": 0.08,
    "count": 0.08,
}
"""Kind of error -> share in alignment batches. Shapes are learned last, so they are wrong most often."""


@dataclass(frozen=True)
class AlignmentBatch:
    """Images and captions, and which caption is true of which image.

    Families of four images are two renders of a scene and two of a near miss of it, in independent styles
    that are equally frequent. So a plain caption is as true of a good picture as of a bad one, and quality
    says nothing about alignment.
    """

    scenes: list[Scene]
    """N scenes of the images."""
    images: Tensor
    """(N, 3, 64, 64) in [0, 1]."""
    texts: list[str]
    """A caption of each image."""
    matches: Tensor
    """(N, N), 1 where the caption of the column is true of the image of the row, else 0."""

    @classmethod
    def random(
        cls,
        rng: np.random.Generator,
        count: int,
        style: float = 0.5,
        detail: float = 0.9,
        pairs: float = 0.4,
        levels: float = 0.0,
    ) -> AlignmentBatch:
        """Return a random batch.

        Args:
            rng: Source of randomness.
            count: Number N of images, a multiple of 4.
            style: Probability that a caption names the style.
            detail: Probability that a caption names each of the other attributes.
            pairs: Share of scenes with two objects.
            levels: Share of images with a style of `Style.level`. Independent axes hardly ever give the best
                or the worst pictures.

        Raises:
            ValueError: If ``count`` is not a multiple of 4.
        """
        if count % 4:
            raise ValueError(f"a batch has families of 4 images, got count={count}; give a multiple of 4")
        scenes = []
        for scene in random_scenes(rng, count // 4, pairs=pairs, looks=Style.even):
            kinds = [kind for kind in _MISS_SHARES if can_miss(scene, kind)]
            shares = np.array([_MISS_SHARES[kind] for kind in kinds])
            kind = kinds[int(rng.choice(len(kinds), p=shares / shares.sum()))]
            missed = near_miss(rng, scene, of=(kind,))
            for shown in (scene, scene, missed, missed):
                leveled = levels > 0 and rng.random() < levels
                scenes.append(replace(shown, style=Style.level(rng) if leveled else Style.even(rng)))
        texts = caption_batch(rng, scenes, style, detail)
        matches = torch.tensor([[holds(text, scene) for text in texts] for scene in scenes])
        return cls(scenes, render_batch(scenes, rng), texts, matches.to(torch.get_default_device()).float())

    def spread(self, logits: Tensor) -> Tensor:
        """Return the variance of each caption's logits over the images of which it is true, on average.

        Captions of one image do not count; without others the result is 0.

        Args:
            logits: (N, N), of the image of the row and the caption of the column.
        """
        count = self.matches.sum(dim=0)
        mean = (logits * self.matches).sum(dim=0) / count
        variance = ((logits - mean).square() * self.matches).sum(dim=0) / count
        several = count > 1
        return variance[several].mean() if several.any() else 0 * logits.sum()

    @property
    def targets(self) -> tuple[Tensor, Tensor]:
        """Distributions over the true captions of each image, and over the images of each caption, (N, N)."""
        to_text = self.matches / self.matches.sum(dim=1, keepdim=True)
        to_image = self.matches.T / self.matches.T.sum(dim=1, keepdim=True)
        return to_text, to_image


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
