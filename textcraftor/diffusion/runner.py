"""Run a diffusers pipeline whose text encoder changes between sampling steps.

The pipeline itself samples. In some steps its networks receive other text embeddings, so the same works with
unmodified pipelines (`switch_encoder`).
"""

from __future__ import annotations

import math
import weakref
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
    """Weights of the embeddings, by encoder name; "original" is the pipeline's own encoder. Their sum is 1:
    another sum would scale the embeddings.
    """
    tuned_steps: Annotated[int, Field(ge=0)] = 0
    """Number of last steps; 0: ``Schedule.tuned_steps``."""

    def __post_init__(self) -> None:
        self.check_sum(self.weights)

    @staticmethod
    def check_sum(weights: Mapping[str, float], fix: str = "") -> None:
        """Check that weights of text encoders sum to 1.

        Args:
            weights: Weights by encoder.
            fix: How to change them; "": a general hint.

        Raises:
            ConfigError: If they do not.
        """
        total = math.fsum(weights.values())
        if not math.isclose(total, 1, abs_tol=1e-6):  # true for NaN too
            given = ", ".join(f"{name}={weight:g}" for name, weight in weights.items())
            raise ConfigError(
                f"the weights of text encoders {given} sum to {total:g}; another sum than 1 would scale the "
                f"embeddings: {fix or f'change them to sum to 1, for example the weight of {ORIGINAL}'}"
            )

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
    negative_prompt: str = ""
    """Negative prompt for classifier-free guidance."""
    clip_skip: int = 0
    """Number of the text encoder's last layers that are skipped."""
    guidance_rescale: float = 0.0
    """Share of guided outputs that is rescaled to the standard deviation of unguided ones."""

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
        """Whether classifier-free guidance is on, by the rule of diffusers: a scale above 1, and a UNet that
        does not take the scale as an input, as distilled ones do.
        """
        return self.schedule.guidance > 1 and self.pipe.unet.config.time_cond_proj_dim is None

    def generate(
        self,
        texts: Sequence[str],
        latents: torch.Tensor,
        seeds: Sequence[int] | None = None,
        conditionings: Mapping[int, Conditioning] | None = None,
    ) -> np.ndarray:
        """Generate one image per text.

        Args:
            texts: B prompts.
            latents: Standard normal noise (B, C, h, w); the pipeline scales it to its sampler's first step.
            seeds: One seed per image for the noise of its steps, needed if ``schedule.noisy``.
            conditionings: Text conditionings in place of those of the texts, as `conditionings` returns them.

        Returns:
            RGB images (B, H, W, 3), float32 in [0, 1]; not finite where the pipeline failed.

        Raises:
            ConfigError: If seeds are needed and missing.
        """
        import torch

        height, width = self.size
        # Some samplers refuse these arguments, so they are passed only where they matter.
        options: dict[str, Any] = {"generator": _generators(seeds)} if self.schedule.noisy else {}
        if self.schedule.eta:
            options["eta"] = self.schedule.eta
        if self.guidance_rescale:
            options["guidance_rescale"] = self.guidance_rescale
        with torch.inference_mode(), quiet(*LIBRARIES):
            output = self.pipe(
                latents=latents.to(self.pipe.device, self.pipe.unet.dtype),
                num_inference_steps=self.schedule.steps,
                guidance_scale=self.schedule.guidance,
                height=height,
                width=width,
                output_type="np",
                **options,
                **_pipeline_kwargs(self.pipe, conditionings or self.conditionings(texts), guided=self.guided),
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
            name: Conditioning.encode(
                pipe,
                texts,
                guided=self.guided,
                negative_prompt=self.negative_prompt,
                clip_skip=self.clip_skip,
            )
            for name, pipe in {**self.encoders, ORIGINAL: self.pipe}.items()
        }
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

    They replace ``prompt`` and can be used for several calls. The steps counted are those that a call makes:
    with ``strength``, ``denoising_start`` or ``denoising_end`` it makes fewer than ``steps``, and a sampler
    of second order evaluates the UNet twice in a step. If a call makes at most ``tuned_steps`` steps, all of
    them use the tuned encoders. ``num_images_per_prompt`` may be given.

    Works with the text-to-image, image-to-image and inpainting pipelines of Stable Diffusion 1.x, 2.x and XL,
    and with their ControlNet variants. One case is miscounted:
    ``StableDiffusionXLControlNetInpaintPipeline`` does not record ``denoising_end``, so steps after it count.

    Args:
        pipe: The pipeline that will be called with the arguments.
        prompts: B prompts.
        tuned_steps: Number of last steps that use the tuned encoders, 0 to ``steps``; 0: none.
        steps: Number of all steps, as given to the pipeline.
        guidance: Guidance scale, as given to the pipeline.
        text_encoder: Tuned text encoder.
        text_encoder_2: Tuned second text encoder (SDXL); None: the pipeline's own.

    Raises:
        ConfigError: If ``tuned_steps`` is out of range; in the call, if it does not fit these arguments.
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
        return _pipeline_kwargs(pipe, runner.conditionings(prompts), guided=runner.guided)


@dataclass(eq=False)
class _SwitchConditioning:
    """Replaces the text conditioning that the networks of a pipeline read, step by step.

    It is also the pipeline's ``callback_on_step_end``, which counts the steps of a call.
    """

    pipe: Any
    """The pipeline that is called."""
    first: Conditioning
    """Conditioning that it is called with."""
    changes: Mapping[int, Conditioning]
    """Other conditionings by the number of steps left when they take over."""
    guided: bool
    """Whether they have rows of the empty prompt."""
    timesteps: torch.Tensor | None = None
    """The scheduler's timesteps in the call in progress."""
    steps: int = 0
    """Number of steps that this call makes."""
    iteration: int = 0
    """Number of UNet evaluations that it has made."""
    exchanged: bool = False
    """Whether the current evaluation has read its conditioning from here."""

    def __call__(
        self, pipe: Any, iteration: int, timestep: torch.Tensor, inputs: dict[str, torch.Tensor]
    ) -> dict[str, torch.Tensor]:
        if pipe is not self.pipe or not self.exchanged:
            raise _other_pipeline()
        self.iteration, self.exchanged = iteration + 1, False
        return {}

    def exchange(self, timestep: torch.Tensor, inputs: dict[str, Any]) -> dict[str, Any]:
        """Return the keyword arguments of the UNet or a ControlNet with the conditioning that is due."""
        if self.pipe.scheduler.timesteps is not self.timesteps:  # a new call has set them
            self.timesteps, self.iteration = self.pipe.scheduler.timesteps, 0
            self.steps = _steps_made(self.pipe, timestep)
        if self.pipe.do_classifier_free_guidance != self.guided:
            raise ConfigError(
                f"the pipeline samples {'without' if self.guided else 'with'} guidance, unlike the text "
                "conditioning; give both the same guidance scale"
            )
        self.exchanged = True
        due = self._due()
        if self.guided and inputs.get("guess_mode"):  # a ControlNet that reads the prompts alone
            due = due.of_prompts(len(due.embeds) // 2)
        inputs = inputs | {"encoder_hidden_states": _like(due.embeds, inputs["encoder_hidden_states"])}
        if due.pooled is not None:
            added = inputs["added_cond_kwargs"]
            inputs["added_cond_kwargs"] = added | {"text_embeds": _like(due.pooled, added["text_embeds"])}
        return inputs

    def _due(self) -> Conditioning:
        """Return the conditioning of the current step."""
        # one step of a sampler of second order is two iterations
        left = self.steps - self.iteration // self.pipe.scheduler.order
        windows = [steps for steps in self.changes if steps >= left]
        return self.changes[min(windows)] if windows else self.first


def _steps_made(pipe: Any, first: torch.Tensor) -> int:
    """Return the number of steps that a pipeline's call in progress makes.

    Args:
        pipe: The pipeline.
        first: The timestep of its first step.
    """
    timesteps, end = pipe.scheduler.timesteps, getattr(pipe, "denoising_end", None)
    count = getattr(pipe, "_num_timesteps", None)
    if count is None:  # it was never called
        raise _other_pipeline()
    if isinstance(end, float) and 0 < end < 1:
        # ControlNet pipelines of SDXL count their timesteps before they drop those after `denoising_end`.
        # Then counting back `count` entries from the end of the schedule reaches the first timestep of the
        # call.
        total = pipe.scheduler.config.num_train_timesteps
        dropped = int((timesteps < round(total * (1 - end))).sum())
        if timesteps[len(timesteps) - count] == first:
            count -= dropped
    return -(-int(count) // int(pipe.scheduler.order))


def _other_pipeline() -> ConfigError:
    return ConfigError(
        "these text embeddings were made for another pipeline; give switch_encoder the one that is called"
    )


def _like(part: torch.Tensor, current: torch.Tensor) -> torch.Tensor:
    """Return ``part`` with the rows, type and device of ``current``, which has several images of a prompt."""
    images, rest = divmod(len(current), len(part))
    if rest:
        raise ConfigError(
            f"the pipeline holds text embeddings of {len(current)} rows; expected a multiple of {len(part)}. "
            "Call it without further prompts, as one of the pipelines that switch_encoder supports"
        )
    return part.repeat_interleave(images, dim=0).to(current.device, current.dtype)


def _pipeline_kwargs(pipe: Any, conditionings: Mapping[int, Conditioning], *, guided: bool) -> dict[str, Any]:
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
    if not rest:
        return arguments
    changes = {left: conditionings[left] for left in rest}
    switch = _SwitchConditioning(pipe, conditionings[first], changes, guided)
    marker = _connect(pipe, switch)
    marked = {name: value.as_subclass(marker) for name, value in arguments.items()}
    return marked | {"callback_on_step_end": switch, "callback_on_step_end_tensor_inputs": []}


def _connect(pipe: Any, switch: _SwitchConditioning) -> type:
    """Let the networks of ``pipe`` read their conditioning from ``switch``; return a type of tensors.

    How many steps a call makes is known only when it has begun, and diffusers' callback comes after a step,
    too late for the first one; not every pipeline takes all embeddings from it. So embeddings are given a
    type of their own, which they keep through the pipeline, and the networks exchange tensors of this type.
    Other calls are not touched, and the networks are left as they were when ``switch`` is deleted.
    """
    import torch

    marker = type("SwitchedEmbeddings", (torch.Tensor,), {})
    reference = weakref.ref(switch)

    def exchange(model: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        active = reference()
        if active is None or type(kwargs.get("encoder_hidden_states")) is not marker:
            return None
        return args, active.exchange(args[1] if len(args) > 1 else kwargs["timestep"], kwargs)

    for name in ("unet", "controlnet"):
        model = getattr(pipe, name, None)
        if model is not None:
            handle = model.register_forward_pre_hook(exchange, with_kwargs=True)
            weakref.finalize(switch, handle.remove)
    return marker


def _generators(seeds: Sequence[int] | None) -> list[torch.Generator]:
    """Return a generator per image for the noise of its steps, independent of its initial noise.

    One generator each, on the CPU, so that an image does not depend on its batch or on the device.
    """
    import torch

    if seeds is None:
        raise ConfigError("each step adds noise: give one seed per image")
    return [torch.Generator("cpu").manual_seed(noise_seed(seed, 0, _STEP_NOISE)) for seed in seeds]
