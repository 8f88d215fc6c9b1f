"""Text conditioning for the UNet: embeddings of a pipeline's text encoders, and mixes of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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
    def encode(pipe: Any, texts: Sequence[str], *, guided: bool) -> Conditioning:
        """Encode ``texts`` with the pipeline's own code; gradients reach its text encoders.

        Args:
            pipe: A diffusers text-to-image pipeline.
            texts: B prompts.
            guided: Whether to add rows of the empty prompt for classifier-free guidance.
        """
        with quiet("diffusers", "transformers"):
            encoded = pipe.encode_prompt(
                prompt=list(texts),
                device=pipe.device,
                num_images_per_prompt=1,
                do_classifier_free_guidance=guided,
            )
        # SDXL returns pooled embeddings too, in the order prompt, empty prompt
        embeds, null, *pooled = encoded
        parts = [(null, embeds), tuple(reversed(pooled))] if pooled else [(null, embeds)]
        return Conditioning(*(torch.cat(pair) if guided else pair[1] for pair in parts))


def replace_encoders(pipe: Any, encoders: Mapping[str, Any]) -> Any:
    """Return a pipeline that shares all modules of ``pipe`` except the text encoders given by name."""
    other = type(pipe)(**{**pipe.components, **encoders, **_constructor_settings(pipe)})
    other.set_progress_bar_config(disable=True)
    return other


def _constructor_settings(pipe: Any) -> dict[str, Any]:
    """Return the settings that the pipeline's constructor takes beside its components."""
    names = ("requires_safety_checker", "force_zeros_for_empty_prompt")
    return {name: pipe.config[name] for name in names if name in pipe.config}
