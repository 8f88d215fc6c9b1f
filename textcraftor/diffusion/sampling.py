"""Sampling with gradients: the steps of a diffusers scheduler, and estimators of a reward's gradient through
them, as pure functions of one shape.

Notation of Li et al. 2024 (TextCraftor): z latents (B, C, h, w), t a timestep, c the conditioning, e the
guided output of the UNet. An estimator does not see the reward: it hands the latents it ends with to a
``goal``, which gives back the gradient at them. So a reward's graph is gone before the UNet's is walked.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import count
from types import MappingProxyType
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from textcraftor.diffusion.conditioning import Conditioning

MEMORYLESS = ("DDIMScheduler", "EulerDiscreteScheduler")
"""Schedulers whose step looks at nothing but the latents and the output: a run can start in the middle."""


class Denoiser:
    """The UNet with classifier-free guidance: e = w e(z, c) - (w - 1) e(z, null), both in one call.

    ``time_ids`` (1, 6) is what SDXL is told of sizes; ``calls`` counts rows x
    UNet forwards, ``graphs`` those of them whose graph was kept, ``saved`` those that a cache made unneeded.
    """

    def __init__(self, unet: Any, guidance: float, time_ids: Tensor | None = None) -> None:
        self.unet, self.guidance, self.time_ids = unet, guidance, time_ids
        self.calls = self.graphs = self.saved = 0

    def __call__(self, z: Tensor, t: Tensor, c: Conditioning, *, again: bool = False) -> Tensor:
        """Outputs (B, C, h, w) in z's precision; ``again`` if their graph was made before, and let go."""
        copies = len(c.embeds) // len(z)
        self.calls += len(c.embeds)
        self.graphs += len(c.embeds) * (torch.is_grad_enabled() and not again)
        added = None
        if c.pooled is not None:
            assert self.time_ids is not None  # what pools its text is told sizes
            added = {"text_embeds": c.pooled, "time_ids": self.time_ids.expand(len(c.embeds), -1)}
        inputs = torch.cat([z] * copies).to(self.unet.dtype)
        hidden = c.embeds.to(self.unet.dtype)
        told = {"encoder_hidden_states": hidden, "added_cond_kwargs": added}
        output: Tensor = self.unet(inputs, t, **told).sample.to(z.dtype)
        if copies == 1:
            return output
        without, with_text = output.chunk(2)
        return without + self.guidance * (with_text - without)


@dataclass(frozen=True)
class Rollout:
    """Some consecutive steps of a sampling run. With ``checkpointed``, a step's graph is made again when
    its gradient is due, so memory grows by latents alone.
    """

    denoise: Denoiser
    scheduler: Any
    timesteps: Tensor
    checkpointed: bool = False

    def output(self, z: Tensor, t: Tensor, c: Conditioning) -> Tensor:
        """The guided output (B, C, h, w) at one timestep, with its graph."""
        scaled = self.scheduler.scale_model_input(z, t)
        if not self.checkpointed or not torch.is_grad_enabled():
            return self.denoise(scaled, t, c)
        times = count()

        def denoise(scaled: Tensor, *parts: Tensor) -> Tensor:
            return self.denoise(scaled, t, Conditioning(*parts), again=next(times) > 0)

        found: Tensor = checkpoint(denoise, scaled, *c.tensors, use_reentrant=False)
        return found

    def step(self, e: Tensor, t: Tensor, z: Tensor) -> Tensor:
        """The next latents, by the scheduler's own formula."""
        following: Tensor = self.scheduler.step(e, t, z).prev_sample
        return following

    def run(self, z: Tensor, c: Conditioning) -> Tensor:
        """The latents after all steps."""
        for t in self.timesteps:
            z = self.step(self.output(z, t, c), t, z)
        return z

    def split(self, count: int) -> tuple[Rollout, Rollout]:
        """The first ``count`` steps, and the rest: of one scheduler, to be run one after the other."""
        return (
            Rollout(self.denoise, self.scheduler, self.timesteps[:count], self.checkpointed),
            Rollout(self.denoise, self.scheduler, self.timesteps[count:], self.checkpointed),
        )


def fresh(scheduler: Any, steps: int, begin: int = 0, device: str | torch.device = "cpu") -> Any:
    """A copy of ``scheduler`` set to ``steps`` steps, of which the first to come is number ``begin``."""
    made = copy.deepcopy(scheduler)
    made.set_timesteps(steps, device=device)
    if begin and type(made).__name__ != "DDIMScheduler":  # which needs not be told
        made.set_begin_index(begin)
    return made


def predicted_x0(scheduler: Any, e: Tensor, t: Tensor, z: Tensor) -> Tensor:
    """The clean latents that an output stands for: (z - s e) / a of a noise, a z - s e of a velocity.

    Raises ValueError for a scheduler whose latents are not a x + s noise with a^2 + s^2 = 1.
    """
    if type(scheduler).__name__ != "DDIMScheduler":
        raise ValueError(
            f"one-step predictions need the sampler ddim, got {type(scheduler).__name__}; set sampler to "
            "ddim, or estimator to chain or conditioning"
        )
    a, s = (scale.to(z.device, z.dtype) for scale in _scales(scheduler, t))
    kind = scheduler.config.prediction_type
    if kind == "epsilon":
        return (z - s * e) / a
    return a * z - s * e if kind == "v_prediction" else e


def noised(scheduler: Any, x0: Tensor, t: Tensor, noise: Tensor) -> Tensor:
    """Clean latents at timestep t: a x0 + s noise."""
    a, s = (scale.to(x0.device, x0.dtype) for scale in _scales(scheduler, t))
    return a * x0 + s * noise


def _scales(scheduler: Any, t: Tensor) -> tuple[Tensor, Tensor]:
    """(a, s) of one timestep: how much of clean latents and of noise there is in z."""
    alpha = scheduler.alphas_cumprod.to(t.device)[t]
    return alpha.sqrt(), (1 - alpha).sqrt()


# Estimators


class Graded(Protocol):
    """What a goal says of latents."""

    @property
    def gradient(self) -> Tensor:
        """(B, C, h, w): of the reward's sum, at the latents."""


Goal = Callable[[Tensor], Any]
"""Clean latents (B, C, h, w), without a graph, to what is `Graded`."""


class Draw(Protocol):
    """An update's own random numbers, the same in every process for what all samples share."""

    def below(self, limit: int) -> int:
        """A whole number from 0 to limit - 1."""

    def noise(self, z: Tensor) -> Tensor:
        """Standard normal, of z's shape; a sample's does not depend on who else is in the batch."""


@dataclass(frozen=True)
class Estimate:
    """``surrogate`` (a scalar) has the estimated gradient of the reward's sum; its value means nothing."""

    surrogate: Tensor
    graded: tuple[Any, ...]
    """What the goal said, in the order it was asked: more than once only for "low-variance"."""


Estimator = Callable[[Rollout, Tensor, Conditioning, Goal, Draw], Estimate]
"""(the steps with gradients, latents before them, conditioning, goal, random numbers)."""


def chain(rollout: Rollout, z: Tensor, c: Conditioning, goal: Goal, draw: Draw) -> Estimate:
    """Back-propagation through all steps of the rollout (TextCraftor, algorithm 1; DRaFT-K)."""
    return _reached(rollout.run(z, c), goal)


def truncation(rollout: Rollout, z: Tensor, c: Conditioning, goal: Goal, draw: Draw) -> Estimate:
    """The same through the last k steps, k drawn for each update (AlignProp, Prabhudesai et al. 2023)."""
    before, after = rollout.split(draw.below(len(rollout.timesteps)))
    with torch.no_grad():
        z = before.run(z, c)
    return _reached(after.run(z, c), goal)


def one_step(rollout: Rollout, z: Tensor, c: Conditioning, goal: Goal, draw: Draw) -> Estimate:
    """The prediction of clean latents at one random step (ReFL, Xu et al. 2023, algorithm 1)."""
    before, after = rollout.split(draw.below(len(rollout.timesteps)))
    with torch.no_grad():
        z = before.run(z, c)
    t = after.timesteps[0]
    return _reached(predicted_x0(rollout.scheduler, rollout.output(z, t, c), t, z), goal)


RENOISED = 2
"""How often `low_variance` noises what it drew; DRaFT-LV's n."""


def low_variance(rollout: Rollout, z: Tensor, c: Conditioning, goal: Goal, draw: Draw) -> Estimate:
    """The last step's gradient over fresh noises of what was drawn (DRaFT-LV, Clark et al. 2024, 4.1)."""
    t = rollout.timesteps[-1]
    with torch.no_grad():
        drawn = rollout.run(z, c)
    estimates = []
    for _ in range(RENOISED):
        again = noised(rollout.scheduler, drawn, t, draw.noise(drawn))
        e = rollout.output(again, t, c)
        estimates.append(_reached(predicted_x0(rollout.scheduler, e, t, again), goal))
    surrogates = [estimate.surrogate for estimate in estimates]
    return Estimate(
        torch.stack(surrogates).mean(), tuple(graded for found in estimates for graded in found.graded)
    )


def detached_chain(rollout: Rollout, z: Tensor, c: Conditioning, goal: Goal, draw: Draw) -> Estimate:
    """The chain without the gradients that go through the UNet's latent input (DRTune, Wu et al. 2024)."""
    for t in rollout.timesteps:
        z = rollout.step(rollout.output(z.detach(), t, c), t, z)
    return _reached(z, goal)


def conditioning_only(rollout: Rollout, z: Tensor, c: Conditioning, goal: Goal, draw: Draw) -> Estimate:
    """`detached_chain` at the conditioning, in memory that does not grow with the number of steps.

    Without gradients through the UNet's latent input, the clean latents depend on the conditioning through
    each step's output alone, and on those by the scheduler's cheap formula. So the steps are run without a
    graph, the formula gives the gradient at each output, and then each step is run again, one at a time, for
    its vector-Jacobian product. Weights of the UNet get no gradients.
    """
    inputs, outputs = [], []
    with torch.enable_grad():
        for t in rollout.timesteps:
            inputs.append(rollout.scheduler.scale_model_input(z.detach(), t))
            with torch.no_grad():
                e = rollout.denoise(inputs[-1], t, c)
            outputs.append(e.requires_grad_())
            z = rollout.step(outputs[-1], t, z)
        graded = goal(z.detach())
        pulls = torch.autograd.grad(z, outputs, graded.gradient)
        leaf = c.leaf()
        total = [torch.zeros_like(part) for part in leaf.tensors]
        for t, scaled, pull in zip(rollout.timesteps, inputs, pulls, strict=True):
            found = torch.autograd.grad(rollout.denoise(scaled, t, leaf), leaf.tensors, pull)
            total = [old + new for old, new in zip(total, found, strict=True)]
        surrogate = torch.stack([(p * g).sum() for p, g in zip(c.tensors, total, strict=True)]).sum()
    return Estimate(surrogate, (graded,))


def direct(rollout: Rollout, x0: Tensor, c: Conditioning, goal: Goal, draw: Draw) -> Estimate:
    """The paper's weak baseline (direct fine-tuning, section 3.2): noise real latents x0 (B, C, h, w) to a
    random timestep of the training schedule, predict them in one step, reward the prediction.
    """
    t = torch.tensor(draw.below(rollout.scheduler.config.num_train_timesteps), device=x0.device)
    z = noised(rollout.scheduler, x0, t, draw.noise(x0))
    return _reached(predicted_x0(rollout.scheduler, rollout.output(z, t, c), t, z), goal)


def denoising(rollout: Rollout, x0: Tensor, c: Conditioning, goal: Goal, draw: Draw) -> Estimate:
    """Ordinary diffusion training on latents x0 (B, C, h, w), unguided (Ho et al. 2020, equation 14): on
    images that a reward chose it is supervised fine-tuning on the best (RAFT, Dong et al. 2023). The goal is
    only looked at: its gradient teaches nothing.
    """
    t = torch.tensor(draw.below(rollout.scheduler.config.num_train_timesteps), device=x0.device)
    noise = draw.noise(x0)
    z = noised(rollout.scheduler, x0, t, noise)
    e = rollout.output(z, t, c.of_prompts(len(x0)))
    error = (e - _target(rollout.scheduler, x0, t, noise)).square().flatten(1).mean(dim=1)
    graded = goal(predicted_x0(rollout.scheduler, e.detach(), t, z))
    return Estimate(-error.sum(), (graded,))


def _target(scheduler: Any, x0: Tensor, t: Tensor, noise: Tensor) -> Tensor:
    """What the UNet should say: the noise, the velocity a noise - s x0, or the clean latents."""
    kind = scheduler.config.prediction_type
    a, s = (scale.to(x0.device, x0.dtype) for scale in _scales(scheduler, t))
    return noise if kind == "epsilon" else a * noise - s * x0 if kind == "v_prediction" else x0


def _reached(x0: Tensor, goal: Goal) -> Estimate:
    graded = goal(x0.detach())
    return Estimate((x0 * graded.gradient).sum(), (graded,))


ESTIMATORS: Mapping[str, Estimator] = MappingProxyType(
    {
        "chain": chain,
        "truncation": truncation,
        "one-step": one_step,
        "low-variance": low_variance,
        "conditioning": conditioning_only,
        "detached-chain": detached_chain,
        "direct": direct,
        "denoising": denoising,
    }
)
"""By name, as a configuration gives it."""
