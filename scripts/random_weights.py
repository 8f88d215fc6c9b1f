"""Random weights of the published sizes, in the published layouts, for benchmarks without downloads."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cache, partial
from pathlib import Path
from typing import Any

from rewards.verification.tiny.vocabularies import write_openai_tokenizer


@dataclass(frozen=True)
class _RandomWeights:
    """Weights of one reward, with the files that other code needs to read them."""

    files: Mapping[str, Path]
    """Paths by the keys of the reward's record."""
    peer: Mapping[str, Path] = field(default_factory=dict)
    """Files for imscore (scripts/imscore/runner.py)."""
    official: Mapping[str, Any] = field(default_factory=dict)
    """Part of a job for the official package (`rewards.verification.official.runner`)."""


def write_random_weights(folder: Path, names: Iterable[str]) -> dict[str, _RandomWeights]:
    """Write random weights of the published sizes.

    They are made anew for each measurement, so a script should first set the variable of
    `rewards.weights.lock.LOCK_VARIABLE`: otherwise their hashes are recorded in the user's lock file.

    Args:
        folder: Where to write. Rewards with the same backbone or checkpoint share its files.
        names: Of aesthetic-v1, aesthetic-v2, clip, clip-b-32 (a smaller one, with the files of its
            tokenizer), pickscore, hpsv2, hpsv2-antialias, hpsv2.1, imagereward.
    """
    vit = cache(partial(_write_vit, folder))
    hpsv2 = cache(partial(_write_official, "hpsv2", folder))
    tokenizer = cache(partial(write_openai_tokenizer, folder / "openai-tokenizer"))
    writers: dict[str, Callable[[], _RandomWeights]] = {
        "aesthetic-v1": lambda: _RandomWeights(
            {"backbone": vit(), "head": _write_head(folder / "aesthetic-v1.pth", linear=True)}
        ),
        "aesthetic-v2": lambda: _aesthetic_v2(folder, vit()),
        "clip": lambda: _RandomWeights({"backbone": vit()}),
        "clip-b-32": lambda: _RandomWeights(
            {"backbone": _write_vit(folder, "ViT-B-32-quickgelu"), "tokenizer": tokenizer()}
        ),
        "pickscore": lambda: _write_pickscore(folder, tokenizer()),
        "hpsv2": hpsv2,
        "hpsv2-antialias": hpsv2,
        "hpsv2.1": hpsv2,
        "imagereward": partial(_write_official, "imagereward", folder),
    }
    return {name: writers[name]() for name in names}


def records_without_hashes(names: Iterable[str]) -> list[Any]:
    """Return the rewards' records without the hashes that only the published weights have."""
    import rewards

    records = []
    for name in names:
        record = rewards.info(name)
        extra = (rewards.WeightsFile("config", file="config.json"),) if name == "imagereward" else ()
        weights = (*(replace(file, sha256="") for file in record.weights), *extra)
        records.append(replace(record, weights=weights))
    return records


def _write_vit(folder: Path, architecture: str = "ViT-L-14-quickgelu") -> Path:
    """Write one of OpenAI's CLIPs in open_clip's layout."""
    import open_clip
    from open_clip.model import CLIP
    from safetensors.torch import save_file

    path = folder / architecture.lower()
    path.mkdir()
    config = open_clip.get_model_config(architecture)
    text = json.dumps({"model_cfg": config, "preprocess_cfg": {}})
    (path / "open_clip_config.json").write_text(text, encoding="utf-8")
    save_file(CLIP(**config).half().state_dict(), path / "open_clip_model.safetensors")
    return path


def _aesthetic_v2(folder: Path, backbone: Path) -> _RandomWeights:
    """Write the head, and for imscore an image tower of the same size in transformers' layout."""
    from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

    head, tower = _write_head(folder / "aesthetic-v2.pth", linear=False), folder / "vit-l-14-transformers"
    size = _transformer(width=1024, layers=24)
    vision = CLIPVisionConfig(**size, patch_size=14, projection_dim=768)
    CLIPVisionModelWithProjection(vision).half().save_pretrained(tower)
    return _RandomWeights({"backbone": backbone, "head": head}, {"model": tower, "head": head})


def _write_head(path: Path, *, linear: bool) -> Path:
    """Write the head of LAION's first (linear) or second predictor."""
    import torch
    from torch import nn

    from rewards.backbones.head import ScoreHead

    torch.save((nn.Linear(768, 1) if linear else ScoreHead(768)).state_dict(), path)
    return path


def _write_pickscore(folder: Path, tokenizer: Path) -> _RandomWeights:
    """Write a ViT-H/14 in transformers' layout."""
    from transformers import CLIPConfig, CLIPModel

    size = {"projection_dim": 1024, "bos_token_id": 49406, "eos_token_id": 49407}
    text = _transformer(width=1024, layers=24) | size
    vision = _transformer(width=1280, layers=32) | {"patch_size": 14, "projection_dim": 1024}
    config = CLIPConfig(text_config=text, vision_config=vision, projection_dim=1024)
    CLIPModel(config).half().save_pretrained(folder / "pickscore")
    files = {"model": folder / "pickscore", "tokenizer": tokenizer}
    return _RandomWeights(files, files)


def _write_official(name: str, folder: Path) -> _RandomWeights:
    """Write a checkpoint that the official package reads too."""
    import rewards
    from rewards.verification.official.compare import OFFICIAL

    record = rewards.info(name)
    checkpoint = OFFICIAL[record.entry](record, folder, full=True)
    return _RandomWeights(checkpoint.files, checkpoint.files, checkpoint.job)


def _transformer(*, width: int, layers: int) -> dict[str, int]:
    return {
        "hidden_size": width,
        "intermediate_size": 4 * width,
        "num_hidden_layers": layers,
        "num_attention_heads": 16,
    }
