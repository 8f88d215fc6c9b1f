"""Tiny random weights of every reward's architecture, in the files and folders of the published ones.

Configuration classes, key names and layouts are those of the real weights and only the sizes differ, so that
contract and parity of every reward are checked offline in seconds.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import nn

from rewards.backbones.blip import BlipConfig, BlipRanker
from rewards.backbones.head import WIDTHS, ScoreHead
from rewards.info import RewardInfo, WeightsFile
from rewards.models.mps import HEADS, MpsNetwork
from rewards.preprocess import PROFILES
from rewards.verification.tiny import flan, qwen
from rewards.verification.tiny.sizes import WIDTH, Sizes, Writer
from rewards.verification.tiny.vocabularies import vocabulary, write_tiny_tokenizer

_SEED = 1
"""One of the first seeds whose random CLIP has positive cosines: the paper's CLIPScore clips others to 0."""
_OPENAI_VOCABULARY = 49408
_ARCHITECTURE = "tcbench-tiny"
"""The name under which open_clip knows the tiny CLIP of HPSv2."""
_TOKENIZER_KINDS = {"vocab.json": "clip", "spiece.model": "siglip", "tokenizer.json": "siglip2"}
"""Kind of a reward's tokenizer, by the file that it must have."""


def tiny_record(record: RewardInfo) -> RewardInfo:
    """Return the record without what only published weights satisfy: hashes, sizes, accepted licence."""
    files = tuple(replace(file, sha256="") for file in record.weights)
    options = dict(record.options)
    if "architecture" in options:
        options["architecture"] = _ARCHITECTURE
    if record.name == "imagereward":
        # The published checkpoint has fixed sizes; another one states its sizes in a separate file.
        files += (WeightsFile("config", file="config.json"),)
    return replace(record, weights=files, options=options, consent="")


def write_tiny_weights(record: RewardInfo, folder: Path) -> dict[str, Path]:
    """Write tiny random weights of a reward, the same at every call.

    Args:
        record: The reward.
        folder: Where to write; it is created if necessary.

    Returns:
        Paths by the keys of the record's weights.
    """
    folder.mkdir(parents=True, exist_ok=True)
    writers, sizes = _WRITERS.get(record.entry, {}), _sizes(record)
    paths = {}
    for file in tiny_record(record).weights:
        with _seeded(_SEED):
            paths[file.key] = writers[file.key](folder / file.key, sizes)
    return paths


def _sizes(record: RewardInfo) -> Sizes:
    tokens = 48 if record.name.startswith("world-") else 64 if record.name.startswith("siglip") else 77
    needed = [name for file in record.weights if file.key == "tokenizer" for name in file.patterns]
    kind = next((kind for name, kind in _TOKENIZER_KINDS.items() if name in needed), "")
    pieces = len(vocabulary(kind)) if kind else _OPENAI_VOCABULARY
    quick_gelu = any(file.quick_gelu for file in record.weights)
    saved = any("model.safetensors" in file.patterns for file in record.weights)
    return Sizes(PROFILES[record.profile].size, tokens, pieces, kind, quick_gelu, saved)


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Seed torch within the block; afterwards the caller's random state is as before."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


def _write_tokenizer(folder: Path, sizes: Sizes) -> Path:
    return write_tiny_tokenizer(sizes.tokenizer, folder, sizes.tokens)


def _write_bert_vocabulary(path: Path, sizes: Sizes) -> Path:
    return write_tiny_tokenizer("bert", path, sizes.tokens)


def _open_clip_config(sizes: Sizes) -> dict[str, Any]:
    """Return open_clip's "model_cfg" of a CLIP with a vision transformer."""
    return {
        **({"quick_gelu": True} if sizes.quick_gelu else {}),
        "embed_dim": WIDTH,
        "vision_cfg": {
            "image_size": sizes.px,
            "layers": 2,
            "width": WIDTH,
            "head_width": 16,
            "patch_size": sizes.patch,
        },
        "text_cfg": {
            "context_length": sizes.tokens,
            "vocab_size": sizes.vocabulary,
            "width": WIDTH,
            "heads": 2,
            "layers": 2,
        },
    }


def _write_open_clip(folder: Path, sizes: Sizes) -> Path:
    from open_clip.model import CLIP

    config = _open_clip_config(sizes)
    return _save_open_clip(folder, config, CLIP(**config))


def _write_resnet_clip(folder: Path, sizes: Sizes) -> Path:
    """Write a CLIP with a ResNet as OpenAI's RN50: quick GELU and attention pooling."""
    from open_clip.model import CLIP
    from open_clip.modified_resnet import Bottleneck

    vision = {"image_size": 64, "layers": [1, 1, 1, 1], "width": 8, "patch_size": None}
    config = _open_clip_config(replace(sizes, px=64)) | {"quick_gelu": True, "vision_cfg": vision}
    model = CLIP(**config)
    for module in model.visual.modules():
        if isinstance(module, nn.Conv2d):
            # torch's default has a sixth of the variance that keeps the scale of features behind a ReLU
            # (He et al. 2015). With it all images would have nearly the same embedding.
            module.weight.data.mul_(6**0.5)
        elif isinstance(module, Bottleneck):
            # open_clip begins with zeros, which would leave out every residual branch.
            nn.init.ones_(module.bn3.weight)
    return _save_open_clip(folder, config, model)


def _save_open_clip(folder: Path, config: Mapping[str, Any], model: nn.Module) -> Path:
    folder.mkdir(exist_ok=True)
    text = json.dumps({"model_cfg": config, "preprocess_cfg": {}})
    (folder / "open_clip_config.json").write_text(text, encoding="utf-8")
    _save_half(model.state_dict(), folder / "open_clip_model.safetensors")
    return folder


def _write_hps(path: Path, sizes: Sizes) -> Path:
    """Write a CLIP under "state_dict", and register its architecture, which HPSv2 looks up by name."""
    import open_clip
    from open_clip.model import CLIP

    config = path.parent / f"{_ARCHITECTURE}.json"
    config.write_text(json.dumps(_open_clip_config(sizes)), encoding="utf-8")
    open_clip.add_model_config(config)
    checkpoint = path.with_suffix(".pt")
    torch.save({"state_dict": CLIP(**_open_clip_config(sizes)).state_dict()}, checkpoint)
    return checkpoint


def _write_head(path: Path, _: Sizes) -> Path:
    """Write five linear layers under the keys of LAION's second predictor."""
    torch.save(ScoreHead(WIDTH).state_dict(), path.with_suffix(".pth"))
    return path.with_suffix(".pth")


def _write_linear_head(path: Path, _: Sizes) -> Path:
    """Write one linear layer, as LAION's first predictor is."""
    torch.save(nn.Linear(WIDTH, 1).state_dict(), path.with_suffix(".pth"))
    return path.with_suffix(".pth")


def _write_siglip_head(path: Path, _: Sizes) -> Path:
    """Write the head under the keys of aesthetic predictor 2.5, where dropouts take every second number."""
    state: dict[str, torch.Tensor] = {}
    for i, (inputs, outputs) in enumerate(pairwise((WIDTH, *WIDTHS, 1))):
        layer = nn.Linear(inputs, outputs).state_dict()
        state |= {f"scoring_head.{2 * i}.{key}": value for key, value in layer.items()}
    torch.save(state, path.with_suffix(".pth"))
    return path.with_suffix(".pth")


def _write_clip(folder: Path, sizes: Sizes) -> Path:
    """Write a CLIP in transformers' layout."""
    from transformers import CLIPConfig, CLIPModel

    CLIPModel(CLIPConfig(projection_dim=WIDTH, **sizes.two_tower_config())).save_pretrained(folder)
    return folder


def _mps_config(sizes: Sizes) -> Any:
    """Return transformers' configuration of the CLIP in MPS, with attention heads of width 4."""
    from transformers import CLIPConfig

    return CLIPConfig(projection_dim=4 * HEADS, **sizes.two_tower_config())


def _write_mps_config(path: Path, sizes: Sizes) -> Path:
    _mps_config(sizes).to_json_file(path.with_suffix(".json"), use_diff=False)
    return path.with_suffix(".json")


def _write_mps(path: Path, sizes: Sizes) -> Path:
    """Write MPS under the keys of its conversion on the hub."""
    network = MpsNetwork(_mps_config(sizes))
    # A new CLIP's token embeddings are alike: all tokens would be close to the condition, and none masked.
    nn.init.normal_(network.model.text_model.embeddings.token_embedding.weight)
    # Image tokens whose variance is about the epsilon of the layer norms, so that another epsilon shows.
    nn.init.normal_(network.model.visual_projection.weight, std=5e-4)
    for weight in network.cross_model.parameters():
        if weight.ndim == 1:
            # Norm weights of one would not show whether the norm is applied.
            nn.init.uniform_(weight, 0.5, 1.5)
    state = {f"mps.{key}": value for key, value in network.state_dict().items()}
    _save_half(state, path.with_suffix(".safetensors"))
    return path.with_suffix(".safetensors")


def _write_siglip(folder: Path, sizes: Sizes) -> Path:
    """Write a SigLIP in transformers' layout."""
    from transformers import SiglipConfig, SiglipModel

    config = sizes.two_tower_config()
    config["text_config"]["projection_size"] = WIDTH
    model = SiglipModel(SiglipConfig(**config))
    # Published SigLIPs have a bias far from 0, which a new one lacks: a score that drops it must differ.
    nn.init.constant_(model.logit_bias, -3)
    model.save_pretrained(folder)
    return folder


def _blip_config(sizes: Sizes) -> BlipConfig:
    return BlipConfig(
        image_size=sizes.px,
        patch_size=sizes.patch,
        vision_width=24,
        vision_layers=2,
        vision_heads=2,
        text_width=WIDTH,
        text_layers=2,
        text_heads=2,
        vocab_size=len(vocabulary("bert")),
        max_positions=64,
        max_tokens=35,
        mean=0.2,
        std=0.5,
    )


def _write_blip_config(path: Path, sizes: Sizes) -> Path:
    path.with_suffix(".json").write_text(json.dumps(asdict(_blip_config(sizes))), encoding="utf-8")
    return path.with_suffix(".json")


def _write_blip(path: Path, sizes: Sizes) -> Path:
    """Write ImageReward's ranker with everything else that its checkpoint holds.

    That is position ids and the projections of BLIP's contrastive loss (BLIP_Pretrain of the official code),
    which scoring does not use.
    """
    state = BlipRanker(_blip_config(sizes)).state_dict()
    # Tokens whose variance is about the epsilon of the layer norms, and inputs of about 2 to the GELUs, where
    # its exact form differs most from the one with tanh: otherwise neither would show in the scores.
    gains = {"cls_token": 0.05, "pos_embed": 0.05, "patch_embed.proj.weight": 3e-3} | {
        "patch_embed.proj.bias": 3e-3, "mlp.fc1.weight": 5.0, "intermediate.dense.weight": 5.0
    }  # fmt: skip
    state = {
        key: v * next((g for end, g in gains.items() if key.endswith(end)), 1) for key, v in state.items()
    }
    state["blip.text_encoder.embeddings.position_ids"] = torch.arange(64)[None]
    for tower in ("vision", "text"):
        state |= {f"blip.{tower}_proj.weight": torch.randn(8, 24), f"blip.{tower}_proj.bias": torch.randn(8)}
    torch.save(state, path.with_suffix(".pt"))
    return path.with_suffix(".pt")


def _save_half(state: Mapping[str, Any], path: Path) -> None:
    """Save as .safetensors in half precision, in which many weights are published."""
    save_file({key: value.half().contiguous() for key, value in state.items()}, path)


_WRITERS: Mapping[str, Mapping[str, Writer]] = {
    "rewards.models.aesthetic:LaionAestheticV1": {"backbone": _write_open_clip, "head": _write_linear_head},
    "rewards.models.aesthetic:LaionAestheticV2": {
        "backbone": _write_open_clip,
        "tokenizer": _write_tokenizer,
        "head": _write_head,
    },
    "rewards.models.aesthetic:AestheticV25": {"model": _write_siglip, "head": _write_siglip_head},
    "rewards.models.clipscore:ClipScore": {"backbone": _write_open_clip, "tokenizer": _write_tokenizer},
    "rewards.models.clipiqa:ClipIqa": {"backbone": _write_resnet_clip},
    "rewards.models.pickscore:PickScore": {"model": _write_clip, "tokenizer": _write_tokenizer},
    "rewards.models.mps:Mps": {
        "checkpoint": _write_mps,
        "config": _write_mps_config,
        "tokenizer": _write_tokenizer,
    },
    "rewards.models.hpsv2:HPSv2": {
        "checkpoint": _write_hps,
        "backbone": _write_open_clip,
        "tokenizer": _write_tokenizer,
    },
    "rewards.models.hpsv3:Hpsv3": qwen.WRITERS,
    "rewards.models.siglip:SiglipScore": {"model": _write_siglip, "tokenizer": _write_tokenizer},
    "rewards.models.imagereward:ImageReward": {
        "checkpoint": _write_blip,
        "config": _write_blip_config,
        "vocabulary": _write_bert_vocabulary,
    },
    "rewards.models.vqascore:VqaScore": flan.WRITERS,
}
"""Functions that write a reward's weights, by the reward's class and the weights' key."""
