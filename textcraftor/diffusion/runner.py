"""Drawing images with a diffusers pipeline, step windows of which may have text encoders of their own.

The pipeline itself draws. What it is told of the prompt is exchanged between its steps through the callback
that it offers, so anybody's unmodified pipeline can do what is done here (`switch_encoder`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from tcbench.quiet import quiet
from textcraftor.diffusion.pipeline import LIBRARIES
from textcraftor.diffusion.prompts import noise_seed
from textcraftor.diffusion.schedule import Schedule

if TYPE_CHECKING:
    import numpy as np
    import torch

    from textcraftor.diffusion.conditioning import Conditioning

STEPS = 1
"""Number of the noise of an image's steps, among what follows from its seed."""

ORIGINAL = "original"
"""The name of a pipeline's own text encoders among those that are mixed."""


@dataclass(frozen=True)
class Window:
    """From here to the last step the conditioning is a weighted sum, unless a later window begins.

    ``share`` (0 to 1] of the steps, counted from the end: 0.6 of 25 are the last 15. ``weights`` are by the
    encoders' names.
    """

    share: float
    weights: Mapping[str, float]

    def steps(self, of: int) -> int:
        """How many of the last steps it covers."""
        return round(self.share * of)


@dataclass(frozen=True)
class Drawing:
    """A loaded pipeline with its schedule. ``encoders`` are pipelines that share all but text encoders."""

    pipe: Any
    schedule: Schedule
    encoders: Mapping[str, Any] = field(default_factory=dict)
    windows: tuple[Window, ...] = ()

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) in pixels of what is drawn."""
        own = self.pipe.unet.config.sample_size * self.pipe.vae_scale_factor
        return self.schedule.size or (own, own)

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """(channels, height, width) of one initial latent. Raises ValueError for an impossible size."""
        height, width = self.size
        factor = self.pipe.vae_scale_factor
        if height % factor or width % factor:
            raise ValueError(
                f"size {height}x{width} is no multiple of this pipeline's {factor}: choose one that is"
            )
        return self.pipe.unet.config.in_channels, height // factor, width // factor

    def draw(
        self, texts: Sequence[str], latents: torch.Tensor, seeds: Sequence[int] | None = None
    ) -> np.ndarray:
        """One image for each text: float32 (B, H, W, 3), RGB in [0, 1]; not finite where the pipeline failed.

        ``latents`` (B, C, h, w) is unit noise; the pipeline scales it to its sampler's first step. With an
        ``eta`` above 0 each step's noise follows from the ``seeds`` of the images.
        """
        import torch

        height, width = self.size
        noisy = {"eta": self.schedule.eta, "generator": _generators(seeds)} if self.schedule.eta else {}
        with torch.inference_mode(), quiet(*LIBRARIES):
            drawn = self.pipe(
                latents=latents.to(self.pipe.device, self.pipe.unet.dtype),
                num_inference_steps=self.schedule.steps,
                guidance_scale=self.schedule.guidance,
                height=height,
                width=width,
                output_type="np",
                **noisy,
                **told(self.conditionings(texts), guided=self.guided),
            )
        images: np.ndarray = drawn.images.astype("float32")
        return images

    @property
    def guided(self) -> bool:
        """Whether there is classifier-free guidance, as diffusers decides it."""
        return self.schedule.guidance > 1

    def conditionings(self, texts: Sequence[str]) -> dict[int, Conditioning]:
        """The conditioning by how many of the steps are left when it takes over."""
        from textcraftor.diffusion.conditioning import encode_prompts, mix_conditionings

        known = {
            name: encode_prompts(pipe, texts, guided=self.guided) for name, pipe in self.encoders.items()
        }
        known[ORIGINAL] = encode_prompts(self.pipe, texts, guided=self.guided)
        found = {self.schedule.steps: known[ORIGINAL]}
        for window in sorted(self.windows, key=lambda window: -window.share):
            found[window.steps(self.schedule.steps)] = mix_conditionings(known, window.weights)
        return found

    def truncated(self, texts: Sequence[str]) -> list[bool]:
        """Which texts are longer than the tokenizer takes; the pipeline cuts them without a word."""
        with quiet(*LIBRARIES):
            lengths = [len(ids) for ids in self.pipe.tokenizer(list(texts)).input_ids]
        return [length > self.pipe.tokenizer.model_max_length for length in lengths]


def _generators(seeds: Sequence[int] | None) -> list[torch.Generator]:
    """Of each image's steps: not the one that its first noise is of."""
    import torch

    if seeds is None:
        raise ValueError("noise at each step (eta) follows from the seeds of images: give one for each")
    return [torch.Generator("cpu").manual_seed(noise_seed(seed, 0, STEPS)) for seed in seeds]


@dataclass(frozen=True)
class Switch:
    """A diffusers ``callback_on_step_end`` that exchanges the conditioning between steps.

    ``changes`` are by how many steps are left when they take over, whatever their number.
    """

    changes: Mapping[int, Conditioning]

    def __call__(
        self, pipe: Any, step: int, timestep: torch.Tensor, inputs: dict[str, torch.Tensor]
    ) -> dict[str, torch.Tensor]:
        change = self.changes.get(len(pipe.scheduler.timesteps) - step - 1)
        if change is None:
            return {}
        new = {"prompt_embeds": change.embeds.to(inputs["prompt_embeds"].dtype)}
        if change.pooled is not None:
            new["add_text_embeds"] = change.pooled.to(inputs["add_text_embeds"].dtype)
        return new


def told(conditionings: Mapping[int, Conditioning], *, guided: bool) -> dict[str, Any]:
    """The arguments of a pipeline's call that tell it these: the first at once, the others by `Switch`."""
    first, *rest = sorted(conditionings, reverse=True)
    names = ["prompt_embeds", "pooled_prompt_embeds"]
    arguments: dict[str, Any] = {}
    for name, part in zip(names, conditionings[first].tensors, strict=False):
        *null, text = part.chunk(2) if guided else (part,)
        arguments[name] = text
        arguments |= {f"negative_{name}": half for half in null}
    if rest:
        inputs = ["prompt_embeds"] + ["add_text_embeds"] * ("pooled_prompt_embeds" in arguments)
        arguments["callback_on_step_end"] = Switch({left: conditionings[left] for left in rest if left})
        arguments["callback_on_step_end_tensor_inputs"] = inputs
    return arguments


def switch_encoder(
    pipe: Any,
    prompts: Sequence[str],
    *,
    last: int,
    steps: int,
    guidance: float,
    text_encoder: Any,
    text_encoder_2: Any = None,
) -> dict[str, Any]:
    """What to add to a call of an unmodified diffusers pipeline for tuned encoders in its last steps.

        pipe(num_inference_steps=25, guidance_scale=7.5, **switch_encoder(
            pipe, ["a cat"], last=15, steps=25, guidance=7.5, text_encoder=tuned))

    It takes the place of ``prompt``. Works with Stable Diffusion 1.x, 2.x and XL pipelines, ControlNet and
    inpainting variants included. Raises ValueError if ``last`` is not between 0 and ``steps``.
    """
    from textcraftor.diffusion.conditioning import replace_encoders

    if not 0 <= last <= steps:
        raise ValueError(f"last is {last}; expected 0 to {steps}, the number of steps")
    given = {"text_encoder": text_encoder, "text_encoder_2": text_encoder_2}
    tuned = replace_encoders(pipe, {name: model for name, model in given.items() if model is not None})
    windows = (Window(last / steps, {"tuned": 1.0}),) if last else ()
    drawing = Drawing(pipe, Schedule(steps=steps, guidance=guidance), {"tuned": tuned}, windows)
    import torch

    with torch.no_grad():
        return told(drawing.conditionings(prompts), guided=drawing.guided)
