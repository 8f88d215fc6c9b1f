"""Which UNet and ControlNet calls of diffusers' pipelines use the tuned encoder."""

from __future__ import annotations

import copy
import gc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from PIL import Image

from tcbench.errors import ConfigError
from textcraftor.diffusion.conditioning import Conditioning, replace_encoders
from textcraftor.diffusion.loading import load_pipeline
from textcraftor.diffusion.runner import switch_encoder

PICTURE, MASK = Image.new("RGB", (16, 16), "red"), Image.new("L", (16, 16), 255)
EDIT, INPAINT = {"image": PICTURE}, {"image": PICTURE, "mask_image": MASK}
CONTROL: dict[str, Any] = {"control_image": PICTURE}
PIPELINES: dict[str, dict[str, Any]] = {
    "StableDiffusionPipeline": {},
    "StableDiffusionImg2ImgPipeline": EDIT,
    "StableDiffusionInpaintPipeline": INPAINT,
    "StableDiffusionXLPipeline": {},
    "StableDiffusionXLImg2ImgPipeline": EDIT,
    "StableDiffusionXLInpaintPipeline": INPAINT,
    "StableDiffusionControlNetPipeline": {"image": PICTURE},
    "StableDiffusionControlNetImg2ImgPipeline": EDIT | CONTROL,
    "StableDiffusionControlNetInpaintPipeline": INPAINT | CONTROL,
    "StableDiffusionXLControlNetPipeline": {"image": PICTURE},
    "StableDiffusionXLControlNetImg2ImgPipeline": EDIT | CONTROL,
    "StableDiffusionXLControlNetInpaintPipeline": INPAINT | CONTROL,
}
"""Every pipeline that the documentation names, with the pictures that it takes."""

EDITING = [name for name in PIPELINES if "Img2Img" in name or "Inpaint" in name]
XL = [name for name in PIPELINES if "XL" in name]
TEXTS = ["a cat", "a dog"]
STEPS, TUNED = 10, 4

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")


@pytest.fixture(scope="module")
def base(tiny_pipeline: Path, tiny_sdxl: Path) -> Callable[[str], Any]:
    pipes = {
        xl: load_pipeline(tiny_sdxl if xl else tiny_pipeline, device="cpu", dtype="float32", sampler="ddim")
        for xl in (False, True)
    }
    return lambda name: pipes["XL" in name]


class Call:
    """One pipeline that is called with switched encoders, and what its networks read."""

    def __init__(self, base: Any, name: str, scheduler: str = "DDIMScheduler") -> None:
        parts = dict(base.components)
        parts["scheduler"] = getattr(diffusers, scheduler).from_config(base.scheduler.config)
        if "ControlNet" in name:
            torch.manual_seed(0)
            parts["controlnet"] = diffusers.ControlNetModel.from_unet(
                base.unet, conditioning_embedding_out_channels=(8, 16)
            )
        if "XL" not in name:
            parts["requires_safety_checker"] = False
        if "XL" in name and "Control" in name:
            parts["add_watermarker"] = False
        self.pipe = getattr(diffusers, name)(**parts)
        self.pipe.set_progress_bar_config(disable=True)
        self.arguments = PIPELINES[name]
        self.encoders = {
            encoder: copy.deepcopy(getattr(self.pipe, encoder))
            for encoder in ("text_encoder", "text_encoder_2")
            if getattr(self.pipe, encoder, None) is not None
        }
        with torch.no_grad():
            for parameter in (p for encoder in self.encoders.values() for p in encoder.parameters()):
                parameter.mul_(1.5)

    def switch(self, tuned_steps: int = TUNED, guidance: float = 3.0) -> dict[str, Any]:
        return switch_encoder(
            self.pipe, TEXTS, tuned_steps=tuned_steps, steps=STEPS, guidance=guidance, **self.encoders
        )

    def used(self, switched: dict[str, Any], guidance: float = 3.0, **options: Any) -> dict[str, list[bool]]:
        """For each network, whether its calls read the embeddings of the tuned encoders."""
        calls: dict[str, list[bool]] = {}
        tuned = Conditioning.encode(replace_encoders(self.pipe, self.encoders), TEXTS, guided=guidance > 1)
        own = Conditioning.encode(self.pipe, TEXTS, guided=guidance > 1)

        def record(name: str) -> Any:
            def hook(model: Any, args: Any, kwargs: Any, output: Any) -> None:
                hidden, added = kwargs["encoder_hidden_states"], kwargs.get("added_cond_kwargs") or {}
                assert type(hidden) is torch.Tensor
                read = [hidden, added["text_embeds"]] if "text_embeds" in added else [hidden]
                matches = [
                    all(self.equal(a, b, guidance > 1) for a, b in zip(read, c.tensors, strict=True))
                    for c in (own, tuned)
                ]
                assert sum(matches) == 1
                calls.setdefault(name, []).append(matches[1])

            return hook

        names = [name for name in ("unet", "controlnet") if getattr(self.pipe, name, None) is not None]
        handles = [
            getattr(self.pipe, name).register_forward_hook(record(name), with_kwargs=True) for name in names
        ]
        try:
            with torch.no_grad():
                self.pipe(
                    num_inference_steps=STEPS, guidance_scale=guidance, output_type="latent",
                    generator=torch.Generator().manual_seed(0), **self.arguments, **switched, **options,
                )  # fmt: skip
        finally:
            for handle in handles:
                handle.remove()
        return calls

    @staticmethod
    def equal(read: torch.Tensor, part: torch.Tensor, guided: bool) -> bool:
        if len(read) % len(part):  # a ControlNet in guess mode reads the prompts alone
            part = part[len(part) // 2 :]
        return torch.equal(read, part.repeat_interleave(len(read) // len(part), dim=0))


def last(calls: list[bool], count: int) -> bool:
    """Whether exactly the last ``count`` calls used the tuned encoder."""
    return calls == [False] * (len(calls) - count) + [True] * count


@pytest.mark.parametrize("name", PIPELINES)
def test_the_last_steps_use_the_tuned_encoder(base: Callable[[str], Any], name: str) -> None:
    call = Call(base(name), name)
    switched = call.switch()
    everything = {"strength": 1.0} if name in EDITING else {}
    for calls in call.used(switched, **everything).values():
        assert len(calls) == STEPS
        assert last(calls, TUNED)


@pytest.mark.parametrize("name", EDITING)
def test_steps_that_strength_skips_do_not_count(base: Callable[[str], Any], name: str) -> None:
    call = Call(base(name), name)
    switched = call.switch()
    for strength, made in ((0.8, 8), (0.5, 5), (0.3, 3)):
        for calls in call.used(switched, strength=strength).values():
            assert len(calls) == made
            assert last(calls, min(TUNED, made))
    for calls in call.used(switched).values():  # the pipeline's own default
        assert last(calls, min(TUNED, len(calls)))


# ControlNet's image-to-image takes no `denoising_end`, and its inpainting does not record it.
@pytest.mark.parametrize("name", [name for name in XL if not ("Control" in name and name in EDITING)])
def test_steps_after_denoising_end_do_not_count(base: Callable[[str], Any], name: str) -> None:
    call = Call(base(name), name)
    switched = call.switch()
    options = {"strength": 0.8} if name in EDITING else {}
    for end in (0.7, 0.3):
        for calls in call.used(switched, denoising_end=end, **options).values():
            assert len(calls) < STEPS
            assert last(calls, min(TUNED, len(calls)))


@pytest.mark.parametrize("scheduler", ["HeunDiscreteScheduler", "KDPM2DiscreteScheduler"])
@pytest.mark.parametrize("name", ["StableDiffusionPipeline", "StableDiffusionXLImg2ImgPipeline"])
def test_half_steps_are_not_steps(base: Callable[[str], Any], name: str, scheduler: str) -> None:
    """The last step of these samplers evaluates the UNet once, every other step twice."""
    call = Call(base(name), name, scheduler)
    switched = call.switch()
    for strength, made in ((0.8, 8), (0.3, 3)) if name in EDITING else ((1.0, STEPS),):
        (calls,) = call.used(switched, **({"strength": strength} if name in EDITING else {})).values()
        assert len(calls) == 2 * made - 1
        assert last(calls, 2 * min(TUNED, made) - 1)


@pytest.mark.parametrize("scheduler", ["PNDMScheduler", "UniPCMultistepScheduler", "LMSDiscreteScheduler"])
def test_samplers_that_remember_steps(base: Callable[[str], Any], scheduler: str) -> None:
    call = Call(base("StableDiffusionImg2ImgPipeline"), "StableDiffusionImg2ImgPipeline", scheduler)
    switched = call.switch()
    for strength in (1.0, 0.5, 0.2):
        (calls,) = call.used(switched, strength=strength).values()
        assert last(calls, min(TUNED, len(calls)))


@pytest.mark.parametrize(
    "name",
    ["StableDiffusionPipeline", "StableDiffusionXLInpaintPipeline", "StableDiffusionXLControlNetPipeline"],
)
@pytest.mark.parametrize("guidance", [3.0, 1.0])
def test_several_images_of_a_prompt(base: Callable[[str], Any], name: str, guidance: float) -> None:
    call = Call(base(name), name)
    switched = call.switch(guidance=guidance)
    for strength in (0.8, 0.3) if name in EDITING else (None,):
        options = {} if strength is None else {"strength": strength}
        for calls in call.used(switched, guidance, num_images_per_prompt=2, **options).values():
            assert last(calls, min(TUNED, len(calls)))


def test_a_controlnet_in_guess_mode(base: Callable[[str], Any]) -> None:
    call = Call(base("SD"), "StableDiffusionControlNetImg2ImgPipeline")
    switched = call.switch()
    for strength in (0.8, 0.3):
        for calls in call.used(switched, strength=strength, guess_mode=True).values():
            assert last(calls, min(TUNED, len(calls)))


def test_other_calls_of_the_pipeline_are_left_alone(base: Callable[[str], Any]) -> None:
    call = Call(base("SD"), "StableDiffusionImg2ImgPipeline")
    hooks = len(call.pipe.unet._forward_pre_hooks)
    switched = call.switch()
    assert call.used({"prompt": TEXTS}, strength=0.3)["unet"] == [False] * 3
    assert call.used(switched, strength=0.3)["unet"] == [True] * 3
    assert call.used({"prompt": TEXTS}, strength=0.3)["unet"] == [False] * 3
    del switched
    gc.collect()
    assert len(call.pipe.unet._forward_pre_hooks) == hooks


def test_arguments_for_another_pipeline_or_guidance_are_refused(base: Callable[[str], Any]) -> None:
    call = Call(base("SD"), "StableDiffusionImg2ImgPipeline")
    switched = call.switch()
    other = Call(base("SD"), "StableDiffusionImg2ImgPipeline")
    with pytest.raises(ConfigError, match="made for another pipeline"):
        other.used(switched, strength=0.3)
    with pytest.raises(ConfigError, match="same guidance scale"):
        call.pipe(num_inference_steps=5, guidance_scale=1.0, **EDIT, **switched)
