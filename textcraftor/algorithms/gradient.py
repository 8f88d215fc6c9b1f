"""Training by the gradient of the reward mix, through the sampling chain (TextCraftor)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from torch import Tensor

from textcraftor.algorithms.base import Algorithm, StepResult
from textcraftor.algorithms.constraints import Constraints
from textcraftor.algorithms.latent_scores import LatentScores
from textcraftor.diffusion.estimators import ESTIMATORS, UpdateRandom
from textcraftor.diffusion.sampling import autocast
from textcraftor.sources import Batch, Sample


@dataclass
class GradientAlgorithm(Algorithm):
    """One optimiser step per update, along an estimate of the reward mix's gradient.

    Source: Li et al. 2024 (TextCraftor), algorithm 1. Estimators: `textcraftor.diffusion.estimators`.
    """

    constraints: Constraints = field(default_factory=lambda: Constraints(()), kw_only=True)
    """Multipliers of rewards that must not fall; the scorer uses them."""

    def step(self, batch: Batch) -> StepResult:
        """Accumulate the gradients of all samples and make one optimiser step."""
        scores: list[LatentScores] = []
        drift, evaluations = 0.0, 1
        for samples in self.micro_batches(batch.samples):
            # Each micro-batch counts by its share of the samples, so that the sum of the gradients is that of
            # the mean loss over the whole batch
            share = len(samples) / len(batch.samples)
            loss, part, part_drift = self.loss(samples, batch.update)
            (loss * share).backward()  # type: ignore[no-untyped-call]
            evaluations = len(part)
            scores.append(part[-1].skipping(part))
            drift += part_drift * len(samples)
        grad_norm = self.optimiser.step()
        drift /= len(batch.samples)
        joined, extra = LatentScores.join(scores), self.constraints.row
        self.constraints.update(self._mean_values(joined))
        return StepResult(batch.samples, joined, drift, grad_norm, evaluations, extra)

    def _mean_values(self, scores: LatentScores) -> dict[str, float]:
        """Return the means of the constrained rewards, standardised, over the samples of all processes.

        Skipped samples are left out.
        """
        means = {}
        for name in self.constraints.names:
            term = replace(self.scorer.mix.terms[name], weight=1.0)
            own = term.value(scores.scores[name]).where(scores.finite, math.nan)
            values = self.optimiser.accelerator.gather(own)
            means[name] = float(values.cpu().double().nanmean())
        return means

    def state(self) -> dict[str, Tensor]:
        """Return the multipliers of constrained rewards."""
        return self.constraints.state()

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Resume from what `state` returned."""
        self.constraints.load_state(state)

    def loss(self, samples: Sequence[Sample], update: int) -> tuple[Tensor, list[LatentScores], float]:
        """Compute the mean loss of ``samples``.

        Returns:
            A scalar whose gradient is the estimate; the scores of each time that latents were scored (more
            than one for the low-variance estimator); the drift of the embeddings.
        """
        texts = [sample.text for sample in samples]
        evaluations: list[LatentScores] = []

        def reward_gradient(x0: Tensor) -> Tensor:
            # supervised fine-tuning ("denoising") logs rewards only, so they need not be differentiable
            supervised = self.settings.name == "denoising"
            score = self.scorer.score_latents if supervised else self.scorer.score_latents_with_gradient
            evaluations.append(score(x0, texts))
            return evaluations[-1].gradient

        with autocast(self.trainable.original.device, self.precision):
            original, c = self.trainable.encode_original(texts), self.trainable.encode(texts)
            rollout, z = self.start(samples, original)
            random = UpdateRandom(self.seed, update, [sample.number for sample in samples])
            surrogate = ESTIMATORS[self.settings.name](rollout, z, c, reward_gradient, random)
            drift = c.drift(original)
            # the optimiser minimises: minus the mean reward, plus the penalty that keeps c near the original
            loss = self.settings.drift_penalty * drift - surrogate / len(samples)
        return loss, evaluations, float(drift.detach())
