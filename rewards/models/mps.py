"""MPS: human preference under a condition of quality, here that of overall quality.

Zhang et al. 2024, "Learning Multi-dimensional Human Preference for Text-to-Image Generation". The recipe is
that of the official evaluations (Kwai-Kolors/MPS, eval_overall_mps_on_hpdv2.py). Modules are named as in that
code, so the published keys load unchanged. Shapes: B batch, N image tokens, T text tokens, S condition
tokens, H heads, D width.
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

from rewards.backbones.head import AtLeastFloat32
from rewards.backbones.tokens import clip_tokenizer
from rewards.backbones.towers import cosine_similarity
from rewards.base import Reward
from rewards.weights.tensors import load_state, read_tensors
from tcbench.errors import MismatchError

CONDITION = (
    "light, color, clarity, tone, style, ambiance, artistry, shape, face, hair, hands, limbs, structure, "
    "instance, texture, quantity, attributes, position, number, location, word, things."
)
"""Words that describe overall quality, from the official evaluations."""

_THRESHOLD = 0.3
"""A token is attended to if its similarity to the condition exceeds this share of its prompt's largest one.

The official evaluations, which produced the published numbers, use 0.3; the forward pass of the model file
uses 0.01.
"""

HEADS = 16
"""Attention heads of the cross-attention."""

_LAYERS, _FEEDFORWARD = 4, 4
"""Layers of the cross-attention, and width of its feed-forward in multiples of the model's width."""

_ROTARY_BASE = 10000


class Mps(Reward):
    """Logit scale times the cosine of the prompt and of the image after it attended to the prompt.

    The checkpoint is a state dict of the official module; the hub's has the prefix "mps.". The official code
    runs in half precision, where a token may fall on the other side of the threshold.
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
            tokens = self.network.embed_text(self.tokenizer([CONDITION]).ids)[0]
        self.register_buffer("condition", tokens.clone())  # (S, D), computed once since it never changes

    def _score(self, pixels: Tensor, prompts: Sequence[str]) -> Tensor:
        assert self.tokenizer is not None, "set in _build"
        ids = self.tokenizer(prompts).ids.to(pixels.device)
        text = self.network.embed_text(ids)
        # CLIP's end token has the largest id, and argmax returns the first one: the end of the prompt, even
        # where the padding is made of the same token.
        ends = text[torch.arange(len(ids), device=ids.device), ids.argmax(dim=-1)]
        image = self.network.embed_image(pixels, text, _visible_tokens(text, self.condition))
        similarity = cosine_similarity(F.normalize(image, dim=-1), F.normalize(ends, dim=-1))
        return similarity * self.network.logit_scale


def _visible_tokens(text: Tensor, condition: Tensor) -> Tensor:
    """Return which tokens (B, T) of each prompt the image attends to: those similar to the condition.

    Args:
        text: Prompt tokens (B, T, D), not normalised, padding included, as in the official code.
        condition: Condition tokens (S, D), likewise.
    """
    similarity = (text @ condition.T).amax(dim=-1)  # (B, T), with the most similar condition token
    # The official code divides by the maximum over its batch, and evaluates batches of one. Here it is each
    # prompt's own maximum, so that a score does not depend on the other images of a batch.
    return similarity / similarity.amax(dim=-1, keepdim=True) > _THRESHOLD


class MpsNetwork(nn.Module):
    """A CLIP whose image tokens attend to its text tokens; the class token then represents the image.

    Args:
        config: transformers' CLIPConfig.
    """

    def __init__(self, config: Any) -> None:
        from transformers import CLIPModel

        super().__init__()
        self.model: Any = CLIPModel(config)
        self.cross_model = _CrossModel(config.projection_dim)

    @property
    def logit_scale(self) -> Tensor:
        """Learnt factor of the cosine."""
        scale: Tensor = self.model.logit_scale.exp()
        return scale

    def embed_text(self, ids: Tensor) -> Tensor:
        """Return text tokens (B, T, D) of token ids (B, T), padding included."""
        tokens: Tensor = self.model.text_projection(self.model.text_model(input_ids=ids).last_hidden_state)
        return tokens

    def embed_image(self, pixels: Tensor, text: Tensor, visible: Tensor) -> Tensor:
        """Return image embeddings (B, D), not normalised.

        Args:
            pixels: Normalised images (B, 3, H, W).
            text: Text tokens (B, T, D).
            visible: Which of them the image attends to, (B, T).
        """
        # All tokens, before CLIP's final norm, which transformers applies to the class token alone.
        states = self.model.vision_model(pixel_values=pixels).last_hidden_state
        image: Tensor = self.cross_model(self.model.visual_projection(states), text, visible)[:, 0]
        return image


class _CrossModel(nn.Module):
    """Layers that attend to the text, then to the image itself, each with a residual."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            nn.ModuleList(nn.ModuleDict({"fn": block(width)}) for block in (_CrossAttention, _SelfAttention))
            for _ in range(_LAYERS)
        )

    def forward(self, image: Tensor, text: Tensor, visible: Tensor) -> Tensor:
        """Return ``image`` (B, N, D) after attention to the ``visible`` (B, T) of ``text`` (B, T, D)."""
        layers: Any = self.layers
        for to_text, to_image in layers:
            image = image + to_text["fn"](image, text, visible[:, None, None])
            image = image + to_image["fn"](image)
        return image


class _SwiGLU(nn.Module):
    """SwiGLU (Shazeer 2020): the first half of the channels times the SiLU of the second."""

    def forward(self, x: Tensor) -> Tensor:
        value, gate = x.chunk(2, dim=-1)
        gated: Tensor = F.silu(gate) * value
        return gated


class _CrossAttention(nn.Module):
    """Multi-query attention to the text, in parallel with a feed-forward layer of the image."""

    def __init__(self, width: int) -> None:
        super().__init__()
        inner = _FEEDFORWARD * width
        self.norm = nn.LayerNorm(width)
        self.to_q = nn.Linear(width, width, bias=False)
        self.to_kv = nn.Linear(width, 2 * width // HEADS, bias=False)
        self.to_out = nn.Linear(width, width, bias=False)
        self.ff = nn.Sequential(
            nn.Linear(width, 2 * inner, bias=False), _SwiGLU(), nn.Linear(inner, width, bias=False)
        )

    def forward(self, image: Tensor, text: Tensor, visible: Tensor) -> Tensor:
        """Return the update (B, N, D) of ``image`` (B, N, D); ``visible`` is (B, 1, 1, T)."""
        x = self.norm(image)
        key, value = self.to_kv(text).chunk(2, dim=-1)
        attended = _multi_query_attention(_split_heads(self.to_q(x)), key, value, visible)
        out: Tensor = self.to_out(attended) + self.ff(x)
        return out


class _SelfAttention(nn.Module):
    """Multi-query attention of the image to itself with rotary positions, parallel to a feed-forward."""

    def __init__(self, width: int) -> None:
        super().__init__()
        head, inner = width // HEADS, _FEEDFORWARD * width
        # One projection gives query, key, value and the feed-forward input; key and value have one head.
        self.widths = [width, head, head, 2 * inner]
        self.norm = nn.LayerNorm(width)
        self.rotary_emb = _Rotary(head)
        self.fused_attn_ff_proj = nn.Linear(width, sum(self.widths), bias=False)
        self.attn_out = nn.Linear(width, width, bias=False)
        self.ff_out = nn.Sequential(_SwiGLU(), nn.Linear(inner, width, bias=False))

    def forward(self, image: Tensor) -> Tensor:
        query, key, value, ff = torch.split(self.fused_attn_ff_proj(self.norm(image)), self.widths, -1)
        attended = _multi_query_attention(self.rotary_emb(_split_heads(query)), self.rotary_emb(key), value)
        out: Tensor = self.attn_out(attended) + self.ff_out(ff)
        return out


class _Rotary(AtLeastFloat32):
    """Rotary position embedding (Su et al. 2021).

    The frequencies are loaded like weights, because a checkpoint in half precision was trained with rounded
    ones. Angles are computed in float32: half precision cannot represent large positions.
    """

    inv_freq: Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        self.register_buffer("inv_freq", _ROTARY_BASE ** -(torch.arange(0, width, 2) / width))

    def forward(self, x: Tensor) -> Tensor:
        """Rotate ``x`` (..., N, D / H); channel i is paired with channel i + D / H / 2."""
        angles = torch.arange(x.shape[-2], device=x.device).to(self.inv_freq)[:, None] * self.inv_freq
        cos, sin = angles.cos().to(x), angles.sin().to(x)
        first, second = x.chunk(2, dim=-1)
        return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)


def _split_heads(x: Tensor) -> Tensor:
    """Reshape (B, N, D) to (B, H, N, D / H)."""
    return x.view(*x.shape[:-1], HEADS, -1).transpose(1, 2)


def _multi_query_attention(
    query: Tensor, key: Tensor, value: Tensor, visible: Tensor | None = None
) -> Tensor:
    """Multi-query attention (Shazeer 2019): all heads of the query share one key and value.

    Args:
        query: (B, H, N, D / H).
        key: (B, T, D / H).
        value: (B, T, D / H).
        visible: True for keys that are attended to, (B, 1, 1, T); None means all.

    Returns:
        Attended values (B, N, D).
    """
    key, value = (x[:, None].expand(-1, HEADS, -1, -1) for x in (key, value))
    attended = F.scaled_dot_product_attention(query, key, value, attn_mask=visible)
    return attended.transpose(1, 2).flatten(2)


def _read_checkpoint(path: Path) -> dict[str, Tensor]:
    """Read the official module's state dict. Raises `MismatchError`, also for a pickled module."""
    try:
        tensors = read_tensors(path)
    except MismatchError as error:
        if not (zipfile.is_zipfile(path) and get_unsafe_globals_in_checkpoint(path)):
            raise
        raise MismatchError(
            f"{path} is a pickled module, like the official MPS_overall_checkpoint.pth, and reading it would "
            "run code from it; use its state dict: model.safetensors of RE-N-Y/mpsv1, or the output of "
            "torch.save(torch.load(path, weights_only=False).state_dict(), 'mps.pth') in a sandbox with the "
            "official repository"
        ) from error
    return {key.removeprefix("mps."): value for key, value in tensors.items()}
