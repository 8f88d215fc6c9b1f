"""Run a diffusers pipeline whose text encoder changes between sampling steps.

The pipeline itself samples. Its text conditioning is exchanged between steps through the callback that
diffusers offers, so the same works with any unmodified pipeline (`switch_encoder`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

from tcbench.errors import ConfigError
from tcbench.quiet import quiet
from tcbench.settings import validated
from textcraftor.diffusion.pipeline import LIBRARIES
from textcraftor.diffusion.prompts import noise_seed
from textcraftor.diffusion.schedule import Schedule

if TYPE_CHECKING:
    import numpy as np
    import torch

    from textcraftor.diffusion.conditioning import Conditioning

ORIGINAL = "original"
"""Name of the pipeline's own text encoders in the weights of a window."""

_STEP_NOISE = 1
"""Index that makes the seed of an image's step noise differ from that of its initial noise."""


@validated
class EncoderWindow:
    """Last sampling steps whose text conditioning is a weighted sum over several text encoders.

    A window lasts to the end, unless a window with fewer steps takes over.
    """

    weights: Mapping[str, float]
    """Weights of the embeddings, by encoder name; "original" is the pipeline's own encoder."""
    tuned_steps: Annotated[int, Field(ge=0)] = 0
    """Number of last steps; 0: ``Schedule.tuned_steps``."""

    def steps(self, schedule: Schedule) -> int:
        """Return the number of last steps of ``schedule`` that the window covers."""
        return self.tuned_steps or schedule.tuned_step_count


@dataclass(frozen=True)
class PipelineRunner:
    """A loaded diffusers pipeline with its sampling settings and encoder windows."""

    pipe: Any
    """The pipeline."""
    schedule: Schedule
    """Sampling settings; the sampler is that of the loaded pipeline's scheduler."""
    encoders: Mapping[str, Any] = field(default_factory=dict)
    """Pipelines that share everything with ``pipe`` except text encoders, by encoder name."""
    windows: tuple[EncoderWindow, ...] = ()
    """Steps with other text encoders; without windows all steps use the pipeline's own."""

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of generated images in pixels."""
        own = self.pipe.unet.config.sample_size * self.pipe.vae_scale_factor
        return self.schedule.size or (own, own)

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """(channels, height, width) of one initial latent.

        Raises:
            ConfigError: If the size in pixels is not a multiple of the VAE's scale factor.
        """
        height, width = self.size
        factor = self.pipe.vae_scale_factor
        if height % factor or width % factor:
            raise ConfigError(f"size = {height}x{width}; this pipeline needs multiples of {factor} pixels")
        return self.pipe.unet.config.in_channels, height // factor, width // factor

    @property
    def guided(self) -> bool:
        """Whether classifier-free guidance is on, by the rule of diffusers (a scale above 1)."""
        return self.schedule.guidance > 1

    def generate(
        self, texts: Sequence[str], latents: torch.Tensor, seeds: Sequence[int] | None = None
    ) -> np.ndarray:
        """Generate one image per text.

        Args:
            texts: B prompts.
            latents: Standard normal noise (B, C, h, w); the pipeline scales it to its sampler's first step.
            seeds: One seed per image for the noise of its steps, needed if ``schedule.eta`` is above 0.

        Returns:
            RGB images (B, H, W, 3), float32 in [0, 1]; not finite where the pipeline failed.

        Raises:
            ConfigError: If seeds are needed and missing.
        """
        import torch

        height, width = self.size
        # Samplers without eta refuse these two arguments, so they are passed only where they matter.
        noise = {"eta": self.schedule.eta, "generator": _generators(seeds)} if self.schedule.eta else {}
        with torch.inference_mode(), quiet(*LIBRARIES):
            output = self.pipe(
                latents=latents.to(self.pipe.device, self.pipe.unet.dtype),
                num_inference_steps=self.schedule.steps,
                guidance_scale=self.schedule.guidance,
                height=height,
                width=width,
                output_type="np",
                **noise,
                **_pipeline_kwargs(self.conditionings(texts), guided=self.guided),
            )
        images: np.ndarray = output.images.astype("float32")
        return images

    def conditionings(self, texts: Sequence[str]) -> dict[int, Conditioning]:
        """Return the text conditionings, by the number of steps left when each takes over.

        The key is a count from the end because that is how windows are defined; the first entry, of all
        steps, is the original encoder's unless a window covers all steps.
        """
        from textcraftor.diffusion.conditioning import Conditioning

        encoded = {
            name: Conditioning.encode(pipe, texts, guided=self.guided) for name, pipe in self.encoders.items()
        }
        encoded[ORIGINAL] = Conditioning.encode(self.pipe, texts, guided=self.guided)
        conditionings = {self.schedule.steps: encoded[ORIGINAL]}
        # Longest first: where two windows cover the same number of steps, the later one in the list wins.
        for window in sorted(self.windows, key=lambda window: -window.steps(self.schedule)):
            conditionings[window.steps(self.schedule)] = Conditioning.mix(encoded, window.weights)
        return conditionings

    def truncated(self, texts: Sequence[str]) -> list[bool]:
        """Return which texts are longer than the tokenizer's limit; the pipeline cuts them silently."""
        with quiet(*LIBRARIES):
            lengths = [len(ids) for ids in self.pipe.tokenizer(list(texts)).input_ids]
        return [length > self.pipe.tokenizer.model_max_length for length in lengths]


def switch_encoder(
    pipe: Any,
    prompts: Sequence[str],
    *,
    tuned_steps: int,
    steps: int,
    guidance: float,
    text_encoder: Any,
    text_encoder_2: Any = None,
) -> dict[str, Any]:
    """Return arguments for an unmodified diffusers pipeline to use tuned encoders in its last steps.

        pipe(num_inference_steps=25, guidance_scale=7.5, **switch_encoder(
            pipe, ["a cat"], tuned_steps=15, steps=25, guidance=7.5, text_encoder=tuned))

    They replace ``prompt``. Works with Stable Diffusion 1.x, 2.x and XL pipelines, ControlNet and inpainting
    variants included.

    Args:
        pipe: The pipeline.
        prompts: B prompts.
        tuned_steps: Number of last steps that use the tuned encoders, 0 to ``steps``; 0: none.
        steps: Number of all steps, as given to the pipeline.
        guidance: Guidance scale, as given to the pipeline.
        text_encoder: Tuned text encoder.
        text_encoder_2: Tuned second text encoder (SDXL); None: the pipeline's own.

    Raises:
        ConfigError: If ``tuned_steps`` is out of range.
    """
    import torch

    from textcraftor.diffusion.conditioning import replace_encoders

    if not 0 <= tuned_steps <= steps:
        raise ConfigError(f"tuned_steps = {tuned_steps}; expected 0 to steps = {steps}")
    models = {"text_encoder": text_encoder, "text_encoder_2": text_encoder_2}
    tuned = replace_encoders(pipe, {name: model for name, model in models.items() if model is not None})
    windows = (EncoderWindow({"tuned": 1.0}, tuned_steps),) if tuned_steps else ()
    runner = PipelineRunner(pipe, Schedule(steps=steps, guidance=guidance), {"tuned": tuned}, windows)
    with torch.no_grad():
        return _pipeline_kwargs(runner.conditionings(prompts), guided=runner.guided)


@dataclass(frozen=True)
class _SwitchConditioning:
    """A diffusers ``callback_on_step_end`` that exchanges the text conditioning between steps."""

    changes: Mapping[int, Conditioning]
    """Conditionings by the number of steps left when they take over."""

    def __call__(
        self, pipe: Any, step: int, timestep: torch.Tensor, inputs: dict[str, torch.Tensor]
    ) -> dict[str, torch.Tensor]:
        # Counted from the scheduler's own timesteps: a sampler may take one more than requested (pndm),
        # and image-to-image pipelines take fewer.
        left = len(pipe.scheduler.timesteps) - step - 1
        change = self.changes.get(left)
        if change is None:
            return {}
        # The pipeline holds the unconditional and the conditional half in one tensor at this point, as
        # `Conditioning` does, so the whole tensor is exchanged, negative prompt included.
        new = {"prompt_embeds": change.embeds.to(inputs["prompt_embeds"].dtype)}
        if change.pooled is not None:
            new["add_text_embeds"] = change.pooled.to(inputs["add_text_embeds"].dtype)
        return new


def _pipeline_kwargs(conditionings: Mapping[int, Conditioning], *, guided: bool) -> dict[str, Any]:
    """Return a pipeline's arguments for these conditionings: embeddings, and a callback for later ones.

    With guidance the pipeline expects the unconditional half as separate ``negative_`` arguments.
    """
    first, *rest = sorted(conditionings, reverse=True)
    arguments: dict[str, Any] = {}
    # not strict: Stable Diffusion 1 and 2 have no pooled embedding, SDXL has both
    for name, part in zip(
        ("prompt_embeds", "pooled_prompt_embeds"), conditionings[first].tensors, strict=False
    ):
        *negative, positive = part.chunk(2) if guided else (part,)
        arguments[name] = positive
        arguments |= {f"negative_{name}": half for half in negative}
    if rest:
        inputs = ["prompt_embeds"] + ["add_text_embeds"] * ("pooled_prompt_embeds" in arguments)
        arguments["callback_on_step_end"] = _SwitchConditioning({left: conditionings[left] for left in rest})
        arguments["callback_on_step_end_tensor_inputs"] = inputs
    return arguments


def _generators(seeds: Sequence[int] | None) -> list[torch.Generator]:
    """Return a generator per image for the noise of its steps, independent of its initial noise.

    One generator each, on the CPU, so that an image does not depend on its batch or on the device.
    """
    import torch

    if seeds is None:
        raise ConfigError("eta is above 0, so each step adds noise: give one seed per image")
    return [torch.Generator("cpu").manual_seed(noise_seed(seed, 0, _STEP_NOISE)) for seed in seeds]
