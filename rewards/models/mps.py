"""MPS: what of a picture matters for one condition of quality, here for the overall one.

Zhang et al. 2024, "Learning Multi-dimensional Human Preference for Text-to-Image Generation"; the
recipe is that of the official evaluations (Kwai-Kolors/MPS, eval_overall_mps_on_hpdv2.py). Modules are named
as there, so that the published keys load unchanged. Shapes: B batch, N image tokens, T text tokens, H heads,
D width.
"""

from __future__ import annotations

import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.serialization import get_unsafe_globals_in_checkpoint

from rewards.backbones.head import Wide
from rewards.backbones.tokens import clip_tokenizer
from rewards.backbones.towers import cosine
from rewards.base import Reward
from rewards.weights.tensors import load_state, read_tensors
from tcbench.errors import MismatchError

CONDITION = (
    "light, color, clarity, tone, style, ambiance, artistry, shape, face, hair, hands, limbs, structure, "
    "instance, texture, quantity, attributes, position, number, location, word, things."
)
"""The words of overall quality, of the official evaluations."""

THRESHOLD = 0.3
"""Share of the prompt's closest similarity to the condition that a token needs in order to be seen.

The official evaluations, which made the published numbers, say 0.3; the model's own forward pass says 0.01.
"""

LAYERS, HEADS, FEEDFORWARD = 4, 16, 4
"""Sizes of the cross-attention, the last in widths."""

ROTARY_BASE = 10000


class Mps(Reward):
    """The logit scale times the cosine of the prompt and of the image that has read the prompt.

    The checkpoint is a state dict of the official module, as it is or under "mps.", as the hub has it.
    The official code runs it in half precision, where a token may fall on the other side of the threshold.
    """

    condition: Tensor

    def _build(self, files: Mapping[str, Path]) -> None:
        from transformers import CLIPConfig

        config = CLIPConfig.from_json_file(files["config"])
        self.network = MpsNetwork(config)
        state = _read_checkpoint(files["checkpoint"])
        load_state(self.network, state, files["checkpoint"], ignore=(".position_ids",))
        self.tokenizer = clip_tokenizer(files["tokenizer"], int(config.text_config.max_position_embeddings))
        with torch.no_grad():
            words = self.network.read(self.tokenizer([CONDITION]).ids)[0]
        self.register_buffer("condition", words.clone())  # (T, D)

    def _score(self, pixels: Tensor, prompts: Sequence[str]) -> Tensor:
        assert self.tokenizer is not None  # made in _build
        ids = self.tokenizer(prompts).ids.to(pixels.device)
        text = self.network.read(ids)
        ends = text[torch.arange(len(ids), device=ids.device), ids.argmax(dim=-1)]  # the first end token
        image = self.network.look(pixels, text, relevant(text, self.condition))
        return cosine(F.normalize(image, dim=-1), F.normalize(ends, dim=-1)) * self.network.logit_scale


def relevant(text: Tensor, condition: Tensor) -> Tensor:
    """Which tokens (B, T) of each prompt the image may see: those that are close to some of the condition's.

    ``text`` (B, T, D) and ``condition`` (S, D) are not normalised, and padding counts in both, as in the
    official code. That divides by the largest similarity of its batch, which it evaluates one by one: here it
    is each prompt's own, so that a score does not depend on the batch.
    """
    similarity = (text @ condition.T).amax(dim=-1)
    return similarity / similarity.amax(dim=-1, keepdim=True) > THRESHOLD


class MpsNetwork(nn.Module):
    """A CLIP whose image tokens look at its text tokens; the class token's place then is the image."""

    def __init__(self, config: Any) -> None:
        """``config`` is transformers' configuration of the CLIP."""
        from transformers import CLIPModel

        super().__init__()
        self.model: Any = CLIPModel(config)
        self.cross_model = CrossModel(config.projection_dim)

    @property
    def logit_scale(self) -> Tensor:
        """The learnt factor of the cosine."""
        scale: Tensor = self.model.logit_scale.exp()
        return scale

    def read(self, ids: Tensor) -> Tensor:
        """Ids (B, T), padding included, to text tokens (B, T, D)."""
        tokens: Tensor = self.model.text_projection(self.model.text_model(input_ids=ids).last_hidden_state)
        return tokens

    def look(self, pixels: Tensor, text: Tensor, visible: Tensor) -> Tensor:
        """The image (B, D) in ``pixels`` (B, 3, S, S) after it saw the ``visible`` (B, T) of the ``text``."""
        states = self.model.vision_model(pixel_values=pixels).last_hidden_state  # before the last norm
        image: Tensor = self.cross_model(self.model.visual_projection(states), text, visible)[:, 0]
        return image


class CrossModel(nn.Module):
    """Layers that attend to the text, then to the image itself, each added to its input."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            nn.ModuleList(nn.ModuleDict({"fn": block(width)}) for block in (CrossAttention, SelfAttention))
            for _ in range(LAYERS)
        )

    def forward(self, image: Tensor, text: Tensor, visible: Tensor) -> Tensor:
        """``image`` (B, N, D) after it saw the ``visible`` (B, T) tokens of ``text`` (B, T, D)."""
        layers: Any = self.layers
        for to_text, to_image in layers:
            image = image + to_text["fn"](image, text, visible[:, None, None])
            image = image + to_image["fn"](image)
        return image


class SwiGLU(nn.Module):
    """The first half of the channels times the SiLU of the second (Shazeer 2020)."""

    def forward(self, x: Tensor) -> Tensor:
        value, gate = x.chunk(2, dim=-1)
        gated: Tensor = F.silu(gate) * value
        return gated


class CrossAttention(nn.Module):
    """Multi-query attention to the text and, beside it, a feed-forward of the image alone."""

    def __init__(self, width: int) -> None:
        super().__init__()
        inner = FEEDFORWARD * width
        self.norm = nn.LayerNorm(width)
        self.to_q = nn.Linear(width, width, bias=False)
        self.to_kv = nn.Linear(width, 2 * width // HEADS, bias=False)
        self.to_out = nn.Linear(width, width, bias=False)
        self.ff = nn.Sequential(
            nn.Linear(width, 2 * inner, bias=False), SwiGLU(), nn.Linear(inner, width, bias=False)
        )

    def forward(self, image: Tensor, text: Tensor, visible: Tensor) -> Tensor:
        """``image`` (B, N, D) and ``text`` (B, T, D), of which ``visible`` (B, 1, 1, T) is, to (B, N, D)."""
        x = self.norm(image)
        key, value = self.to_kv(text).chunk(2, dim=-1)
        attended = attend(in_heads(self.to_q(x)), key, value, visible)
        out: Tensor = self.to_out(attended) + self.ff(x)
        return out


class SelfAttention(nn.Module):
    """Multi-query attention of the image to itself, with rotary positions, beside a feed-forward."""

    def __init__(self, width: int) -> None:
        super().__init__()
        head, inner = width // HEADS, FEEDFORWARD * width
        self.parts = [width, head, head, 2 * inner]
        self.norm = nn.LayerNorm(width)
        self.rotary_emb = Rotary(head)
        self.fused_attn_ff_proj = nn.Linear(width, sum(self.parts), bias=False)
        self.attn_out = nn.Linear(width, width, bias=False)
        self.ff_out = nn.Sequential(SwiGLU(), nn.Linear(inner, width, bias=False))

    def forward(self, image: Tensor) -> Tensor:
        query, key, value, ff = torch.split(self.fused_attn_ff_proj(self.norm(image)), self.parts, -1)
        attended = attend(self.rotary_emb(in_heads(query)), self.rotary_emb(key), value)
        out: Tensor = self.attn_out(attended) + self.ff_out(ff)
        return out


class Rotary(Wide):
    """Turns pairs of channels by angles that grow with the position (Su et al. 2021).

    The frequencies are loaded like weights: a checkpoint in half precision was trained with rounded ones.
    """

    inv_freq: Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        self.register_buffer("inv_freq", ROTARY_BASE ** -(torch.arange(0, width, 2) / width))

    def forward(self, x: Tensor) -> Tensor:
        """``x`` (..., N, D / H), of which channel i is paired with the one half the width further."""
        angles = torch.arange(x.shape[-2], device=x.device).to(self.inv_freq)[:, None] * self.inv_freq
        cos, sin = angles.cos().to(x), angles.sin().to(x)
        first, second = x.chunk(2, dim=-1)
        return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)


def in_heads(x: Tensor) -> Tensor:
    """(B, N, D) to (B, H, N, D / H)."""
    return x.view(*x.shape[:-1], HEADS, -1).transpose(1, 2)


def attend(query: Tensor, key: Tensor, value: Tensor, visible: Tensor | None = None) -> Tensor:
    """Multi-query attention (Shazeer 2019): all heads of ``query`` (B, H, N, D / H) share one ``key``.

    ``key`` and ``value`` are (B, S, D / H), ``visible`` (B, 1, 1, S) is true where they may be seen. The
    result is (B, N, D).
    """
    key, value = (x[:, None].expand(-1, HEADS, -1, -1) for x in (key, value))
    attended = F.scaled_dot_product_attention(query, key, value, attn_mask=visible)
    return attended.transpose(1, 2).flatten(2)


def _read_checkpoint(path: Path) -> dict[str, Tensor]:
    """The official module's state dict. Raises `MismatchError`, also for that module itself."""
    try:
        tensors = read_tensors(path)
    except MismatchError as error:
        if not (zipfile.is_zipfile(path) and get_unsafe_globals_in_checkpoint(path)):
            raise
        raise MismatchError(
            f"{path} is a pickled module, as the official MPS_overall_checkpoint.pth is, "
            "and reading it would run code from it; give its state dict instead: model.safetensors of "
            "RE-N-Y/mpsv1, or what torch.save(torch.load(path, weights_only=False).state_dict(), 'mps.pth') "
            "makes of it in a sandbox with the official repository"
        ) from error
    return {key.removeprefix("mps."): value for key, value in tensors.items()}
