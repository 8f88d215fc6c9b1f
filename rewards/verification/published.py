"""Published scores of published pictures, which only the real weights give."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from rewards.registry import info, load
from rewards.weights.locate import content_id, locate_weights
from tcbench.errors import MissingFiles


@dataclass(frozen=True)
class Published:
    """Scores that a reward's authors published for pictures of theirs and one prompt."""

    images: tuple[str, ...]
    """Paths below the folder of reference data."""
    prompt: str
    scores: tuple[float, ...]
    tolerance: float
    source: str


PUBLISHED: Mapping[str, Published] = {
    "imagereward": Published(
        images=tuple(f"golden/imagereward/{number}.webp" for number in (1, 2, 3, 4)),
        prompt="a painting of an ocean with clouds and birds, day time, low depth field effect",
        scores=(0.5811622738838196, 0.2745276093482971, -1.4131819009780884, -2.029569625854492),
        tolerance=0.01,
        source="README of THUDM/ImageReward",
    ),
    "hpsv2": Published(
        images=("golden/hpsv2/demo_image.jpg",),
        prompt="A cat with two horns on its head",
        scores=(0.2876,),
        tolerance=0.002,  # four digits, of half precision on a GPU
        source="issue 27 of tgxs002/HPSv2; its version is not stated, 2.0 was the default",
    ),
}


@dataclass(frozen=True)
class Checked:
    """What became of one reward's published scores."""

    reward: str
    status: str
    """"checked", or "not checked:" and why."""
    expected: tuple[float, ...]
    found: tuple[float, ...] = ()
    tolerance: float = 0.0
    weights: Mapping[str, str] | None = None
    """sha256 by key of what was loaded."""

    @property
    def ok(self) -> bool:
        """Not wrong: close to what was published, or not checked."""
        pairs = zip(self.expected, self.found, strict=True) if self.found else ()
        return all(abs(expected - found) <= self.tolerance for expected, found in pairs)

    def record(self) -> dict[str, Any]:
        """As it goes into a report."""
        return {**vars(self), "ok": self.ok}


def check_published(name: str, folder: Path | None) -> Checked:
    """The reward's published scores, if its real weights are here and its pictures in ``folder``.

    Nothing is downloaded. A status says what was missing: that is no pass.
    """
    published = PUBLISHED[name]
    try:
        files = locate_weights(info(name), fetch=False)
    except MissingFiles:
        return Checked(name, "not checked: weights missing", published.scores)
    paths = [folder / path for path in published.images] if folder else []
    if not paths or not all(path.is_file() for path in paths):
        return Checked(name, "not checked: pictures missing", published.scores)
    pictures = [Image.open(path).convert("RGB") for path in paths]
    found = load(name).score(pictures, [published.prompt] * len(pictures))
    hashes = {file.key: content_id(file, files[file.key]) for file in info(name).weights}
    return Checked(
        name, "checked", published.scores, tuple(map(float, found)), published.tolerance, weights=hashes
    )
