"""VQAScore of one picture, in plain tensor operations.

As linzhiqiu/t2v_metrics scores with CLIP-FlanT5 (clip_t5_model.py, mm_utils.py and clip_t5 below
t2v_metrics/models/vqascore_models), in float32. The two networks are written out from their papers: Radford
et al. 2021, and Raffel et al. 2020 with the gated layers of version 1.1, whose output layer is not its table
of words.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from tokenizers import Tokenizer
from torch import Tensor
from torch.nn import functional as F

MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
GREETING = (
    "A chat between a curious user and an artificial intelligence assistant. The assistant gives helpful, "
    "detailed, and polite answers to the user's questions. USER: "
)
QUESTION = '\nDoes this figure show "{}"? Please answer yes or no. ASSISTANT: '
MOST_TOKENS = 2048

State = Mapping[str, Tensor]


def score(files: Mapping[str, Path], image: Image.Image, prompt: str) -> float:
    """VQAScore of the picture for the prompt, from the files "model", "tower" and "tokenizer"."""
    state = read(files["model"])
    sizes = json.loads((files["model"] / "config.json").read_text(encoding="utf-8"))
    vision = json.loads(files["tower"].read_text(encoding="utf-8"))["vision_config"]
    tokenizer = Tokenizer.from_file(str(files["tokenizer"]))

    before, after, yes = (tokenizer.encode(text).ids for text in (GREETING, QUESTION.format(prompt), "Yes"))
    after = after[: MOST_TOKENS - len(before) - 1]
    patches = see(image, vision, state)
    patches = F.gelu(patches @ state["mm_projector.0.weight"].T + state["mm_projector.0.bias"])
    patches = patches @ state["mm_projector.2.weight"].T + state["mm_projector.2.bias"]
    words = state["shared.weight"]
    memory = encode(torch.cat([words[before], patches, words[after]]), sizes, state)
    states = decode(words[[0, *yes[:-1]]], memory, sizes, state)
    logits = states @ state["lm_head.weight"].T
    loss = F.cross_entropy(logits[:, : tokenizer.get_vocab_size()], torch.tensor(yes))
    return math.exp(-loss.item())


def read(folder: Path) -> dict[str, Tensor]:
    index = json.loads((folder / "pytorch_model.bin.index.json").read_text(encoding="utf-8"))["weight_map"]
    state: dict[str, Tensor] = {}
    for part in set(index.values()):
        state |= torch.load(folder / part, weights_only=True)
    return {key: value.float() for key, value in state.items()}


def square(image: Image.Image) -> Image.Image:
    """The picture in the middle of a square of CLIP's mean colour."""
    image = image.convert("RGB")
    side = max(image.size)
    red, green, blue = (int(value * 255) for value in MEAN)
    canvas = Image.new("RGB", (side, side), (red, green, blue))
    canvas.paste(image, ((side - image.width) // 2, (side - image.height) // 2))
    return canvas


def see(image: Image.Image, sizes: Mapping[str, int], state: State) -> Tensor:
    """The patches' states (T, D) before the tower's last layer."""
    prefix = "vision_tower.vision_tower.vision_model."
    own = {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
    px = sizes["image_size"]
    levels = np.asarray(square(image).resize((px, px), Image.Resampling.BICUBIC), dtype=np.float32)
    pixels = torch.from_numpy(levels / 255).permute(2, 0, 1)
    pixels = (pixels - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)

    patch = own["embeddings.patch_embedding.weight"]
    grid = F.conv2d(pixels[None], patch, stride=sizes["patch_size"])[0].flatten(1).T
    x = torch.cat([own["embeddings.class_embedding"][None], grid])
    x = layer_norm(x + own["embeddings.position_embedding.weight"], own, "pre_layrnorm")
    heads = sizes["num_attention_heads"]
    for place in range(sizes["num_hidden_layers"] - 1):
        layer = f"encoder.layers.{place}."
        y = layer_norm(x, own, f"{layer}layer_norm1")
        q, k, v = (split(linear(y, own, f"{layer}self_attn.{name}_proj"), heads) for name in "qkv")
        weights = (q @ k.transpose(1, 2) / math.sqrt(q.shape[-1])).softmax(dim=-1)
        x = x + linear(join(weights @ v), own, f"{layer}self_attn.out_proj")
        y = linear(layer_norm(x, own, f"{layer}layer_norm2"), own, f"{layer}mlp.fc1")
        x = x + linear(y * torch.sigmoid(1.702 * y), own, f"{layer}mlp.fc2")
    return x[1:]


def linear(x: Tensor, state: State, name: str) -> Tensor:
    return x @ state[f"{name}.weight"].T + state[f"{name}.bias"]


def layer_norm(x: Tensor, state: State, name: str) -> Tensor:
    return F.layer_norm(x, x.shape[-1:], state[f"{name}.weight"], state[f"{name}.bias"], 1e-5)


def split(x: Tensor, heads: int) -> Tensor:
    return x.view(len(x), heads, -1).transpose(0, 1)


def join(x: Tensor) -> Tensor:
    return x.transpose(0, 1).flatten(1)


def encode(x: Tensor, sizes: Mapping[str, int], state: State) -> Tensor:
    """T5's encoder: (T, D) to (T, D)."""
    position = torch.arange(len(x))
    table = state["encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight"]
    bias = table[both_ways(position[None] - position[:, None])].permute(2, 0, 1)
    for place in range(sizes["num_layers"]):
        block = f"encoder.block.{place}.layer"
        y = rms(x, state[f"{block}.0.layer_norm.weight"])
        x = x + attend(y, y, bias, f"{block}.0.SelfAttention", sizes["num_heads"], state)
        x = x + feed_forward(rms(x, state[f"{block}.1.layer_norm.weight"]), f"{block}.1", state)
    return rms(x, state["encoder.final_layer_norm.weight"])


def decode(x: Tensor, memory: Tensor, sizes: Mapping[str, int], state: State) -> Tensor:
    """T5's decoder: the few embeddings (A, D) of an answer to its states (A, D)."""
    position = torch.arange(len(x))
    back = position[:, None] - position[None]  # distances of up to 15 have a bias each
    table = state["decoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight"]
    bias = table[back.clamp(min=0)].permute(2, 0, 1).masked_fill(back < 0, -math.inf)
    none = torch.zeros(1)
    for place in range(sizes["num_decoder_layers"]):
        block, heads = f"decoder.block.{place}.layer", sizes["num_heads"]
        y = rms(x, state[f"{block}.0.layer_norm.weight"])
        x = x + attend(y, y, bias, f"{block}.0.SelfAttention", heads, state)
        y = rms(x, state[f"{block}.1.layer_norm.weight"])
        x = x + attend(y, memory, none, f"{block}.1.EncDecAttention", heads, state)
        x = x + feed_forward(rms(x, state[f"{block}.2.layer_norm.weight"]), f"{block}.2", state)
    return rms(x, state["decoder.final_layer_norm.weight"])


def rms(x: Tensor, weight: Tensor) -> Tensor:
    return x * torch.rsqrt(x.square().mean(dim=-1, keepdim=True) + 1e-6) * weight


def attend(x: Tensor, source: Tensor, bias: Tensor, name: str, heads: int, state: State) -> Tensor:
    """T5's attention, whose products are not divided by the root of the width."""
    q = split(x @ state[f"{name}.q.weight"].T, heads)
    k, v = (split(source @ state[f"{name}.{part}.weight"].T, heads) for part in "kv")
    return join((q @ k.transpose(1, 2) + bias).softmax(dim=-1) @ v) @ state[f"{name}.o.weight"].T


def feed_forward(x: Tensor, name: str, state: State) -> Tensor:
    gate, up, down = (state[f"{name}.DenseReluDense.{part}.weight"] for part in ("wi_0", "wi_1", "wo"))
    return (F.gelu(x @ gate.T, approximate="tanh") * (x @ up.T)) @ down.T


def both_ways(offset: Tensor) -> Tensor:
    """T5's 32 buckets of a key's position less the query's: 16 each way, of which 8 are a distance each."""
    distance = offset.abs()
    far = 8 + (torch.log(distance.clamp(min=1).float() / 8) / math.log(128 / 8) * 8).long()
    return torch.where(distance < 8, distance, far.clamp(max=15)) + 16 * (offset > 0)
