"""Each reward against a second computation of its recipe: its authors' package, or straight from the files.

The bound is on the largest difference over pictures and prompts, as a share of the scores' own spread, and
the same comparison must refuse the reward's mutants.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from importlib import import_module
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from PIL import Image
from scipy.stats import spearmanr
from torch import Tensor

from rewards.base import Reward
from rewards.info import RewardInfo
from rewards.registry import load
from rewards.verification.mutants import MUTANTS, Broken
from rewards.verification.official.compare import OFFICIAL, Checkpoint
from rewards.verification.tiny.checkpoints import tiny_record, write
from rewards.weights.locate import locate_weights

BOUND = 1e-3
"""Of the standard deviation of the reference's scores over pictures x prompts."""

OWN = "none: this project's own definition"


@dataclass(frozen=True)
class Parity:
    """What comparing one reward came to."""

    reward: str
    profile: str
    reference: str
    """What computed the scores a second time."""
    weights: str
    """On which weights: random ones, tiny or of the published size, or shipped ones."""
    pairs: int = 0
    """Pictures x prompts."""
    spread: float = 0.0
    """Standard deviation of the reference's scores."""
    difference: float = 0.0
    """Largest absolute difference."""
    rank: float = 1.0
    """Spearman's correlation of the two."""
    speed: float | None = None
    """Seconds of the official code over ours for the same scores, loading left out; None: not timed."""
    mutants: Mapping[str, float] = field(default_factory=dict)
    """Largest difference of each mutant."""

    @property
    def error(self) -> float:
        """The largest difference as a share of the spread."""
        if not self.spread:  # scores that are all alike compare nothing
            return math.inf if self.pairs else 0.0
        return self.difference / self.spread

    @property
    def missed(self) -> list[str]:
        """Mutants that the bound does not tell from the reward."""
        return [name for name, difference in self.mutants.items() if difference <= BOUND * self.spread]

    @property
    def ok(self) -> bool:
        """Within the bound, and no mutant is."""
        return self.error <= BOUND and not self.missed


Score = Callable[..., float]
"""``score(files, image, prompt)``, a picture at a time."""


def _reference(module: str, function: str = "score", **settings: Any) -> Score:
    """A function of `rewards.verification.references`, imported when it is called."""

    def score(files: Mapping[str, Path], image: Image.Image, prompt: str) -> float:
        found = getattr(import_module(f"rewards.verification.references.{module}"), function)
        return float(found(files, image, prompt, **settings))

    return score


CLIPSCORES = {"torchmetrics": "score", "hessel": "hessel", "logits": "logits", "cosine": "cosine"}
"""The reference of each convention of CLIPScore."""

References = Mapping[str, tuple[str, Callable[[RewardInfo], Score]]]

REFERENCES: References = MappingProxyType(
    {
        "rewards.models.aesthetic:LaionAestheticV1": (
            "open_clip, PIL, and the head's matrices one by one",
            lambda _: _reference("aesthetic", layers=("",)),
        ),
        "rewards.models.aesthetic:LaionAestheticV2": (
            "open_clip, PIL, and the head's matrices one by one",
            lambda _: _reference("aesthetic"),
        ),
        "rewards.models.aesthetic:AestheticV25": (
            "transformers' SigLIP, PIL, and the head's matrices one by one",
            lambda _: _reference("aesthetic", "score_v25"),
        ),
        "rewards.models.clipiqa:ClipIqa": (
            "open_clip with the attention pooling written out",
            lambda _: _reference("clipiqa"),
        ),
        "rewards.models.clipscore:ClipScore": (
            "transformers' CLIP and PIL",
            lambda record: _reference("clip", CLIPSCORES[str(record.options["convention"])]),
        ),
        "rewards.models.pickscore:PickScore": (
            "transformers' CLIP with its processor",
            lambda _: _reference("clip", "logits"),
        ),
        "rewards.models.siglip:SiglipScore": (
            "transformers' SigLIP and PIL, the tokens written out",
            lambda _: _reference("siglip"),
        ),
        "rewards.models.hpsv2:HPSv2": (
            "open_clip and torchvision's own resize and pad",
            lambda record: _reference(
                "hpsv2",
                architecture=str(record.options.get("architecture", "")),
                antialias=record.profile.endswith("antialias"),
            ),
        ),
        "rewards.models.imagereward:ImageReward": (
            "timm's ViT and transformers' BLIP text model",
            lambda _: _reference("blip"),
        ),
        "rewards.models.mps:Mps": (
            "transformers' CLIP, PIL, and the cross-attention written out",
            lambda _: _reference("mps"),
        ),
        "rewards.models.hpsv3:Hpsv3": (
            "transformers' Qwen2-VL and its processor, the message written out",
            lambda _: _reference("hpsv3"),
        ),
        "rewards.models.vqascore:VqaScore": (
            "transformers' CLIP and T5, PIL, the question written out",
            lambda _: _reference("vqascore"),
        ),
        "rewards.models.jpeg:JpegSize": (
            "the size of PIL's file",
            lambda record: _reference("jpeg", sign=int(record.options["sign"])),
        ),
    }
)
"""By class: what computes the score a second time, in words, and how to get it for a record."""


def compare(
    record: RewardInfo, images: Mapping[str, Image.Image], prompts: Sequence[str], folder: Path
) -> Parity:
    """The reward against its straight-line reference, on shipped or tiny random weights (in ``folder``)."""
    base = Parity(record.name, record.profile, OWN, "shipped" if _shipped(record) else "tiny random")
    if record.entry not in REFERENCES:
        return base
    title, make = REFERENCES[record.entry]
    if _shipped(record):
        subject, files = record, locate_weights(record)
    else:
        subject, files = tiny_record(record), write(record, folder)
    texts = prompts if record.uses_prompt else ("",)
    reference, pictures = make(subject), list(images.values())
    expected = torch.tensor([[reference(files, image, text) for text in texts] for image in pictures])
    loader = partial(load, subject, weights=files)
    return _measure(base, expected, loader, pictures, texts, reference=title, mutants=MUTANTS)


def compare_official(
    record: RewardInfo,
    folder: Path,
    names: Sequence[str],
    prompts: Sequence[str],
    scratch: Path,
    *,
    full: bool,
) -> Parity:
    """The reward against the official package on one checkpoint of random weights written to ``scratch``.

    ``names`` are pictures below ``folder``. With ``full`` the architecture has the published size, and there
    are no mutants: the small one has shown that they are noticed.
    """
    checkpoint: Checkpoint = OFFICIAL[record.entry](record, scratch, full=full)
    paths = [folder / name for name in names]
    answer = checkpoint.official(paths, prompts, repeats=1)
    pictures = [Image.open(path).convert("RGB") for path in paths]
    package = checkpoint.package
    base = Parity(
        record.name,
        record.profile,
        f"{package} {answer['versions'][package]}",
        "random, of the published size" if full else "random, small",
    )
    loader = partial(load, checkpoint.record, weights=checkpoint.files)
    mutants = {} if full else MUTANTS
    return _measure(
        base,
        torch.tensor(answer["scores"]),
        loader,
        pictures,
        prompts,
        mutants=mutants,
        official_seconds=answer["hoisted"][0],
    )


def _shipped(record: RewardInfo) -> bool:
    return bool(record.weights) and all(file.package for file in record.weights)


def _measure(
    base: Parity,
    expected: Tensor,
    loader: Callable[[], Reward],
    pictures: Sequence[Image.Image],
    prompts: Sequence[str],
    *,
    mutants: Mapping[str, Any],
    reference: str = "",
    official_seconds: float | None = None,
) -> Parity:
    reward = loader()
    if official_seconds is not None:  # theirs was warm too
        _scores(reward, pictures, prompts)
    started = time.perf_counter()
    ours = _scores(reward, pictures, prompts)
    seconds = time.perf_counter() - started
    rank = 1.0 if expected.numel() < 2 else float(spearmanr(expected.flatten(), ours.flatten()).statistic)
    return Parity(
        reward=base.reward,
        profile=base.profile,
        reference=reference or base.reference,
        weights=base.weights,
        pairs=expected.numel(),
        spread=float(expected.std()),
        difference=float((ours - expected).abs().max()),
        rank=rank,
        speed=None if official_seconds is None else official_seconds / seconds,
        mutants=dict(_mutants(expected, loader, pictures, prompts, mutants)),
    )


def _mutants(
    expected: Tensor,
    loader: Callable[[], Reward],
    pictures: Sequence[Image.Image],
    prompts: Sequence[str],
    mutants: Mapping[str, Any],
) -> Iterator[tuple[str, float]]:
    """Largest difference of each mutant whose fault was met."""
    for name, mutant in mutants.items():
        broken, reward = Broken(), loader()
        with mutant(reward, broken):
            scores = _scores(reward, pictures, prompts)
        if broken.met:
            yield name, float((scores - expected).abs().nan_to_num(nan=torch.inf).max())


def _scores(reward: Reward, pictures: Sequence[Image.Image], prompts: Iterable[str]) -> Tensor:
    """(pictures, prompts)."""
    with torch.no_grad():
        return torch.stack([reward.score(pictures, [text] * len(pictures)) for text in prompts], dim=1)
