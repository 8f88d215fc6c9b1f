"""BLIP as a ranker: a vision transformer, a BERT that attends to it, and a head on the first text state.

The architecture of ImageReward (Xu et al. 2023, section 3.1), based on BLIP (Li et al. 2022, figure 2).
Modules are named as in the published checkpoint, so its keys load unchanged. Shapes: B batch, N image tokens,
T text tokens, S source tokens, D width.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rewards.backbones.head import ScoreHead
from rewards.backbones.processor import read_json
from tcbench.errors import MismatchError


@dataclass(frozen=True)
class BlipConfig:
    """Sizes of a `BlipRanker`. The defaults are ImageReward's: ViT-L/16 at 224 pixels and BERT-base."""

    image_size: int = 224
    patch_size: int = 16
    vision_width: int = 1024
    vision_layers: int = 24
    vision_heads: int = 16
    text_width: int = 768
    text_layers: int = 12
    text_heads: int = 12
    vocab_size: int = 30524
    max_positions: int = 512
    max_tokens: int = 35
    mean: float = 0.0
    """Mean of the raw reward over the training data; the score is (raw - mean) / std."""
    std: float = 1.0
    """Standard deviation of the raw reward over the training data."""

    @classmethod
    def read(cls, path: Path) -> BlipConfig:
        """Read a JSON file that holds these fields by name. Raises `MismatchError` if it does not."""
        values = read_json(path)
        unknown = sorted(set(values) - set(cls.__dataclass_fields__))
        if unknown:
            known, given = map(MismatchError.listed, (cls.__dataclass_fields__, unknown))
            raise MismatchError(f"{path} has unknown fields: {given}; available: {known}")
        return cls(**values)


class BlipRanker(nn.Module):
    """Predicts how much people like an image for a text, as an unbounded raw reward."""

    def __init__(self, config: BlipConfig) -> None:
        super().__init__()
        self.config = config
        self.blip = nn.ModuleDict(
            {"visual_encoder": _VisionTransformer(config), "text_encoder": _CrossAttendingBert(config)}
        )
        self.mlp = ScoreHead(config.text_width)

    def forward(self, pixels: Tensor, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Return raw rewards (B,).

        Args:
            pixels: Normalised images (B, 3, H, W) of the configured size.
            input_ids: Token ids (B, T), int64.
            attention_mask: 1 for text, 0 for padding, (B, T).
        """
        return self.judge(self.blip["visual_encoder"](pixels), input_ids, attention_mask)

    def judge(self, image: Tensor, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Return raw rewards (B,) for image tokens (B, N, D) that are already encoded."""
        states = self.blip["text_encoder"](input_ids, attention_mask, image)
        reward: Tensor = self.mlp(states[:, 0])
        return reward


class _VisionTransformer(nn.Module):
    """Pre-norm ViT (Dosovitskiy et al. 2021) that returns all tokens, the class token first."""

    def __init__(self, config: BlipConfig) -> None:
        super().__init__()
        width, patch = config.vision_width, config.patch_size
        tokens = 1 + (config.image_size // patch) ** 2
        self.cls_token = nn.Parameter(torch.randn(1, 1, width) * 0.02)
        self.pos_embed = nn.Parameter(torch.randn(1, tokens, width) * 0.02)
        self.patch_embed = nn.ModuleDict({"proj": nn.Conv2d(3, width, patch, stride=patch)})
        self.blocks = nn.ModuleList(
            _VisionBlock(width, config.vision_heads) for _ in range(config.vision_layers)
        )
        self.norm = nn.LayerNorm(width, eps=1e-6)

    def forward(self, pixels: Tensor) -> Tensor:
        """Return tokens (B, 1 + N, D) of images (B, 3, H, W)."""
        patches = self.patch_embed["proj"](pixels).flatten(2).transpose(1, 2)
        x = torch.cat([self.cls_token.expand(len(patches), -1, -1), patches], dim=1) + self.pos_embed
        for block in self.blocks:
            x = block(x)
        tokens: Tensor = self.norm(x)
        return tokens


class _VisionBlock(nn.Module):
    """Self-attention and feed-forward layers, each on its normalised input and with a residual."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1 = nn.LayerNorm(width, eps=1e-6)
        self.attn = nn.ModuleDict({"qkv": nn.Linear(width, 3 * width), "proj": nn.Linear(width, width)})
        self.norm2 = nn.LayerNorm(width, eps=1e-6)
        self.mlp = nn.ModuleDict({"fc1": nn.Linear(width, 4 * width), "fc2": nn.Linear(4 * width, width)})

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = self.attn["qkv"](self.norm1(x)).chunk(3, dim=-1)
        x = x + self.attn["proj"](_attend(query, key, value, self.heads))
        updated: Tensor = x + self.mlp["fc2"](F.gelu(self.mlp["fc1"](self.norm2(x))))
        return updated


class _CrossAttendingBert(nn.Module):
    """BERT (Devlin et al. 2019) without segments or pooler; its layers also attend to the image."""

    def __init__(self, config: BlipConfig) -> None:
        super().__init__()
        self.embeddings = _BertEmbeddings(config)
        self.encoder = nn.ModuleDict(
            {"layer": nn.ModuleList(_BertLayer(config) for _ in range(config.text_layers))}
        )

    def forward(self, input_ids: Tensor, attention_mask: Tensor, image: Tensor | None) -> Tensor:
        """Return text states (B, T, D).

        Args:
            input_ids: Token ids (B, T).
            attention_mask: 1 for text, 0 for padding, (B, T).
            image: Image tokens (B, N, D_image); None encodes the text alone.
        """
        x: Tensor = self.embeddings(input_ids)
        # Padding tokens are never attended to, so their states do not matter; the head reads the first token.
        visible = attention_mask.bool()[:, None, None, :]
        layers: Any = self.encoder["layer"]
        for layer in layers:
            x = layer(x, visible, image)
        return x


class _BertEmbeddings(nn.Module):
    """Sum of word and position embeddings, normalised."""

    def __init__(self, config: BlipConfig) -> None:
        super().__init__()
        self.word_embeddings = nn.Embedding(config.vocab_size, config.text_width, padding_idx=0)
        self.position_embeddings = nn.Embedding(config.max_positions, config.text_width)
        self.LayerNorm = nn.LayerNorm(config.text_width, eps=1e-12)
        for table in (self.word_embeddings, self.position_embeddings):
            nn.init.normal_(table.weight, std=0.02)

    def forward(self, input_ids: Tensor) -> Tensor:
        positions = torch.arange(input_ids.shape[1], device=input_ids.device)
        embedded = self.word_embeddings(input_ids) + self.position_embeddings(positions)
        normed: Tensor = self.LayerNorm(embedded)
        return normed


class _BertLayer(nn.Module):
    """Self-attention, attention to the image and feed-forward, each with residual and post-norm."""

    def __init__(self, config: BlipConfig) -> None:
        super().__init__()
        width = config.text_width
        self.attention = _BertAttention(width, width, config.text_heads)
        self.crossattention = _BertAttention(width, config.vision_width, config.text_heads)
        self.intermediate = nn.ModuleDict({"dense": nn.Linear(width, 4 * width)})
        self.output = _AddAndNorm(4 * width, width)

    def forward(self, x: Tensor, visible: Tensor, image: Tensor | None) -> Tensor:
        x = self.attention(x, x, visible)
        if image is not None:
            x = self.crossattention(x, image, None)
        out: Tensor = self.output(F.gelu(self.intermediate["dense"](x)), x)
        return out


class _BertAttention(nn.Module):
    """Multi-head attention of the text to itself or to the image, with residual and post-norm."""

    def __init__(self, width: int, source_width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        projections = {"query": nn.Linear(width, width)}
        projections |= {name: nn.Linear(source_width, width) for name in ("key", "value")}
        # The published keys contain "self", which would be awkward as an attribute.
        self.add_module("self", nn.ModuleDict(projections))
        self.output = _AddAndNorm(width, width)

    def forward(self, x: Tensor, source: Tensor, visible: Tensor | None) -> Tensor:
        """Return ``x`` (B, T, D) after attention to ``source`` (B, S, D_source).

        ``visible`` (B, 1, 1, S) is true for source tokens that may be attended to; None means all.
        """
        project: Any = self.get_submodule("self")
        query, key, value = project["query"](x), project["key"](source), project["value"](source)
        attended: Tensor = self.output(_attend(query, key, value, self.heads, visible), x)
        return attended


class _AddAndNorm(nn.Module):
    """``LayerNorm(dense(x) + residual)``."""

    def __init__(self, width: int, out: int) -> None:
        super().__init__()
        self.dense = nn.Linear(width, out)
        self.LayerNorm = nn.LayerNorm(out, eps=1e-12)

    def forward(self, x: Tensor, residual: Tensor) -> Tensor:
        normed: Tensor = self.LayerNorm(self.dense(x) + residual)
        return normed


def _attend(query: Tensor, key: Tensor, value: Tensor, heads: int, visible: Tensor | None = None) -> Tensor:
    """Multi-head attention of ``query`` (B, T, D) over ``key`` and ``value`` (B, S, D); returns (B, T, D)."""
    q, k, v = (x.view(*x.shape[:2], heads, -1).transpose(1, 2) for x in (query, key, value))
    return F.scaled_dot_product_attention(q, k, v, attn_mask=visible).transpose(1, 2).flatten(2)
