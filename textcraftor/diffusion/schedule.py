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
    }
)
"""Samplers by name, with their diffusers class. All are deterministic given the initial noise, except ddim
with ``eta`` above 0.
"""

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
    """Name of the sampler: ddim, euler, dpm++2m or pndm."""
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
        if self.tuned_steps > self.steps:
            raise ConfigError(
                f"tuned_steps = {self.tuned_steps} is more than steps = {self.steps}; lower it or raise steps"
            )

    @property
    def tuned_step_count(self) -> int:
        """Number of last steps that use the tuned encoder, from 1 to ``steps``: 0 is resolved to all."""
        return self.tuned_steps or self.steps
