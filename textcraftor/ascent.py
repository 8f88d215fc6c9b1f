"""Test-time optimisation: gradient ascent on the reward of each image.

ReNO (Eyring et al. 2024) changes the initial noise. Prompt-embedding optimisation keeps the noise and changes
the text embedding of the prompt. Both differentiate the reward of the final image through all sampling
steps.

Notation: noise eps (B, C, h, w), clean latents x0 (B, C, h, w), d = C h w.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from rewards.combine.mix import RewardMix
from textcraftor.algorithms.latent_scores import LatentScorer
from textcraftor.diffusion.conditioning import Conditioning
from textcraftor.diffusion.runner import PipelineRunner
from textcraftor.diffusion.sampling import Denoiser, Rollout, with_timesteps

_NOISE_CLIP = 0.1
"""Largest gradient norm of one image's noise (ReNO)."""

_MOMENTUM = 0.9
"""Nesterov momentum of the noise (ReNO)."""

_NORM_WEIGHT = 0.01
"""Weight of the noise's norm in the objective (ReNO)."""

_Inputs = tuple[Tensor, Mapping[int, Conditioning]]
"""What B images are generated from: noise (B, C, h, w), and conditionings as in `PipelineRunner.generate`."""


def _norm_log_likelihood(noise: Tensor) -> Tensor:
    """Return the log-likelihood (B,) of the norm of standard normal noise, up to a constant.

    K(eps) = (d - 1) log||eps|| - ||eps||^2 / 2. It is highest at a norm of sqrt(d - 1).

    Source: Samuel et al. 2023 (Norm-guided latent space exploration), the density of the chi distribution.

    Args:
        noise: Noise (B, C, h, w).
    """
    norm = noise.flatten(1).norm(dim=1)
    likelihood: Tensor = (noise[0].numel() - 1) * norm.log() - norm.square() / 2
    return likelihood


@dataclass(frozen=True)
class RewardAscent:
    """Optimises what images are generated from, for the reward of each image."""

    runner: PipelineRunner
    """The pipeline; it must not add noise in its steps, nor rescale its guidance."""
    scorer: LatentScorer
    """Decodes and scores latents."""
    target: str
    """What is optimised: "noise", or "embedding", which needs the same conditioning in all steps."""
    iterations: int
    """Number of gradient steps; 0: nothing changes."""
    lr: float
    """Learning rate: of SGD for the noise, of Adam for the embedding."""
    denoiser: Denoiser
    """Guided UNet call."""

    @classmethod
    def of_runner(
        cls, runner: PipelineRunner, mix: RewardMix, target: str, iterations: int, lr: float
    ) -> RewardAscent:
        """Freeze a pipeline and return its optimisation for a reward mix."""
        pipe = runner.pipe
        for component in pipe.components.values():
            if isinstance(component, nn.Module):
                component.requires_grad_(False)
        # decoding in half precision overflows in SDXL's VAE
        vae = copy.deepcopy(pipe.vae).float() if pipe.vae.dtype == torch.float16 else pipe.vae
        denoiser = Denoiser.of_pipeline(pipe, runner.schedule.guidance, runner.size)
        return cls(runner, LatentScorer(vae, mix), target, iterations, lr, denoiser)

    def optimise(self, texts: Sequence[str], prompts: Sequence[str], noise: Tensor) -> _Inputs:
        """Optimise B images.

        An image whose reward or gradient is not finite stops there. Images do not depend on their batch, up
        to rounding.

        Args:
            texts: B prompts for the pipeline.
            prompts: B prompts for the rewards.
            noise: Standard normal noise (B, C, h, w).

        Returns:
            Noise and conditionings of each image's best iteration by the reward mix, for
            `PipelineRunner.generate`. The start counts as an iteration.
        """
        with torch.no_grad():
            conditionings = self.runner.conditionings(texts)
        noise = noise.to(self.runner.pipe.device)
        if not self.iterations:
            return noise, conditionings
        if self.target == "noise":
            (noise,) = self._ascend([noise], lambda parts: (parts[0], conditionings), prompts)
            return noise, conditionings
        ((steps, c),) = conditionings.items()

        def inputs(parts: Sequence[Tensor]) -> _Inputs:
            # the rows of the empty prompt stay
            rows = [torch.cat([own[: -len(part)], part]) for own, part in zip(c.tensors, parts, strict=True)]
            return noise, {steps: Conditioning(*rows)}

        best = self._ascend(c.of_prompts(len(texts)).tensors, inputs, prompts)
        same_precision = [part.to(own.dtype) for own, part in zip(c.tensors, best, strict=True)]
        return inputs(same_precision)

    def _ascend(
        self, start: Sequence[Tensor], inputs: Callable[[Sequence[Tensor]], _Inputs], prompts: Sequence[str]
    ) -> list[Tensor]:
        """Return tensors of B rows after gradient ascent, each row from its best iteration."""
        # at least float32: a step can be smaller than the resolution of half precision
        leaves = [
            part.detach().to(torch.promote_types(part.dtype, torch.float32), copy=True).requires_grad_()
            for part in start
        ]
        optimiser = self._optimiser(leaves)
        best = [leaf.detach().clone() for leaf in leaves]
        best_rewards = torch.full((len(prompts),), -torch.inf, device=best[0].device)
        active = torch.ones_like(best_rewards, dtype=torch.bool)
        for iteration in range(self.iterations + 1):
            last = iteration == self.iterations
            rewards, gradients = self._evaluate(leaves, inputs, prompts, with_gradient=not last)
            active &= rewards.isfinite()
            better = active & (rewards > best_rewards)
            best_rewards = torch.where(better, rewards, best_rewards)
            best = [_choose(better, leaf.detach(), kept) for leaf, kept in zip(leaves, best, strict=True)]
            for gradient in gradients:
                active &= gradient.flatten(1).isfinite().all(dim=1)
            if last or not active.any():
                break
            for leaf, gradient in zip(leaves, gradients, strict=True):
                leaf.grad = _choose(active, gradient, torch.zeros_like(gradient))
            optimiser.step()  # momentum moves rows that have stopped, too; their rewards are ignored
        return best

    def _optimiser(self, leaves: Sequence[Tensor]) -> torch.optim.Optimizer:
        if self.target == "noise":
            return torch.optim.SGD(leaves, lr=self.lr, momentum=_MOMENTUM, nesterov=True, maximize=True)
        return torch.optim.Adam(leaves, lr=self.lr, maximize=True)

    def _evaluate(
        self,
        leaves: Sequence[Tensor],
        inputs: Callable[[Sequence[Tensor]], _Inputs],
        prompts: Sequence[str],
        *,
        with_gradient: bool,
    ) -> tuple[Tensor, Sequence[Tensor]]:
        """Return rewards (B,), NaN where they are not finite, and the objective's gradient at each leaf."""
        with torch.set_grad_enabled(with_gradient):
            noise, conditionings = inputs(leaves)
            x0 = self._sample(noise, conditionings)
        if not with_gradient:
            return self.scorer.score_latents(x0, prompts).rewards(), []
        scores = self.scorer.score_latents_with_gradient(x0.detach(), prompts)
        if self.target == "embedding":
            return scores.rewards(), torch.autograd.grad(x0, leaves, scores.gradient)
        with torch.enable_grad():
            likelihood = _NORM_WEIGHT * _norm_log_likelihood(noise).sum()
        gradients = torch.autograd.grad([x0, likelihood], leaves, [scores.gradient, None])
        return scores.rewards(), [_clip_rows(gradient, _NOISE_CLIP) for gradient in gradients]

    def _sample(self, noise: Tensor, conditionings: Mapping[int, Conditioning]) -> Tensor:
        """Return the clean latents x0 of noise, with their graph where gradients are enabled."""
        # a new scheduler each time: multistep samplers keep outputs of earlier steps
        pipe, steps = self.runner.pipe, self.runner.schedule.steps
        scheduler = with_timesteps(pipe.scheduler, steps, device=pipe.device)
        rollout = Rollout(self.denoiser, scheduler, scheduler.timesteps, checkpointed=steps > 1)
        z: Tensor = noise * scheduler.init_noise_sigma
        for index, t in enumerate(rollout.timesteps):
            c = _due(conditionings, scheduler, index)
            z = rollout.step(rollout.output(z, t, c), t, z)
        return z


def _due(conditionings: Mapping[int, Conditioning], scheduler: Any, index: int) -> Conditioning:
    """Return the conditioning of UNet evaluation number ``index``, as the pipeline chooses it."""
    # one step of a sampler of second order is two evaluations
    left = -(-len(scheduler.timesteps) // scheduler.order) - index // scheduler.order
    return conditionings[min((steps for steps in conditionings if steps >= left), default=max(conditionings))]


def _choose(rows: Tensor, new: Tensor, old: Tensor) -> Tensor:
    """Return ``new`` in the rows of a mask (B,), and ``old`` in the others."""
    return torch.where(rows[(...,) + (None,) * (new.ndim - 1)], new, old)


def _clip_rows(gradient: Tensor, most: float) -> Tensor:
    """Scale each row of a gradient (B, ...) to a norm of at most ``most``."""
    norms = gradient.flatten(1).norm(dim=1)[(...,) + (None,) * (gradient.ndim - 1)]
    clipped: Tensor = gradient * (most / (norms + 1e-6)).clamp(max=1)
    return clipped
