"""MPS of one picture and prompt by the official recipe, Kwai-Kolors/MPS: eval_overall_mps_on_hpdv2.py,
trainer/models/clip_model.py and cross_modeling.py, in float32. Its towers are transformers' own, as there.
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


def pixels_of(image: Image.Image) -> Tensor:
    """What CLIPImageProcessor gives: shortest side to 224, centre, statistics; (1, 3, 224, 224)."""
    image = image.convert("RGB")
    width, height = image.size
    long = int(224 * max(width, height) / min(width, height))
    image = image.resize((224, long) if width <= height else (long, 224), Image.Resampling.BICUBIC)
    left, top = (image.width - 224) // 2, (image.height - 224) // 2
    image = image.crop((left, top, left + 224, top + 224))
    pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1) / 255
    mean = torch.tensor([0.48145466, 0.4578275, 0.40821073])
    std = torch.tensor([0.26862954, 0.26130258, 0.27577711])
    return ((pixels - mean[:, None, None]) / std[:, None, None])[None]


def swiglu(x: Tensor) -> Tensor:
    """The second half gates the first."""
    half = x.shape[-1] // 2
    gated: Tensor = silu(x[..., half:]) * x[..., :half]
    return gated


def rotated(x: Tensor, frequencies: Tensor) -> Tensor:
    """Each row of ``x`` (N, d) turned by its position, the channels as complex numbers."""
    half = x.shape[1] // 2
    angles = torch.outer(torch.arange(len(x), dtype=torch.float32), frequencies)
    turned = torch.complex(x[:, :half], x[:, half:]) * torch.polar(torch.ones_like(angles), angles)
    return torch.cat([turned.real, turned.imag], dim=1)


def attend(query: Tensor, key: Tensor, value: Tensor, mask: Tensor) -> Tensor:
    """One head: queries (N, d) over keys and values (S, d) under a mask (S,) of 0 and -inf."""
    scale: float = query.shape[1] ** 0.5
    return (query / scale @ key.T + mask).softmax(dim=1) @ value


def cross_model(image: Tensor, text: Tensor, mask: Tensor, weights: Mapping[str, Tensor]) -> Tensor:
    """Image tokens (N, D) after four layers over text tokens (T, D) under a mask (T,) of 0 and -inf."""
    heads, width = 16, image.shape[1]
    size = width // heads
    for number in range(4):
        prefix = f"cross_model.layers.{number}."
        w = {key[len(prefix) :]: value for key, value in weights.items() if key.startswith(prefix)}

        x = layer_norm(image, (width,), w["0.fn.norm.weight"], w["0.fn.norm.bias"])
        queries = (x @ w["0.fn.to_q.weight"].T).chunk(heads, dim=1)
        keys, values = (text @ w["0.fn.to_kv.weight"].T).chunk(2, dim=1)
        seen = torch.cat([attend(query, keys, values, mask) for query in queries], dim=1)
        feedforward = swiglu(x @ w["0.fn.ff.0.weight"].T) @ w["0.fn.ff.2.weight"].T
        image = image + seen @ w["0.fn.to_out.weight"].T + feedforward

        x = layer_norm(image, (width,), w["1.fn.norm.weight"], w["1.fn.norm.bias"])
        fused = x @ w["1.fn.fused_attn_ff_proj.weight"].T
        queries = fused[:, :width].chunk(heads, dim=1)
        keys, values = fused[:, width : width + 2 * size].chunk(2, dim=1)
        turns, none = w["1.fn.rotary_emb.inv_freq"], torch.zeros(len(x))
        keys = rotated(keys, turns)
        seen = torch.cat([attend(rotated(query, turns), keys, values, none) for query in queries], dim=1)
        feedforward = swiglu(fused[:, width + 2 * size :]) @ w["1.fn.ff_out.1.weight"].T
        image = image + seen @ w["1.fn.attn_out.weight"].T + feedforward
    return image


@torch.no_grad()
def score(files: Mapping[str, Path], image: Image.Image, prompt: str) -> float:
    """The logit scale times the cosine, for the condition of overall quality."""
    weights = {key[len("mps.") :]: value.float() for key, value in load_file(files["checkpoint"]).items()}
    clip: Any = CLIPModel(CLIPConfig.from_pretrained(files["config"])).eval()
    clip.load_state_dict(
        {key[len("model.") :]: value for key, value in weights.items() if key.startswith("model.")}
    )
    tokenizer = CLIPTokenizer.from_pretrained(files["tokenizer"])

    def read(text: str) -> tuple[Tensor, Tensor]:
        ids = tokenizer(text, max_length=77, padding="max_length", truncation=True, return_tensors="pt")
        output = clip.text_model(input_ids=ids["input_ids"])
        tokens = clip.text_projection(output.last_hidden_state)
        return tokens[0], clip.text_projection(output.pooler_output)[0]

    text, end = read(prompt)
    condition, _ = read(OVERALL)
    states = clip.vision_model(pixel_values=pixels_of(image)).last_hidden_state
    similarity = (condition @ text.T).max(dim=0).values
    mask = torch.where(similarity / similarity.max() > 0.3, 0.0, float("-inf"))
    seen = cross_model(clip.visual_projection(states)[0], text, mask, weights)[0]
    return float(clip.logit_scale.exp() * (end / end.norm()) @ (seen / seen.norm()))
