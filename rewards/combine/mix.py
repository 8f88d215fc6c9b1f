"""A weighted sum of rewards, as TextCraftor and its kin maximise (Li et al. 2024, equation 7)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from rewards.combine.calibration import Calibration
from rewards.combine.panel import Panel
from rewards.info import RewardInfo
from rewards.registry import info

if TYPE_CHECKING:
    from PIL.Image import Image


@dataclass(frozen=True)
class Part:
    """A reward's share of a mix: ``weight`` x (min(score, cap) - mean) / std.

    ``mean`` and ``std`` are those of the reward's scores on some pictures; 0 and 1 leave the official scale.
    """

    weight: float
    cap: float = math.inf
    mean: float = 0.0
    std: float = 1.0

    def value(self, scores: Tensor) -> Tensor:
        """Scores (B,) to the part's values (B,)."""
        return self.weight * (scores.clamp(max=self.cap) - self.mean) / self.std


@dataclass(frozen=True)
class Mixed:
    """What a mix gave: its ``total`` (B,), each reward's ``scores`` (B,), each part's ``values`` (B,)."""

    total: Tensor
    scores: Mapping[str, Tensor]
    values: Mapping[str, Tensor]


@dataclass(frozen=True)
class Gradient(Mixed):
    """The same with the gradient of the total's sum at the ``images`` (B, 3, H, W).

    ``norms`` (B,) are the lengths of each part's own gradient at each image: what pulls hardest.
    """

    images: Tensor
    norms: Mapping[str, Tensor]


def parse(text: str) -> dict[str, Part]:
    """``aesthetic-v2=1,hpsv2=100@0.3``: a weight a reward, after ``@`` the score above which it pays no more.

    Raises ValueError, which says what is wrong, and `UnknownName` for a reward that there is not.
    """
    parts: dict[str, Part] = {}
    for term in filter(None, (term.strip() for term in text.split(","))):
        name, equals, amount = term.rpartition("=")
        weight, at, cap = amount.partition("@")
        try:
            part = Part(float(weight), float(cap) if at else math.inf)
        except ValueError:
            equals = ""
        if not equals or not name or not math.isfinite(part.weight) or math.isnan(part.cap):
            raise ValueError(f"{term!r} is no reward's share of a mix; write name=weight or name=weight@cap")
        if name in parts:
            raise ValueError(f"the mix names {name} twice; give it one weight")
        info(name)
        parts[name] = part
    if not parts:
        raise ValueError("a mix needs at least one reward, such as pickscore=1,clip=100")
    return parts


class Mix:
    """A panel's rewards, weighted and summed.

    Weights are of the official scores, or with a ``calibration`` of scores that are standardised by it first.
    """

    def __init__(
        self, panel: Panel, parts: Mapping[str, Part], calibration: Calibration | None = None
    ) -> None:
        if set(parts) != set(panel.names):
            raise ValueError(
                f"the mix is of {', '.join(parts)}, the panel of {', '.join(panel.names)}; "
                "they must be the same"
            )
        self.panel, self.parts = panel, {name: parts[name] for name in panel.names}
        if calibration is not None:
            self.parts = {name: self._standardised(name, calibration) for name in panel.names}

    def score(self, images: Tensor | Sequence[Image], prompts: Sequence[str] | None = None) -> Mixed:
        """The mix of images, as `Panel.score` takes them; gradients of the total reach the images."""
        scores = self.panel.score(images, prompts)
        values = {name: self.parts[name].value(scores[name]) for name in scores}
        return Mixed(torch.stack(list(values.values())).sum(dim=0), scores, values)

    def gradient(self, images: Tensor, prompts: Sequence[str] | None = None) -> Gradient:
        """The mix of ``images`` (B, 3, H, W) with its gradient at them, a reward at a time.

        An offloaded panel's rewards take turns on the device here too. Raises ValueError for a reward that
        has no gradient.
        """
        self._check_differentiable()
        leaf = images.detach().requires_grad_()
        scores, values, norms = {}, {}, {}
        total = torch.zeros_like(leaf)
        with torch.enable_grad():
            for name, found in self.panel.each(leaf, prompts):
                value = self.parts[name].value(found)
                (own,) = torch.autograd.grad(value.sum(), leaf, retain_graph=not self.panel.offload)
                total += own
                norms[name] = own.flatten(1).norm(dim=1)
                scores[name], values[name] = found.detach(), value.detach()
                del found, value  # with their graph, before the next reward makes its own
        return Gradient(torch.stack(list(values.values())).sum(dim=0), scores, values, total, norms)

    def _standardised(self, name: str, calibration: Calibration) -> Part:
        measured = calibration.of(name, self.panel[name].score_id)
        return replace(self.parts[name], mean=measured.mean, std=measured.std)

    def _check_differentiable(self) -> None:
        records: list[RewardInfo] = [self.panel[name].info for name in self.parts]
        blind = [record.name for record in records if not record.differentiable]
        if blind:
            raise ValueError(
                f"{', '.join(blind)} has no gradient; use it in reinforcement learning or to report, not here"
            )
