"""How images are sampled: sampler, number of steps, guidance, and how long a tuned encoder is used.

Free of torch. `Schedule` is part of a system (`benchmarks.systems.System`), of a run's request and of a
training configuration (`textcraftor.config.TrainConfig`).
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Annotated

from pydantic import Field

from tcbench.errors import ConfigError
from tcbench.settings import one_of, validated

SAMPLERS: Mapping[str, str] = MappingProxyType(
    {
        "ddim": "DDIMScheduler",
        "euler": "EulerDiscreteScheduler",
        "dpm++2m": "DPMSolverMultistepScheduler",
        "pndm": "PNDMScheduler",
        "heun": "HeunDiscreteScheduler",
        "lms": "LMSDiscreteScheduler",
        "unipc": "UniPCMultistepScheduler",
        "euler-a": "EulerAncestralDiscreteScheduler",
        "lcm": "LCMScheduler",
    }
)
"""Samplers by name, with their diffusers class. They are deterministic given the initial noise, except those
in `_ANCESTRAL`, and ddim with ``eta`` above 0.
"""

_ANCESTRAL = ("euler-a", "lcm")
"""Samplers that add noise at each step."""

_LCM_STEPS = 50
"""Largest number of steps of lcm: those of the schedule that its models are distilled from in diffusers."""

MEMORYLESS = ("ddim", "euler")
"""Samplers whose step depends on latents and output alone, so that a run can start at any step."""

SPACINGS = ("leading", "trailing", "linspace")
"""How a diffusers scheduler can space its timesteps."""

_Sampler = Annotated[str, one_of("sampler", SAMPLERS)]
_Spacing = Annotated[str, one_of("spacing", ("", *SPACINGS))]
_Pixels = Annotated[int, Field(ge=8)]


@validated
class Schedule:
    """Sampling settings of a diffusion pipeline."""

    sampler: _Sampler = "ddim"
    """Name of the sampler: ddim, euler, dpm++2m, pndm, heun, lms, unipc, euler-a or lcm. heun evaluates the
    UNet twice in each step but the last.
    """
    steps: Annotated[int, Field(ge=1)] = 25
    """Number of sampling steps, T in the paper."""
    guidance: Annotated[float, Field(ge=0)] = 7.5
    """Classifier-free guidance scale; 1 or less: no guidance."""
    size: tuple[_Pixels, _Pixels] | None = None
    """(height, width) in pixels, each at least 8; None: the pipeline's own."""
    eta: Annotated[float, Field(ge=0)] = 0.0
    """Scale of the noise that ddim adds at each step (Song et al. 2021, equation 16); 0: deterministic."""
    spacing: _Spacing = ""
    """Spacing of the timesteps: leading, trailing or linspace; "": the pipeline's own."""
    tuned_steps: Annotated[int, Field(ge=0)] = 0
    """Number of last sampling steps that use the tuned encoder, K in the paper, up to ``steps``; the steps
    before them use the original encoder. 0: all steps. Without a tuned encoder it has no effect.
    """

    def __post_init__(self) -> None:
        if self.eta and self.sampler != "ddim":
            raise ConfigError(
                f'eta = {self.eta:g} with sampler {self.sampler!r}; only "ddim" supports eta: '
                'set sampler = "ddim" or eta = 0'
            )
        if self.sampler == "lcm" and self.steps > _LCM_STEPS:
            raise ConfigError(f'steps = {self.steps} with sampler "lcm"; expected at most {_LCM_STEPS}')
        if self.tuned_steps > self.steps:
            raise ConfigError(
                f"tuned_steps = {self.tuned_steps} is more than steps = {self.steps}; lower it or raise steps"
            )

    @property
    def noisy(self) -> bool:
        """Whether each step adds noise, for which every image needs a seed."""
        return self.eta > 0 or self.sampler in _ANCESTRAL

    def evaluations(self, *, skip_prk_steps: bool) -> int:
        """Return the number of UNet evaluations for an image.

        heun needs two in each step but the last. pndm repeats one step, or starts with three Runge-Kutta
        steps of four evaluations each.

        Args:
            skip_prk_steps: Whether pndm skips the Runge-Kutta steps, as the pipeline's scheduler says.
        """
        further = {"heun": self.steps - 1, "pndm": min(self.steps - 1, 1) if skip_prk_steps else 9}
        return self.steps + further.get(self.sampler, 0)

    @property
    def tuned_step_count(self) -> int:
        """Number of last steps that use the tuned encoder, from 1 to ``steps``: 0 is resolved to all."""
        return self.tuned_steps or self.steps
