"""Estimators of a reward's gradient with respect to what is trained, from differentiable sampling.

Notation of Li et al. 2024 (TextCraftor): z are latents (B, C, h, w), t a timestep, c the text conditioning,
e the guided output of the UNet, x0 clean latents (B, C, h, w), K the number of tuned steps.

An estimator does not see the reward. It passes the x0 that it reaches to ``reward_gradient`` and gets dR/dx0
back. So the graph of VAE and rewards is freed before backpropagation through the UNet begins, and the two are
never in memory together.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import count
from types import MappingProxyType

import numpy as np
import torch
from torch import Tensor

from textcraftor.diffusion.conditioning import Conditioning
from textcraftor.diffusion.prompts import initial_latents, noise_seed
from textcraftor.diffusion.sampling import EXTRA_NOISE, Rollout


class UpdateRandom:
    """Random numbers of one optimiser update.

    They depend on the seed, the update and a sample's number alone: not on the batch, the process or on
    earlier updates. So a resumed run and a run on other devices use the same ones.
    """

    def __init__(self, seed: int, update: int, sample_numbers: Sequence[int]) -> None:
        self._seed, self._update, self._sample_numbers = seed, update, sample_numbers
        self._step = count()

    def integer(self, limit: int) -> int:
        """Return a whole number from 0 to limit - 1, the same for all samples of the update."""
        return int(np.random.default_rng([self._seed, self._update]).integers(limit))

    def noise(self, z: Tensor) -> Tensor:
        """Return standard normal noise in z's shape; row i depends on sample i alone."""
        return self.noise_of_step(next(self._step), z)

    def noise_of_step(self, step: int, z: Tensor) -> Tensor:
        """Return the noise of a numbered step, which does not depend on the update."""
        seeds = [noise_seed(self._seed, number, EXTRA_NOISE + step) for number in self._sample_numbers]
        return initial_latents(seeds, (z.shape[1], z.shape[2], z.shape[3])).to(z)


# Estimators. Each returns a scalar surrogate: its gradient with respect to trained parameters is the estimate
# of the gradient of the reward's sum over the batch; its value has no meaning.

RewardGradient = Callable[[Tensor], Tensor]
"""Maps clean latents x0 (B, C, h, w) without a graph to dR/dx0 (B, C, h, w), R the sum of rewards."""

Estimator = Callable[[Rollout, Tensor, Conditioning, RewardGradient, UpdateRandom], Tensor]
"""(the K tuned steps, latents z before them, c, reward gradient, random numbers) -> surrogate."""


def _chain(
    rollout: Rollout, z: Tensor, c: Conditioning, reward_gradient: RewardGradient, random: UpdateRandom
) -> Tensor:
    """Backpropagate through all K tuned steps.

    Source: Li et al. 2024 (TextCraftor), algorithm 1; Clark et al. 2024 (DRaFT-K).
    """
    return _surrogate(rollout.run(z, c), reward_gradient)


def _truncation(
    rollout: Rollout, z: Tensor, c: Conditioning, reward_gradient: RewardGradient, random: UpdateRandom
) -> Tensor:
    """Backpropagate through the last k of the K steps, with a random k for each update.

    Source: Prabhudesai et al. 2023 (AlignProp), randomised truncation.
    """
    before, after = rollout.split(random.integer(len(rollout.timesteps)))
    # The steps before the cut are sampled with the tuned conditioning too, only without a graph
    with torch.no_grad():
        z = before.run(z, c)
    return _surrogate(after.run(z, c), reward_gradient)


def _one_step(
    rollout: Rollout, z: Tensor, c: Conditioning, reward_gradient: RewardGradient, random: UpdateRandom
) -> Tensor:
    """Score the x0 that is predicted at one random step of the K, instead of finishing the chain.

    Source: Xu et al. 2023 (ImageReward), algorithm 1 (ReFL).
    """
    before, after = rollout.split(random.integer(len(rollout.timesteps)))
    with torch.no_grad():
        z = before.run(z, c)
    t = after.timesteps[0]
    return _surrogate(rollout.forward_process.predict_x0(rollout.output(z, t, c), t, z), reward_gradient)


LOW_VARIANCE_NOISES = 2
"""Number n of fresh noises that `_low_variance` averages over."""


def _low_variance(
    rollout: Rollout, z: Tensor, c: Conditioning, reward_gradient: RewardGradient, random: UpdateRandom
) -> Tensor:
    """Average the gradient of the last step over n fresh noises of the same x0.

    Source: Clark et al. 2024 (DRaFT), section 4.1 (DRaFT-LV).
    """
    t = rollout.timesteps[-1]
    # x0 is sampled without a graph: only the last step, from each re-noised copy, carries gradients
    with torch.no_grad():
        x0 = rollout.run(z, c)
    surrogates = []
    for _ in range(LOW_VARIANCE_NOISES):
        noised = rollout.forward_process.add_noise(x0, t, random.noise(x0))
        e = rollout.output(noised, t, c)
        surrogates.append(_surrogate(rollout.forward_process.predict_x0(e, t, noised), reward_gradient))
    # one surrogate is a sum over samples, so their mean estimates the same gradient with less variance
    return torch.stack(surrogates).mean()


def _detached_chain(
    rollout: Rollout, z: Tensor, c: Conditioning, reward_gradient: RewardGradient, random: UpdateRandom
) -> Tensor:
    """Backpropagate through the chain, but not through the UNet's latent input.

    The product of the UNet's Jacobians with respect to z is what makes gradients of early steps explode;
    without it every step contributes directly.

    Source: Wu et al. 2024 (DRTune).
    """
    for t in rollout.timesteps:
        z = rollout.step(rollout.output(z.detach(), t, c), t, z)
    return _surrogate(z, reward_gradient)


def _conditioning_only(
    rollout: Rollout, z: Tensor, c: Conditioning, reward_gradient: RewardGradient, random: UpdateRandom
) -> Tensor:
    """Compute the gradient of `_detached_chain` at the conditioning, in memory that does not grow with K.

    Without gradients through the UNet's latent input, x0 depends on c only through the outputs e_1 .. e_K,
    and on those only through the scheduler's formula, which is cheap. So:

    1. run the steps without the UNet's graph and record each e_k as a leaf;
    2. backpropagate through the scheduler's formula once: this gives dR/de_k for all k;
    3. run each step again, alone, for its vector-Jacobian product (de_k/dc)^T dR/de_k.

    The graph of one step is freed before the next is built. Weights of the UNet get no gradient.
    """
    inputs, outputs = [], []
    with torch.enable_grad():
        for t in rollout.timesteps:
            inputs.append(rollout.scheduler.scale_model_input(z.detach(), t))
            with torch.no_grad():
                e = rollout.denoiser(inputs[-1], t, c)
            outputs.append(e.requires_grad_())
            z = rollout.step(outputs[-1], t, z)
        output_gradients = torch.autograd.grad(z, outputs, reward_gradient(z.detach()))
        leaf = c.leaf()
        total = [torch.zeros_like(part) for part in leaf.tensors]
        for t, scaled, gradient in zip(rollout.timesteps, inputs, output_gradients, strict=True):
            step_gradient = torch.autograd.grad(rollout.denoiser(scaled, t, leaf), leaf.tensors, gradient)
            total = [old + new for old, new in zip(total, step_gradient, strict=True)]
        # <c, dR/dc> with a constant second factor: its gradient is dR/dc, which is backpropagated into the
        # encoder
        return torch.stack([(p * g).sum() for p, g in zip(c.tensors, total, strict=True)]).sum()


def _direct(
    rollout: Rollout, x0: Tensor, c: Conditioning, reward_gradient: RewardGradient, random: UpdateRandom
) -> Tensor:
    """Noise the latents x0 of real images to a random timestep, predict them in one step, score the result.

    Source: Li et al. 2024 (TextCraftor), section 3.2 (direct fine-tuning, the paper's weak baseline).
    """
    # any timestep of the training schedule, not only those of the sampling steps
    t = torch.tensor(random.integer(rollout.scheduler.config.num_train_timesteps), device=x0.device)
    z = rollout.forward_process.add_noise(x0, t, random.noise(x0))
    return _surrogate(rollout.forward_process.predict_x0(rollout.output(z, t, c), t, z), reward_gradient)


def _denoising(
    rollout: Rollout, x0: Tensor, c: Conditioning, reward_gradient: RewardGradient, random: UpdateRandom
) -> Tensor:
    """Take the ordinary diffusion loss on latents x0, without guidance.

    On images that a reward selected this is supervised fine-tuning on the best (RAFT).

    Source: Ho et al. 2020 (DDPM), equation 14; Dong et al. 2023 (RAFT).
    """
    t = torch.tensor(random.integer(rollout.scheduler.config.num_train_timesteps), device=x0.device)
    noise = random.noise(x0)
    z = rollout.forward_process.add_noise(x0, t, noise)
    e = rollout.output(z, t, c.of_prompts(len(x0)))
    error = (e - rollout.forward_process.target(x0, t, noise)).square().flatten(1).mean(dim=1)
    # only so that rewards are logged: their gradient is not used
    reward_gradient(rollout.forward_process.predict_x0(e.detach(), t, z))
    return -error.sum()


def _surrogate(x0: Tensor, reward_gradient: RewardGradient) -> Tensor:
    """Return <x0, dR/dx0> with a constant second factor: by the chain rule its gradient is that of R."""
    return (x0 * reward_gradient(x0.detach())).sum()


ESTIMATORS: Mapping[str, Estimator] = MappingProxyType(
    {
        "chain": _chain,
        "truncation": _truncation,
        "one-step": _one_step,
        "low-variance": _low_variance,
        "conditioning": _conditioning_only,
        "detached-chain": _detached_chain,
        "direct": _direct,
        "denoising": _denoising,
    }
)
"""Estimators by the name that a configuration gives (``algorithm.name``)."""
