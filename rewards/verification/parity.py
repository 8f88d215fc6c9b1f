"""Compare each reward with a second computation: by its authors' package, or from the files alone.

The bound is on the largest difference over images and prompts, as a share of the scores' standard deviation.
A bound alone proves little: a reward that hardly depends on a step would pass with that step missing. So the
same comparison must also reject mutants of the reward (`rewards.verification.mutants`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from scipy.stats import spearmanr
from torch import Tensor

from rewards.base import Reward
from rewards.info import RewardInfo
from rewards.registry import load
from rewards.verification.facts import FACTS, Facts
from rewards.verification.mutants import MUTANTS, Fault
from rewards.verification.official.compare import OFFICIAL
from rewards.verification.references import load_reference
from rewards.verification.tiny.checkpoints import tiny_record, write_tiny_weights
from rewards.weights.locate import locate_weights
from rewards.weights.lock import WeightsLock

_LOCK = "weights.lock.json"
"""Lock file beside the temporary weights, so that they are not recorded in the user's."""

BOUND = 1e-4
"""Largest difference, as a share of the standard deviation of the reference's scores."""

_FULL_BOUND = 1e-3
"""The same at the published sizes, where more layers round."""

_ODD = (1, 1, 316, 301)
"""Crop of 315 x 300 pixels. Cropped or padded to 224 or to 64, its margins are odd, and half of them is
rounded up or down."""

OWN_DEFINITION = "none: this project's own definition"
"""Reference of a reward that this project defines itself."""
NO_FACTS = "none: no published facts"
"""Reference of a reward that is not compared, because `FACTS` says nothing about it."""


@dataclass(frozen=True)
class Parity:
    """Result of comparing one reward."""

    reward: str
    profile: str
    reference: str
    """Code that computed the scores a second time."""
    weights: str
    """Weights that were used: random ones, tiny or of the published size, or the shipped ones."""
    pairs: int = 0
    """Number of (image, prompt) pairs."""
    spread: float = 0.0
    """Standard deviation of the reference's scores."""
    difference: float = 0.0
    """Largest absolute difference."""
    rank: float = 1.0
    """Spearman's correlation of the two."""
    mutants: Mapping[str, float] = field(default_factory=dict)
    """Largest difference of each mutant from the reference."""
    bound: float = BOUND
    """Largest error that is allowed."""
    disagreements: tuple[str, ...] = ()
    """Differences between the record and the published facts, one phrase each."""

    @property
    def checked(self) -> bool:
        """Whether the reward was compared with anything: another computation or the published facts."""
        return self.reference != NO_FACTS

    @property
    def error(self) -> float:
        """Largest difference as a share of the spread."""
        if not self.spread:
            # Equal scores would agree with anything: that is a failure, unless nothing was compared at all.
            return math.inf if self.pairs else 0.0
        return self.difference / self.spread

    @property
    def missed(self) -> list[str]:
        """Mutants that stay within the bound."""
        return [name for name, difference in self.mutants.items() if difference <= self.bound * self.spread]

    @property
    def ok(self) -> bool:
        """Whether the reward is within the bound, no mutant is, and the record agrees with the facts.

        A reward that was not checked is not ok.
        """
        return self.checked and self.error <= self.bound and not self.missed and not self.disagreements


class _Reference(NamedTuple):
    """A second computation: a module of `rewards.verification.references`."""

    title: str
    module: str
    options: Callable[[Facts], Mapping[str, Any]] = lambda facts: {}
    """Further keyword arguments of its function, computed from the facts."""

    def scorer(self, record: RewardInfo) -> Callable[..., float]:
        """Return ``score(files, image, prompt)`` for a reward; the module is imported only now.

        What it depends on is taken from the published facts, not from the record, which is under test. Only
        the name of a tiny architecture is the record's.
        """
        facts = FACTS[record.name]
        tiny = {name: value for name, value in record.options.items() if name == "architecture"}
        return partial(load_reference(self.module), **{**facts.options, **tiny}, **self.options(facts))


_LAION = _Reference("open_clip, PIL, and the head's matrices one by one", "aesthetic")

REFERENCES: Mapping[str, _Reference] = {
    "rewards.models.aesthetic:LaionAestheticV1": _LAION,
    "rewards.models.aesthetic:LaionAestheticV2": _LAION,
    "rewards.models.aesthetic:AestheticV25": _Reference(
        "transformers' SigLIP, PIL, and the head's matrices one by one", "aesthetic"
    ),
    "rewards.models.clipiqa:ClipIqa": _Reference(
        "open_clip with the attention pooling written out",
        "clipiqa",
    ),
    "rewards.models.clipscore:ClipScore": _Reference("transformers' CLIP and PIL", "clip"),
    "rewards.models.pickscore:PickScore": _Reference(
        "transformers' CLIP with its processor", "clip", lambda facts: {"convention": "logits"}
    ),
    "rewards.models.siglip:SiglipScore": _Reference(
        "transformers' SigLIP and PIL, the tokens written out", "siglip"
    ),
    "rewards.models.hpsv2:HPSv2": _Reference(
        "open_clip and torchvision's own resize and pad",
        "hpsv2",
        lambda facts: {"antialias": facts.profile.antialias},
    ),
    "rewards.models.imagereward:ImageReward": _Reference(
        "timm's ViT and transformers' BLIP text model", "blip"
    ),
    "rewards.models.mps:Mps": _Reference(
        "transformers' CLIP, PIL, and the cross-attention written out", "mps"
    ),
    "rewards.models.hpsv3:Hpsv3": _Reference(
        "transformers' Qwen2-VL and its processor, the message written out", "hpsv3"
    ),
    "rewards.models.vqascore:VqaScore": _Reference(
        "transformers' CLIP and T5, PIL, the question written out",
        "vqascore",
        lambda facts: {"pad": facts.profile.resize == "pad"},
    ),
    "rewards.models.jpeg:JpegSize": _Reference("the size of PIL's file", "jpeg"),
    "rewards.models.pixels:Colourfulness": _Reference(
        "the formula in NumPy", "pixels", lambda facts: {"measure": "colourfulness"}
    ),
    "rewards.models.pixels:Darkness": _Reference(
        "the formula in NumPy", "pixels", lambda facts: {"measure": "darkness"}
    ),
}
"""The second computation of each reward class."""


def compare_with_reference(
    record: RewardInfo, images: Mapping[str, Image.Image], prompts: Sequence[str], folder: Path
) -> Parity:
    """Compare a reward with its reference, on shipped weights or on tiny random ones.

    Args:
        record: The reward.
        images: RGB images by name, the first of 316 x 301 pixels or more. A crop of it is added.
        prompts: Every image is scored for every prompt, unless the reward reads none.
        folder: Where to write tiny weights.
    """
    shipped = bool(record.weights) and all(file.package for file in record.weights)
    base = Parity(record.name, record.profile, NO_FACTS, "shipped" if shipped else "tiny random")
    facts = FACTS.get(record.name)
    if facts is None:
        return base
    base = replace(base, reference=OWN_DEFINITION, disagreements=facts.disagreements(record))
    if record.entry not in REFERENCES:
        return base
    reference = REFERENCES[record.entry]
    subject = record if shipped else tiny_record(record)
    texts = prompts if record.uses_prompt else ("",)
    with WeightsLock.separate(folder / _LOCK):
        files = locate_weights(record) if shipped else write_tiny_weights(record, folder)
        score, pictures = reference.scorer(subject), list(images.values())
        pictures.append(pictures[0].crop(_ODD))
        expected = torch.tensor([[score(files, image, text) for text in texts] for image in pictures])
        comparison = _Comparison(expected, partial(load, subject, weights=files), pictures, texts)
        return comparison.fill(replace(base, reference=reference.title), MUTANTS)


def compare_with_official(
    record: RewardInfo,
    folder: Path,
    names: Sequence[str],
    prompts: Sequence[str],
    scratch: Path,
    *,
    full: bool,
) -> Parity:
    """Compare a reward with the official package, both on one checkpoint of random weights.

    Args:
        record: A reward whose class is in `OFFICIAL`.
        folder: Folder of the images.
        names: Paths of the images below it.
        prompts: Every image is scored for every prompt.
        scratch: Where to write the checkpoint.
        full: Whether the architecture has the published size. Mutants are left out then: the small
            architecture has shown that they are detected.
    """
    with WeightsLock.separate(scratch / _LOCK):
        return _with_official(record, [folder / name for name in names], prompts, scratch, full=full)


def _with_official(
    record: RewardInfo, paths: Sequence[Path], prompts: Sequence[str], scratch: Path, *, full: bool
) -> Parity:
    checkpoint = OFFICIAL[record.entry](record, scratch, full=full)
    answer = checkpoint.score(paths, prompts)
    pictures = [_as_stored(path) for path in paths]
    package, facts = checkpoint.package, FACTS.get(record.name)
    base = Parity(
        record.name,
        record.profile,
        f"{package} {answer['versions'][package]}",
        "random, of the published size" if full else "random, small",
        bound=_FULL_BOUND if full else BOUND,
        disagreements=facts.disagreements(record) if facts else (),
    )
    loader = partial(load, checkpoint.record, weights=checkpoint.files)
    comparison = _Comparison(torch.tensor(answer["scores"]), loader, pictures, prompts)
    return comparison.fill(base, {} if full else MUTANTS)


def _as_stored(path: Path) -> Image.Image:
    """Return the pixels of a file, RGB, without its orientation tag, which the official code ignores."""
    return Image.fromarray(np.asarray(Image.open(path).convert("RGB")))


class _Comparison(NamedTuple):
    """Scores of a reference, and what is needed to compute ours."""

    expected: Tensor  # (images, prompts)
    loader: Callable[[], Reward]
    images: Sequence[Image.Image]
    prompts: Sequence[str]

    def fill(self, base: Parity, mutants: Mapping[str, Any]) -> Parity:
        """Return ``base`` with all measurements."""
        ours = self._scores(self.loader())
        both = self.expected.flatten(), ours.flatten()
        return replace(
            base,
            pairs=self.expected.numel(),
            spread=float(self.expected.std()),
            difference=float((ours - self.expected).abs().max()),
            rank=1.0 if self.expected.numel() < 2 else float(spearmanr(*both).statistic),
            mutants=dict(self._mutants(mutants)),
        )

    def _mutants(self, mutants: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
        """Yield the largest difference of each mutant whose bug took part in scoring."""
        for name, mutant in mutants.items():
            # A mutant breaks its reward for good, so each gets a new one.
            fault, reward = Fault(), self.loader()
            with mutant(reward, fault):
                scores = self._scores(reward)
            if fault.reached:
                # NaN differs from any score.
                yield name, float((scores - self.expected).abs().nan_to_num(nan=torch.inf).max())

    def _scores(self, reward: Reward) -> Tensor:
        """Return our scores (images, prompts).

        The batches hold unlike prompts, whose scores must not depend on each other. They are all prompts for
        one image, and two at a time for the next, where short ones are beside no long one. Every second image
        is given as a float tensor.
        """
        rows = []
        for number, image in enumerate(self.images):
            size = 2 if number % 2 else len(self.prompts)
            groups = [self.prompts[at : at + size] for at in range(0, len(self.prompts), size)]
            tensor = torch.from_numpy(np.array(image)).permute(2, 0, 1).float() / 255
            with torch.no_grad():
                parts = [
                    reward.score(
                        torch.stack([tensor] * len(texts)) if number % 2 else [image] * len(texts), texts
                    )
                    for texts in groups
                ]
            rows.append(torch.cat(parts))
        return torch.stack(rows)
