"""MPS in float32: transformers' CLIP towers, and the cross-attention written out.

Official code: Kwai-Kolors/MPS (eval_overall_mps_on_hpdv2.py, trainer/models/clip_model.py and
trainer/models/cross_modeling.py). Shapes: N image tokens, T text tokens, D width, d width of a head.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor
from torch.nn.functional import layer_norm, silu
from transformers import CLIPConfig, CLIPModel, CLIPTokenizer

OVERALL = (
    "light, color, clarity, tone, style, ambiance, artistry, shape, face, hair, hands, limbs, structure, "
    "instance, texture, quantity, attributes, position, number, location, word, things."
)
"""The condition of overall quality (`infer_one_sample`)."""


@torch.no_grad()
def score(files: Mapping[str, Path], image: Image.Image, prompt: str) -> float:
    """Return the logit scale times the cosine of text and image, for the condition of overall quality."""
    weights = {key[len("mps.") :]: value.float() for key, value in load_file(files["checkpoint"]).items()}
    clip: Any = CLIPModel(CLIPConfig.from_pretrained(files["config"])).eval()
    clip.load_state_dict(
        {key[len("model.") :]: value for key, value in weights.items() if key.startswith("model.")}
    )
    tokenizer = CLIPTokenizer.from_pretrained(files["tokenizer"])

    def encode(text: str) -> tuple[Tensor, Tensor]:
        """Return all tokens (T, D) and the pooled one (D,). The official model projects both."""
        ids = tokenizer(text, max_length=77, padding="max_length", truncation=True, return_tensors="pt")
        output = clip.text_model(input_ids=ids["input_ids"])
        tokens = clip.text_projection(output.last_hidden_state)
        return tokens[0], clip.text_projection(output.pooler_output)[0]

    text, pooled = encode(prompt)
    condition, _ = encode(OVERALL)
    # All image tokens are projected, without the last norm, which CLIP applies to the class token only.
    states = clip.vision_model(pixel_values=_pixels(image)).last_hidden_state
    # infer_one_sample: the image attends to a text token if the token's best match among the condition's
    # tokens is above 0.3 of the prompt's best match. 0.3 is from the evaluation scripts; the model's own
    # forward has 0.01.
    similarity = (condition @ text.T).max(dim=0).values
    mask = torch.where(similarity / similarity.max() > 0.3, 0.0, float("-inf"))
    image_feature = _cross_model(clip.visual_projection(states)[0], text, mask, weights)[0]  # class token
    cosine = (pooled / pooled.norm()) @ (image_feature / image_feature.norm())
    return float(clip.logit_scale.exp() * cosine)


def _pixels(image: Image.Image) -> Tensor:
    """Return what CLIPImageProcessor gives: (1, 3, 224, 224).

    The longest side is rounded down, as transformers does; torchvision's transform may differ by a pixel.
    """
    image = image.convert("RGB")
    width, height = image.size
    longest = int(224 * max(width, height) / min(width, height))
    image = image.resize((224, longest) if width <= height else (longest, 224), Image.Resampling.BICUBIC)
    left, top = (image.width - 224) // 2, (image.height - 224) // 2
    image = image.crop((left, top, left + 224, top + 224))
    pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1) / 255
    mean = torch.tensor([0.48145466, 0.4578275, 0.40821073])
    std = torch.tensor([0.26862954, 0.26130258, 0.27577711])
    return ((pixels - mean[:, None, None]) / std[:, None, None])[None]


def _swiglu(x: Tensor) -> Tensor:
    """Gate the first half with the second (Shazeer 2020, SwiGLU)."""
    half = x.shape[-1] // 2
    gated: Tensor = silu(x[..., half:]) * x[..., :half]
    return gated


def _rotate(x: Tensor, frequencies: Tensor) -> Tensor:
    """Apply rotary position embeddings to ``x`` (N, d).

    Channel i and channel i + d/2 are one complex number, which is multiplied by exp(1j * position *
    frequency).
    """
    half = x.shape[1] // 2
    angles = torch.outer(torch.arange(len(x), dtype=torch.float32), frequencies)
    rotated = torch.complex(x[:, :half], x[:, half:]) * torch.polar(torch.ones_like(angles), angles)
    return torch.cat([rotated.real, rotated.imag], dim=1)


def _attend(query: Tensor, key: Tensor, value: Tensor, mask: Tensor) -> Tensor:
    """Attend with one head: queries (N, d), keys and values (S, d), mask (S,) of 0 and -inf."""
    scale: float = query.shape[1] ** 0.5
    return (query / scale @ key.T + mask).softmax(dim=1) @ value


def _cross_model(image: Tensor, text: Tensor, mask: Tensor, weights: Mapping[str, Tensor]) -> Tensor:
    """Return image tokens (N, D) after four layers of cross- and self-attention.

    Args:
        image: Image tokens (N, D).
        text: Text tokens (T, D).
        mask: (T,) of 0 and -inf.
        weights: The checkpoint's tensors.
    """
    heads, width = 16, image.shape[1]
    size = width // heads
    for number in range(4):
        prefix = f"cross_model.layers.{number}."
        w = {key[len(prefix) :]: value for key, value in weights.items() if key.startswith(prefix)}

        # Cross-attention and a feed-forward branch in parallel: both read the normalized input, both are
        # added. All heads share one key and one value projection (multi-query attention).
        x = layer_norm(image, (width,), w["0.fn.norm.weight"], w["0.fn.norm.bias"])
        queries = (x @ w["0.fn.to_q.weight"].T).chunk(heads, dim=1)
        keys, values = (text @ w["0.fn.to_kv.weight"].T).chunk(2, dim=1)
        attended = torch.cat([_attend(query, keys, values, mask) for query in queries], dim=1)
        feedforward = _swiglu(x @ w["0.fn.ff.0.weight"].T) @ w["0.fn.ff.2.weight"].T
        image = image + attended @ w["0.fn.to_out.weight"].T + feedforward

        # Self-attention in parallel with a feed-forward branch: one matrix gives queries, the shared key and
        # value, and the feed-forward input.
        x = layer_norm(image, (width,), w["1.fn.norm.weight"], w["1.fn.norm.bias"])
        fused = x @ w["1.fn.fused_attn_ff_proj.weight"].T
        queries = fused[:, :width].chunk(heads, dim=1)
        keys, values = fused[:, width : width + 2 * size].chunk(2, dim=1)
        frequencies, no_mask = w["1.fn.rotary_emb.inv_freq"], torch.zeros(len(x))
        keys, queries = _rotate(keys, frequencies), tuple(_rotate(query, frequencies) for query in queries)
        attended = torch.cat([_attend(query, keys, values, no_mask) for query in queries], dim=1)
        feedforward = _swiglu(fused[:, width + 2 * size :]) @ w["1.fn.ff_out.1.weight"].T
        image = image + attended @ w["1.fn.attn_out.weight"].T + feedforward
    return image
