"""Published scores of published images, which only the real weights reproduce."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image

from rewards.registry import info, load
from rewards.weights.locate import content_id, locate_weights
from tcbench.errors import MissingFiles


class _Scores(NamedTuple):
    """Scores that a reward's authors published for some images and one prompt."""

    images: tuple[str, ...]  # paths below the folder of reference data
    prompt: str
    values: tuple[float, ...]
    tolerance: float
    source: str


PUBLISHED: Mapping[str, _Scores] = {
    "imagereward": _Scores(
        images=tuple(f"golden/imagereward/{number}.webp" for number in (1, 2, 3, 4)),
        prompt="a painting of an ocean with clouds and birds, day time, low depth field effect",
        values=(0.5811622738838196, 0.2745276093482971, -1.4131819009780884, -2.029569625854492),
        tolerance=0.01,
        source="README of THUDM/ImageReward",
    ),
    "hpsv2": _Scores(
        images=("golden/hpsv2/demo_image.jpg",),
        prompt="A cat with two horns on its head",
        values=(0.2876,),
        tolerance=0.002,  # the source gives four digits, computed in half precision on a GPU
        source="issue 27 of tgxs002/HPSv2; its version is not stated, 2.0 was the default",
    ),
}
"""By reward."""


@dataclass(frozen=True)
class PublishedCheck:
    """Result of comparing one reward with its published scores."""

    reward: str
    status: str
    """"checked", or "not checked: " and the reason."""
    expected: tuple[float, ...]
    scores: tuple[float, ...] = ()
    """Scores computed here; empty if not checked."""
    tolerance: float = 0.0
    """Largest allowed difference."""
    weights: Mapping[str, str] | None = None
    """sha256 of the loaded weights, by key."""

    @property
    def ok(self) -> bool:
        """Whether all scores are within the tolerance; also true if not checked."""
        pairs = zip(self.expected, self.scores, strict=True) if self.scores else ()
        return all(abs(expected - score) <= self.tolerance for expected, score in pairs)

    def to_json(self) -> dict[str, Any]:
        """Return the fields under their names in a report, where our scores are "found"."""
        fields = {"found" if name == "scores" else name: value for name, value in vars(self).items()}
        return {**fields, "ok": self.ok}


def check_published(name: str, folder: Path | None) -> PublishedCheck:
    """Compare a reward with its published scores. Nothing is downloaded.

    Args:
        name: A key of `PUBLISHED`.
        folder: Reference data with the published images; None if there is none.

    Returns:
        The comparison; its status says what is missing if weights or images are.
    """
    published = PUBLISHED[name]
    try:
        files = locate_weights(info(name), fetch=False)
    except MissingFiles:
        return PublishedCheck(name, "not checked: weights missing", published.values)
    paths = [folder / path for path in published.images] if folder else []
    if not paths or not all(path.is_file() for path in paths):
        return PublishedCheck(name, "not checked: pictures missing", published.values)
    images = [Image.open(path).convert("RGB") for path in paths]
    scores = load(name).score(images, [published.prompt] * len(images))
    hashes = {file.key: content_id(file, files[file.key]) for file in info(name).weights}
    return PublishedCheck(
        name, "checked", published.values, tuple(map(float, scores)), published.tolerance, weights=hashes
    )
