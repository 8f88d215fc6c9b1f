"""Text conditioning for the UNet: embeddings of a pipeline's text encoders, and mixes of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from tcbench.quiet import quiet


@dataclass(frozen=True)
class Conditioning:
    """Embeddings of B prompts as the UNet takes them. T tokens, D width, P width of pooled embeddings.

    With classifier-free guidance every tensor has 2 B rows: first B rows of the empty prompt, then the
    prompts.
    """

    embeds: Tensor
    """Token embeddings (B or 2 B, T, D)."""
    pooled: Tensor | None = None
    """Pooled embeddings (B or 2 B, P) of SDXL; None for other models."""

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """The one or two tensors; ``Conditioning(*c.tensors)`` equals ``c``."""
        return (self.embeds,) if self.pooled is None else (self.embeds, self.pooled)

    def leaf(self) -> Conditioning:
        """Return a copy without history whose tensors require gradients."""
        return Conditioning(*(part.detach().requires_grad_() for part in self.tensors))

    def of_prompts(self, count: int) -> Conditioning:
        """Return the last ``count`` rows: the prompts without the rows of the empty prompt."""
        return Conditioning(*(part[-count:] for part in self.tensors))

    def without_null_gradient(self) -> Conditioning:
        """Return the same values with the empty prompt's rows detached."""
        halves = [part.chunk(2) for part in self.tensors]
        return Conditioning(*(torch.cat([null.detach(), text]) for null, text in halves))

    @staticmethod
    def mix(parts: Mapping[str, Conditioning], weights: Mapping[str, float]) -> Conditioning:
        """Mix embeddings: sum_k w_k c_k, for the prompts and the empty prompt alike (Li et al. 2024, 3.4)."""
        tensors = [
            [weight * tensor for tensor in parts[name].tensors] for name, weight in weights.items() if weight
        ]
        return Conditioning(*(torch.stack(column).sum(dim=0) for column in zip(*tensors, strict=True)))

    def drift(self, original: Conditioning) -> Tensor:
        """Return the mean squared distance of embeddings from the original ones, divided by their variance.

        Dividing by the variance makes the (scalar) value comparable between text encoders.
        """
        return (self.embeds - original.embeds).square().mean() / original.embeds.var()

    @staticmethod
    def encode(
        pipe: Any, texts: Sequence[str], *, guided: bool, negative_prompt: str = "", clip_skip: int = 0
    ) -> Conditioning:
        """Encode ``texts`` with the pipeline's own code; gradients reach its text encoders.

        Args:
            pipe: A diffusers text-to-image pipeline.
            texts: B prompts.
            guided: Whether to add rows of the empty prompt for classifier-free guidance.
            negative_prompt: Prompt in place of the empty one.
            clip_skip: Number of the text encoder's last layers that are not used.
        """
        with quiet("diffusers", "transformers"), _reachable_layers(pipe.text_encoder, clip_skip):
            encoded = pipe.encode_prompt(
                prompt=list(texts),
                device=pipe.device,
                num_images_per_prompt=1,
                do_classifier_free_guidance=guided,
                # None and not "": SDXL has zeros in place of the embeddings of an empty prompt
                negative_prompt=[negative_prompt] * len(texts) if negative_prompt else None,
                clip_skip=clip_skip or None,
            )
        # SDXL returns pooled embeddings too, in the order prompt, empty prompt
        embeds, null, *pooled = encoded
        parts = [(null, embeds), tuple(reversed(pooled))] if pooled else [(null, embeds)]
        return Conditioning(*(torch.cat(pair) if guided else pair[1] for pair in parts))


@contextmanager
def _reachable_layers(encoder: Any, clip_skip: int) -> Iterator[None]:
    """Let diffusers find the last layer norm of a text encoder when it skips layers.

    diffusers looks for it in ``text_model``, which CLIPTextModel of transformers 5.6 no longer has.
    """
    missing = bool(clip_skip) and "text_model" not in dict(encoder.named_children())
    if missing:
        encoder.__dict__["text_model"] = encoder  # not an assignment, which would register a module
    try:
        yield
    finally:
        if missing:
            del encoder.__dict__["text_model"]


def replace_encoders(pipe: Any, encoders: Mapping[str, Any]) -> Any:
    """Return a pipeline that shares all modules of ``pipe`` except the text encoders given by name."""
    other = type(pipe)(**{**pipe.components, **encoders, **_constructor_settings(pipe)})
    other.set_progress_bar_config(disable=True)
    return other


def _constructor_settings(pipe: Any) -> dict[str, Any]:
    """Return the settings that the pipeline's constructor takes beside its components."""
    names = ("requires_safety_checker", "force_zeros_for_empty_prompt")
    return {name: pipe.config[name] for name in names if name in pipe.config}
