"""A weighted sum of rewards, the objective of TextCraftor (Li et al. 2024, equation 7)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from rewards.combine.calibration import Calibration, RewardStatistics
from rewards.combine.panel import LocalWeights, Panel
from rewards.combine.terms import MixTerm, parse_mix
from tcbench.errors import TcbenchError

if TYPE_CHECKING:
    from PIL.Image import Image


Measure = Callable[[Panel, Sequence[str]], Mapping[str, RewardStatistics]]
"""Callback that measures rewards missing from a calibration: gets the panel and the names in it, returns
their statistics by name."""


@dataclass(frozen=True)
class _MixScores:
    """Scores of B images by a mix."""

    total: Tensor
    """Sum of the terms' values, (B,)."""
    scores: Mapping[str, Tensor]
    """Official scores (B,) by reward."""
    values: Mapping[str, Tensor]
    """Values (B,) of the terms by reward: capped, standardised and weighted scores."""


@dataclass(frozen=True)
class _MixGradient(_MixScores):
    """Scores of B images by a mix, and the gradient of the total at the images."""

    gradient: Tensor
    """Gradient of the sum of ``total`` with respect to the images, (B, 3, H, W)."""
    norms: Mapping[str, Tensor]
    """L2 norm (B,) of each term's own gradient at each image, by reward: which term pulls hardest."""


class RewardMix:
    """A weighted sum of the rewards of a panel. `load_mix` makes one from a text.

    Args:
        panel: The rewards.
        terms: One term for each reward of the panel, by name.
        calibration: Means and deviations that standardise the scores before they are weighted. Without
            it the weights apply to official scores.

    Raises:
        ValueError: If the names of ``terms`` and ``panel`` differ, or the calibration lacks a reward.
    """

    def __init__(
        self, panel: Panel, terms: Mapping[str, MixTerm], calibration: Calibration | None = None
    ) -> None:
        if set(terms) != set(panel.names):
            raise ValueError(
                f"the mix has the rewards {', '.join(terms)}, the panel has {', '.join(panel.names)}; "
                "give both the same rewards"
            )
        self.panel = panel
        self.terms = {name: terms[name] for name in panel.names}
        if calibration is not None:
            self.terms = {name: self._calibrated(name, calibration) for name in panel.names}

    @property
    def scales(self) -> dict[str, dict[str, float]]:
        """Mean and deviation that standardise each term, by reward; 0 and 1 without a calibration."""
        return {name: {"mean": term.mean, "std": term.std} for name, term in self.terms.items()}

    def score(self, images: Tensor | Sequence[Image], prompts: Sequence[str] | None = None) -> _MixScores:
        """Score images, which are given as to `Panel.score`. Gradients of the total reach the images."""
        scores = self.panel.score(images, prompts)
        values = {name: self.terms[name].value(scores[name]) for name in scores}
        return _MixScores(torch.stack(list(values.values())).sum(dim=0), scores, values)

    def gradient(
        self,
        images: Tensor,
        prompts: Sequence[str] | None = None,
        *,
        balance: bool = False,
        factors: Mapping[str, float] = MappingProxyType({}),
    ) -> _MixGradient:
        """Score images and compute the gradient of the total, one reward after another.

        The gradient of a sum is the sum of the gradients, so only one reward's graph needs to be in memory,
        and the rewards of an offloaded panel can take turns on the device.

        Args:
            images: Float tensor (B, 3, H, W), RGB in [0, 1].
            prompts: One text per image; may be None if no reward of the mix reads prompts.
            balance: Whether to scale each term's gradient at each image to the length of its weight. A
                gradient of 0, as above a cap, stays 0.
            factors: Factors of the terms' gradients by reward, 1 if absent. The scores and the total are not
                changed.

        Raises:
            ValueError: If a reward of the mix has no gradient.
            TcbenchError: If the scores of a reward that declares a gradient do not depend on the images.
        """
        self._check_differentiable()
        leaf = images.detach().requires_grad_()
        scores, values, norms = {}, {}, {}
        total = torch.zeros_like(leaf)
        with torch.enable_grad():
            for name, score in self.panel.each(leaf, prompts):
                value = self.terms[name].value(score)
                own = self._gradient_of(name, value, leaf, prompts)
                norms[name] = own.flatten(1).norm(dim=1)
                if balance:
                    length = norms[name].clamp_min(torch.finfo(own.dtype).tiny)
                    own = own * (abs(self.terms[name].weight) / length)[:, None, None, None]
                total += factors.get(name, 1.0) * own
                scores[name], values[name] = score.detach(), value.detach()
                # The loop's variables would keep this graph alive while the next reward builds its own.
                del score, value
        return _MixGradient(torch.stack(list(values.values())).sum(dim=0), scores, values, total, norms)

    def _gradient_of(
        self, name: str, values: Tensor, images: Tensor, prompts: Sequence[str] | None
    ) -> Tensor:
        """Return the gradient (B, 3, H, W) of one term's values (B,) at the images.

        Raises:
            TcbenchError: If scores that are finite do not depend on the images.
        """
        own: Tensor | None = None
        if values.requires_grad:
            # Rewards that share a tower or a preprocessing share that part of the graph, so it is kept for
            # the next one. An offloaded panel shares nothing across turns and frees it at once.
            (own,) = torch.autograd.grad(
                values.sum(), images, retain_graph=not self.panel.offload, allow_unused=True
            )
        if own is not None:
            return own
        # A reward may return constant NaN for prompts that it cannot judge
        judged = values.isfinite().nonzero().flatten().tolist()
        if judged:
            example = f" (prompt {prompts[judged[0]]!r})" if prompts is not None else ""
            raise TcbenchError(
                f"{name} returned scores that do not depend on the images{example}; compute them from the "
                "pixels with torch operations, without detach(), no_grad(), item() or numpy(), or declare "
                "differentiable=False and use reinforcement learning (--profile ddpo)"
            )
        return torch.zeros_like(images)

    def _calibrated(self, name: str, calibration: Calibration) -> MixTerm:
        # By the record's name, under which runs keep scores, and by score id, so that statistics of another
        # version of the reward are never applied.
        reward = self.panel[name]
        statistics = calibration.statistics(reward.info.name, reward.score_id)
        return replace(self.terms[name], mean=statistics.mean, std=statistics.std)

    def _check_differentiable(self) -> None:
        without = [name for name in self.terms if not self.panel[name].info.differentiable]
        if without:
            raise ValueError(
                f"no gradient: {', '.join(without)}; use such rewards in reinforcement learning or reports"
            )


def load_mix(
    mix: str | Mapping[str, MixTerm],
    *,
    calibration: str | Path | Calibration | None = None,
    device: str = "cpu",
    dtype: str = "float32",
    weights: LocalWeights | None = None,
    offload: bool = False,
    measure: Measure | None = None,
) -> RewardMix:
    """Load the rewards of a mix.

    Args:
        mix: A text such as "pickscore=1,hpsv2=100@0.3" (see `parse_mix`), or terms by reward name.
        calibration: "world" or the path of a calibration file (see `tcbench calibrate`), to weight
            standardised scores; None or "" to weight official scores.
        device: Where scores are computed, such as "cuda".
        dtype: Precision of the models, such as "float32" or "bfloat16".
        weights: Local copies of weights, reward name -> key -> path.
        offload: Keep the rewards on the CPU and move one at a time to the device.
        measure: Measures the rewards that the calibration lacks; without it they are an error.

    Raises:
        ConfigError: If the text is not a mix.
        UnknownName: If a reward does not exist.
        MissingFiles: If weights are missing; the message says how to get them.
        ValueError: If the calibration is unreadable or lacks a reward.
    """
    terms = parse_mix(mix) if isinstance(mix, str) else mix
    if calibration is not None and not isinstance(calibration, Calibration):
        calibration = Calibration.read(calibration) if str(calibration) else None
    panel = Panel(list(terms), device=device, dtype=dtype, weights=weights, offload=offload)
    if calibration is not None and measure is not None:
        calibration = _completed(calibration, panel, measure)
    return RewardMix(panel, terms, calibration)


def _completed(calibration: Calibration, panel: Panel, measure: Measure) -> Calibration:
    """Return the calibration with the statistics of all rewards of the panel."""
    lacking = [n for n in panel.names if not calibration.covers(panel[n].info.name, panel[n].score_id)]
    measured = measure(panel, lacking) if lacking else {}
    by_name = {panel[name].info.name: statistics for name, statistics in measured.items()}
    return replace(calibration, rewards={**calibration.rewards, **by_name})
