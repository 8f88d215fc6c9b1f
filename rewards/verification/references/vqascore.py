"""VQAScore in plain tensor operations, in float32.

Official code: linzhiqiu/t2v_metrics (clip_t5_model.py, mm_utils.py and clip_t5/ in
t2v_metrics/models/vqascore_models). The two networks are written out from their papers: CLIP's vision
transformer (Radford et al. 2021), and T5 (Raffel et al. 2020) with the gated layers and the untied output
layer of version 1.1.
Shapes: T tokens, A tokens of the answer, D width.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file
from tokenizers import Tokenizer
from torch import Tensor
from torch.nn import functional as F

from rewards.verification.references.open_clip_io import center_crop

_MEAN, _STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
_BEFORE_IMAGE = (
    "A chat between a curious user and an artificial intelligence assistant. The assistant gives helpful, "
    "detailed, and polite answers to the user's questions. USER: "
)
_AFTER_IMAGE = '\nDoes this figure show "{}"? Please answer yes or no. ASSISTANT: '
_CONTEXT_LENGTH = 2048
"""Tokens that are kept of the question, in which the image counts as one (constants.py, CONTEXT_LEN)."""

_State = Mapping[str, Tensor]


def score(files: Mapping[str, Path], image: Image.Image, prompt: str, *, pad: bool = True) -> float:
    """Return the probability of the answer "Yes": the geometric mean over its tokens.

    Args:
        files: Paths by the keys of the reward's weights.
        image: RGB image.
        prompt: The prompt.
        pad: Whether images are padded to a square, as in the official code, or cropped to one.
    """
    state = _read(files["model"])
    sizes = json.loads((files["model"] / "config.json").read_text(encoding="utf-8"))
    vision = json.loads(files["tower"].read_text(encoding="utf-8"))["vision_config"]
    tokenizer = Tokenizer.from_file(str(files["tokenizer"]))

    # mm_utils.py, t5_tokenizer_image_token: the text is split at <image> and both halves are tokenized with
    # their end token, which therefore stands before the image too.
    before, after, yes = (
        tokenizer.encode(text).ids for text in (_BEFORE_IMAGE, _AFTER_IMAGE.format(prompt), "Yes")
    )
    after = after[: _CONTEXT_LENGTH - len(before) - 1]
    patches = _image_tokens(image, vision, state, pad=pad)
    # mlp2x_gelu: the projector from the vision tower to the language model.
    patches = F.gelu(patches @ state["mm_projector.0.weight"].T + state["mm_projector.0.bias"])
    patches = patches @ state["mm_projector.2.weight"].T + state["mm_projector.2.bias"]
    embeddings = state["shared.weight"]
    memory = _encode(torch.cat([embeddings[before], patches, embeddings[after]]), sizes, state)
    # Teacher forcing: the decoder reads the answer shifted by the start token, which is padding (0).
    states = _decode(embeddings[[0, *yes[:-1]]], memory, sizes, state)
    logits = states @ state["lm_head.weight"].T
    # The table has more rows than there are tokens; the official code cuts it to the tokenizer's size.
    loss = F.cross_entropy(logits[:, : tokenizer.get_vocab_size()], torch.tensor(yes))
    return math.exp(-loss.item())


def _read(folder: Path) -> dict[str, Tensor]:
    """Read a checkpoint: published shards, or the single file of the embedded world."""
    if (folder / "model.safetensors").exists():
        return {key: value.float() for key, value in load_file(folder / "model.safetensors").items()}
    index = json.loads((folder / "pytorch_model.bin.index.json").read_text(encoding="utf-8"))["weight_map"]
    state: dict[str, Tensor] = {}
    for part in set(index.values()):
        state |= torch.load(folder / part, weights_only=True)
    return {key: value.float() for key, value in state.items()}


def _expand_to_square(image: Image.Image) -> Image.Image:
    """Put the image in the middle of a square of CLIP's mean colour (mm_utils.py, expand2square)."""
    image = image.convert("RGB")
    side = max(image.size)
    red, green, blue = (int(value * 255) for value in _MEAN)
    canvas = Image.new("RGB", (side, side), (red, green, blue))
    canvas.paste(image, ((side - image.width) // 2, (side - image.height) // 2))
    return canvas


def _pad_to_square(image: Image.Image, px: int) -> Tensor:
    """Return normalised pixels (1, 3, px, px) of the padded image."""
    levels = np.asarray(_expand_to_square(image).resize((px, px), Image.Resampling.BICUBIC), dtype=np.float32)
    pixels = torch.from_numpy(levels / 255).permute(2, 0, 1)
    return ((pixels - torch.tensor(_MEAN).view(3, 1, 1)) / torch.tensor(_STD).view(3, 1, 1))[None]


def _image_tokens(image: Image.Image, sizes: Mapping[str, int], state: _State, *, pad: bool) -> Tensor:
    """Return the patches' states (T, D) before the tower's last layer (mm_vision_select_layer = -2)."""
    prefix = "vision_tower.vision_tower.vision_model."
    tower = {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
    px = sizes["image_size"]
    pixels = _pad_to_square(image, px) if pad else center_crop(image, px)

    patch = tower["embeddings.patch_embedding.weight"]
    grid = F.conv2d(pixels, patch, stride=sizes["patch_size"])[0].flatten(1).T
    x = torch.cat([tower["embeddings.class_embedding"][None], grid])
    x = _layer_norm(x + tower["embeddings.position_embedding.weight"], tower, "pre_layrnorm")
    heads = sizes["num_attention_heads"]
    for i in range(sizes["num_hidden_layers"] - 1):
        layer = f"encoder.layers.{i}."
        y = _layer_norm(x, tower, f"{layer}layer_norm1")
        q, k, v = (_split(_linear(y, tower, f"{layer}self_attn.{name}_proj"), heads) for name in "qkv")
        weights = (q @ k.transpose(1, 2) / math.sqrt(q.shape[-1])).softmax(dim=-1)
        x = x + _linear(_join(weights @ v), tower, f"{layer}self_attn.out_proj")
        y = _linear(_layer_norm(x, tower, f"{layer}layer_norm2"), tower, f"{layer}mlp.fc1")
        # quick GELU, as in OpenAI's CLIP
        x = x + _linear(y * torch.sigmoid(1.702 * y), tower, f"{layer}mlp.fc2")
    return x[1:]  # "patch": without the class token


def _linear(x: Tensor, state: _State, name: str) -> Tensor:
    return x @ state[f"{name}.weight"].T + state[f"{name}.bias"]


def _layer_norm(x: Tensor, state: _State, name: str) -> Tensor:
    return F.layer_norm(x, x.shape[-1:], state[f"{name}.weight"], state[f"{name}.bias"], 1e-5)


def _split(x: Tensor, heads: int) -> Tensor:
    return x.view(len(x), heads, -1).transpose(0, 1)


def _join(x: Tensor) -> Tensor:
    return x.transpose(0, 1).flatten(1)


def _encode(x: Tensor, sizes: Mapping[str, int], state: _State) -> Tensor:
    """Apply T5's encoder: (T, D) to (T, D)."""
    position = torch.arange(len(x))
    table = state["encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight"]
    bias = table[_bidirectional_bucket(position[None] - position[:, None])].permute(2, 0, 1)
    for i in range(sizes["num_layers"]):
        block = f"encoder.block.{i}.layer"
        y = _rms(x, state[f"{block}.0.layer_norm.weight"])
        x = x + _attend(y, y, bias, f"{block}.0.SelfAttention", sizes["num_heads"], state)
        x = x + _feed_forward(_rms(x, state[f"{block}.1.layer_norm.weight"]), f"{block}.1", state)
    return _rms(x, state["encoder.final_layer_norm.weight"])


def _decode(x: Tensor, memory: Tensor, sizes: Mapping[str, int], state: _State) -> Tensor:
    """Apply T5's decoder: embeddings (A, D) of a short answer to its states (A, D)."""
    position = torch.arange(len(x))
    # One-directional buckets: distances up to 15 have a bias each, and "Yes" is shorter than that.
    back = position[:, None] - position[None]
    table = state["decoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight"]
    bias = table[back.clamp(min=0)].permute(2, 0, 1).masked_fill(back < 0, -math.inf)
    no_bias = torch.zeros(1)  # cross-attention has no position bias
    for i in range(sizes["num_decoder_layers"]):
        block, heads = f"decoder.block.{i}.layer", sizes["num_heads"]
        y = _rms(x, state[f"{block}.0.layer_norm.weight"])
        x = x + _attend(y, y, bias, f"{block}.0.SelfAttention", heads, state)
        y = _rms(x, state[f"{block}.1.layer_norm.weight"])
        x = x + _attend(y, memory, no_bias, f"{block}.1.EncDecAttention", heads, state)
        x = x + _feed_forward(_rms(x, state[f"{block}.2.layer_norm.weight"]), f"{block}.2", state)
    return _rms(x, state["decoder.final_layer_norm.weight"])


def _rms(x: Tensor, weight: Tensor) -> Tensor:
    """Apply T5's layer norm, which does not subtract the mean."""
    return x * torch.rsqrt(x.square().mean(dim=-1, keepdim=True) + 1e-6) * weight


def _attend(x: Tensor, source: Tensor, bias: Tensor, name: str, heads: int, state: _State) -> Tensor:
    """Apply T5's attention. Unlike the usual one it does not divide by the square root of the width."""
    q = _split(x @ state[f"{name}.q.weight"].T, heads)
    k, v = (_split(source @ state[f"{name}.{part}.weight"].T, heads) for part in "kv")
    return _join((q @ k.transpose(1, 2) + bias).softmax(dim=-1) @ v) @ state[f"{name}.o.weight"].T


def _feed_forward(x: Tensor, name: str, state: _State) -> Tensor:
    gate, up, down = (state[f"{name}.DenseReluDense.{part}.weight"] for part in ("wi_0", "wi_1", "wo"))
    return (F.gelu(x @ gate.T, approximate="tanh") * (x @ up.T)) @ down.T


def _bidirectional_bucket(offset: Tensor) -> Tensor:
    """Return T5's bucket of (key position - query position): 16 in each direction.

    The first 8 buckets of a direction are one distance each; the others grow logarithmically up to 128.
    """
    distance = offset.abs()
    far = 8 + (torch.log(distance.clamp(min=1).float() / 8) / math.log(128 / 8) * 8).long()
    return torch.where(distance < 8, distance, far.clamp(max=15)) + 16 * (offset > 0)
