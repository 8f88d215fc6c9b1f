"""CLIPScore and PickScore by transformers' own CLIP.

Official code: jmhessel/clipscore (clipscore.py), torchmetrics (functional/multimodal/clip_score.py) and
PickScore's README (yuvalkirstain/PickScore). Weights in open_clip's layout are renamed to transformers' keys;
open_clip prepares their images and texts, as OpenAI did.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from PIL.Image import Image
from safetensors.torch import load_file
from torch import Tensor

_LAYER = {
    "ln_1": "layer_norm1",
    "ln_2": "layer_norm2",
    "mlp.c_fc": "mlp.fc1",
    "mlp.c_proj": "mlp.fc2",
    "attn.out_proj": "self_attn.out_proj",
}
"""Parts of a transformer block: open_clip's name, transformers' name."""
_OTHERS = {
    "visual.class_embedding": "vision_model.embeddings.class_embedding",
    "visual.positional_embedding": "vision_model.embeddings.position_embedding.weight",
    "visual.conv1.weight": "vision_model.embeddings.patch_embedding.weight",
    "visual.proj": "visual_projection.weight",
    "positional_embedding": "text_model.embeddings.position_embedding.weight",
    "token_embedding.weight": "text_model.embeddings.token_embedding.weight",
    "text_projection": "text_projection.weight",
    "logit_scale": "logit_scale",
    **{
        f"{old}.{part}": f"{new}.{part}"
        for old, new in (
            ("visual.ln_pre", "vision_model.pre_layrnorm"),
            ("visual.ln_post", "vision_model.post_layernorm"),
            ("ln_final", "text_model.final_layer_norm"),
        )
        for part in ("weight", "bias")
    },
}
"""Tensors outside the blocks. "pre_layrnorm" is transformers' own spelling."""


def score(files: Mapping[str, Path], image: Image, prompt: str, *, convention: str = "torchmetrics") -> float:
    """Return CLIPScore.

    Args:
        files: A "model" or "backbone" folder; a "tokenizer" folder where it is not the same.
        image: RGB.
        prompt: Text.
        convention: "torchmetrics" (100 x cosine), "hessel" (the paper's 2.5 x max(cosine, 0)), "logits"
            (cosine times the model's logit scale, which is PickScore for PickScore's model), or "cosine".
    """
    if convention == "hessel":
        # clipscore.py, CLIPCapDataset: the prefix is part of the score.
        prompt = f"A photo depicts {prompt}"
    model, (pixels, ids) = _model(files), _inputs(files, image, prompt)
    with torch.no_grad():
        output = model(input_ids=ids, pixel_values=pixels)
    if convention == "logits":
        return float(output.logits_per_image)
    cosine = float(torch.nn.functional.cosine_similarity(output.image_embeds, output.text_embeds))
    # torchmetrics clips the mean over a data set at 0, not the score of an image.
    return {"torchmetrics": 100 * cosine, "hessel": 2.5 * max(cosine, 0.0), "cosine": cosine}[convention]


def _from_open_clip(folder: Path) -> Any:
    """Return transformers' CLIPModel with the weights of a folder in open_clip's layout."""
    from transformers import CLIPConfig, CLIPModel

    config = json.loads((folder / "open_clip_config.json").read_text(encoding="utf-8"))["model_cfg"]
    image, text = config["vision_cfg"], config["text_cfg"]
    activation = {"hidden_act": "quick_gelu" if config.get("quick_gelu") else "gelu"}
    vision_config = {
        "hidden_size": image["width"],
        "intermediate_size": int(image["width"] * image.get("mlp_ratio", 4)),
        "num_hidden_layers": image["layers"],
        "num_attention_heads": image["width"] // image.get("head_width", 64),
        "image_size": image["image_size"],
        "patch_size": image["patch_size"],
        **activation,
    }
    last = text["vocab_size"] - 1  # CLIP's vocabulary ends with the start and the end token
    text_config = {
        "hidden_size": text["width"],
        "intermediate_size": 4 * text["width"],
        "num_hidden_layers": text["layers"],
        "num_attention_heads": text["heads"],
        "vocab_size": text["vocab_size"],
        "max_position_embeddings": text["context_length"],
        "bos_token_id": last - 1,
        "eos_token_id": last,
        "pad_token_id": last,
        **activation,
    }
    model = CLIPModel(
        CLIPConfig(text_config=text_config, vision_config=vision_config, projection_dim=config["embed_dim"])
    )
    state = {key: value.float() for key, value in load_file(folder / "open_clip_model.safetensors").items()}
    model.load_state_dict(_renamed(state))
    return model.eval()


def _renamed(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    renamed = {}
    for key, value in state.items():
        if key in _OTHERS:
            # open_clip computes x @ W with these two; transformers has linear layers, x @ W.T.
            transposed = key in ("visual.proj", "text_projection")
            renamed[_OTHERS[key]] = value.T.contiguous() if transposed else value
            continue
        tower, _, rest = key.partition("transformer.resblocks.")
        number, _, part = rest.partition(".")
        layer = f"{'vision' if tower else 'text'}_model.encoder.layers.{number}"
        name, _, kind = part.replace("in_proj_", "in_proj.").rpartition(".")
        if name == "attn.in_proj":
            # torch's attention keeps query, key and value in one matrix
            for letter, third in zip("qkv", value.chunk(3), strict=True):
                renamed[f"{layer}.self_attn.{letter}_proj.{kind}"] = third
        else:
            renamed[f"{layer}.{_LAYER[name]}.{kind}"] = value
    return renamed


def _model(files: Mapping[str, Path]) -> Any:
    from transformers import CLIPModel

    folder = files["model"] if "model" in files else files["backbone"]
    if (folder / "open_clip_config.json").is_file():
        return _from_open_clip(folder)
    return CLIPModel.from_pretrained(folder, dtype="float32").eval()


def _inputs(files: Mapping[str, Path], image: Image, prompt: str) -> tuple[Tensor, Tensor]:
    """Return pixels (1, 3, S, S) and token ids (1, T)."""
    import open_clip
    from transformers import CLIPConfig, CLIPImageProcessorPil, CLIPTokenizer

    folder = files["model"] if "model" in files else files["backbone"]
    tokenizer = files.get("tokenizer", folder)
    if (folder / "open_clip_config.json").is_file():
        config = json.loads((folder / "open_clip_config.json").read_text(encoding="utf-8"))["model_cfg"]
        limit = config["text_cfg"]["context_length"]
        pixels = open_clip.image_transform(config["vision_cfg"]["image_size"], is_train=False)(image)[None]
        if tokenizer is folder:
            return pixels, open_clip.tokenizer.SimpleTokenizer(context_length=limit)([prompt])
    else:
        settings = CLIPConfig.from_pretrained(folder)
        limit, size = settings.text_config.max_position_embeddings, settings.vision_config.image_size
        processor = CLIPImageProcessorPil(size={"shortest_edge": size}, crop_size=size)
        pixels = processor(image, return_tensors="pt")["pixel_values"]
    ids = CLIPTokenizer.from_pretrained(tokenizer)(
        prompt, padding="max_length", truncation=True, max_length=limit, return_tensors="pt"
    )["input_ids"]
    return pixels, ids
