"""CLIPScore and PickScore by transformers' own CLIP, for one picture and one prompt.

The official paths: CLIPScore of jmhessel/clipscore and of torchmetrics, PickScore's README. Weights
in open_clip's layout are renamed to transformers' keys, and open_clip prepares pictures and texts, as OpenAI
did.
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

LAYER = {
    "ln_1": "layer_norm1",
    "ln_2": "layer_norm2",
    "mlp.c_fc": "mlp.fc1",
    "mlp.c_proj": "mlp.fc2",
    "attn.out_proj": "self_attn.out_proj",
}
OTHERS = {
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


def score(files: Mapping[str, Path], image: Image, prompt: str) -> float:
    """100 x cosine, the convention of torchmetrics."""
    return 100 * cosine(files, image, prompt)


def hessel(files: Mapping[str, Path], image: Image, prompt: str) -> float:
    """The paper's own scale."""
    return 2.5 * max(cosine(files, image, f"A photo depicts {prompt}"), 0.0)


def logits(files: Mapping[str, Path], image: Image, prompt: str) -> float:
    """Cosine times the model's own scale, which is PickScore if the model is PickScore's."""
    pixels, ids = _inputs(files, image, prompt)
    with torch.no_grad():
        return float(_model(files)(input_ids=ids, pixel_values=pixels).logits_per_image)


def cosine(files: Mapping[str, Path], image: Image, prompt: str) -> float:
    """The bare cosine."""
    model, (pixels, ids) = _model(files), _inputs(files, image, prompt)
    with torch.no_grad():
        output = model(input_ids=ids, pixel_values=pixels)
    return float(torch.nn.functional.cosine_similarity(output.image_embeds, output.text_embeds))


def from_open_clip(folder: Path) -> Any:
    """The CLIPModel of transformers with the weights in a folder of open_clip's layout."""
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
    last = text["vocab_size"] - 1
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
        if key in OTHERS:
            # projections are stored as x @ W there, as linear layers here
            turned = value.T.contiguous() if key in ("visual.proj", "text_projection") else value
            renamed[OTHERS[key]] = turned
            continue
        where, _, rest = key.partition("transformer.resblocks.")
        number, _, part = rest.partition(".")
        layer = f"{'vision' if where else 'text'}_model.encoder.layers.{number}"
        name, _, kind = part.replace("in_proj_", "in_proj.").rpartition(".")
        if name == "attn.in_proj":
            for letter, third in zip("qkv", value.chunk(3), strict=True):
                renamed[f"{layer}.self_attn.{letter}_proj.{kind}"] = third
        else:
            renamed[f"{layer}.{LAYER[name]}.{kind}"] = value
    return renamed


def _model(files: Mapping[str, Path]) -> Any:
    from transformers import CLIPModel

    folder = files["model"] if "model" in files else files["backbone"]
    if (folder / "open_clip_config.json").is_file():
        return from_open_clip(folder)
    return CLIPModel.from_pretrained(folder, dtype="float32").eval()


def _inputs(files: Mapping[str, Path], image: Image, prompt: str) -> tuple[Tensor, Tensor]:
    """Pixels (1, 3, S, S) and token ids (1, T)."""
    import open_clip
    from transformers import CLIPConfig, CLIPImageProcessorPil, CLIPTokenizer

    folder = files["model"] if "model" in files else files["backbone"]
    words = files.get("tokenizer", folder)
    if (folder / "open_clip_config.json").is_file():
        config = json.loads((folder / "open_clip_config.json").read_text(encoding="utf-8"))["model_cfg"]
        limit = config["text_cfg"]["context_length"]
        pixels = open_clip.image_transform(config["vision_cfg"]["image_size"], is_train=False)(image)[None]
        if words is folder:
            return pixels, open_clip.tokenizer.SimpleTokenizer(context_length=limit)([prompt])
    else:
        settings = CLIPConfig.from_pretrained(folder)
        limit, size = settings.text_config.max_position_embeddings, settings.vision_config.image_size
        processor = CLIPImageProcessorPil(size={"shortest_edge": size}, crop_size=size)
        pixels = processor(image, return_tensors="pt")["pixel_values"]
    ids = CLIPTokenizer.from_pretrained(words)(
        prompt, padding="max_length", truncation=True, max_length=limit, return_tensors="pt"
    )["input_ids"]
    return pixels, ids
