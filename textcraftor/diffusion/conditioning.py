"""What a UNet is told of a prompt: made by a pipeline's text encoders, and mixed in embedding space."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from tcbench.quiet import quiet


@dataclass(frozen=True)
class Conditioning:
    """Embeddings (B, T, D) of prompts and, for SDXL, pooled ones (B, P).

    Under classifier-free guidance both have 2 B rows: first those of the empty prompt.
    """

    embeds: Tensor
    pooled: Tensor | None = None

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """Its one or two tensors; ``Conditioning(*tensors)`` is it again."""
        return (self.embeds,) if self.pooled is None else (self.embeds, self.pooled)

    def leaf(self) -> Conditioning:
        """A copy at which gradients can be asked for."""
        return Conditioning(*(part.detach().requires_grad_() for part in self.tensors))

    def of_prompts(self, count: int) -> Conditioning:
        """The last ``count`` rows: without those of the empty prompt, if there are any."""
        return Conditioning(*(part[-count:] for part in self.tensors))

    def without_null_gradient(self) -> Conditioning:
        """Without gradients in the rows of the empty prompt."""
        halves = [part.chunk(2) for part in self.tensors]
        return Conditioning(*(torch.cat([null.detach(), text]) for null, text in halves))


def encode(pipe: Any, texts: Sequence[str], *, guided: bool) -> Conditioning:
    """The conditioning of ``texts``, by the pipeline's own code, with gradients to its text encoders."""
    with quiet("diffusers", "transformers"):
        found = pipe.encode_prompt(
            prompt=list(texts),
            device=pipe.device,
            num_images_per_prompt=1,
            do_classifier_free_guidance=guided,
        )
    embeds, null, *pooled = found
    parts = [(null, embeds), tuple(reversed(pooled))] if pooled else [(null, embeds)]
    return Conditioning(*(torch.cat(pair) if guided else pair[1] for pair in parts))


def mixed(parts: Mapping[str, Conditioning], weights: Mapping[str, float]) -> Conditioning:
    """sum_k w_k c_k, on the embeddings of prompts and of the empty prompt alike (TextCraftor, 3.4)."""
    tensors = [
        [weight * tensor for tensor in parts[name].tensors] for name, weight in weights.items() if weight
    ]
    return Conditioning(*(torch.stack(column).sum(dim=0) for column in zip(*tensors, strict=True)))


def with_encoders(pipe: Any, encoders: Mapping[str, Any]) -> Any:
    """The same pipeline, all modules shared, but for its text encoders of these names."""
    other = type(pipe)(**{**pipe.components, **encoders, **_extra(pipe)})
    other.set_progress_bar_config(disable=True)
    return other


def _extra(pipe: Any) -> dict[str, Any]:
    """Settings that a pipeline's constructor takes beside its components."""
    names = ("requires_safety_checker", "force_zeros_for_empty_prompt")
    return {name: pipe.config[name] for name in names if name in pipe.config}
