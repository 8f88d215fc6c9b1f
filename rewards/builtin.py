"""Built-in rewards: published ones, looks, those of the embedded world, and CLIPScore by any model.

A run may train on rewards with the role "trainable", select checkpoints by "selection" rewards, and only
report "judge" rewards. Free of torch.
"""

from __future__ import annotations

import re
from dataclasses import replace
from itertools import product
from pathlib import Path

from rewards.info import PROCESSOR_FILES, PUBLISHED, RewardInfo, WeightsFile
from rewards.published import (
    AESTHETIC_V2,
    CLIP,
    HPSV2,
    IMAGEREWARD,
    OPEN_CLIP_FILES,
    PICKSCORE,
    PUBLISHED_REWARDS,
    SIGLIP,
    TOKENIZER_FILES,
    TRANSFORMERS_FILES,
    VQASCORE,
)

_WORLD_LICENCE = "Apache-2.0"
_WORLD_REPORT = "docs/world/report.md"

CLIPSCORES = ("clip", "clip-hessel", "clip-logits", "clip-cosine")
"""Rewards that accept any model, as ``clip:MODEL``."""

_HUB_ID = re.compile(r"(?P<name>[A-Za-z0-9][\w.-]*/[\w.-]+)(@(?P<revision>[\w./-]+))?")

_OPEN_CLIP_MODELS = (OPEN_CLIP_FILES, ("open_clip_config.json", "open_clip_pytorch_model.bin"))
_OPEN_CLIP_TOKENIZERS: tuple[tuple[str, ...], ...] = (("tokenizer.json", "tokenizer_config.json"), ())
_TRANSFORMERS_MODELS = tuple(
    ("config.json", processor, "tokenizer_config.json", *weights)
    for processor in PROCESSOR_FILES
    for weights in (
        ("model.safetensors",),
        ("model.safetensors.index.json", "model-*.safetensors"),
    )
)
_TRANSFORMERS_TOKENIZERS = (("vocab.json", "merges.txt"), ("spiece.model",), ("tokenizer.json",))
_CLIP_LAYOUTS = tuple(
    model + tokenizer
    for models, tokenizers in (
        (_OPEN_CLIP_MODELS, _OPEN_CLIP_TOKENIZERS),
        (_TRANSFORMERS_MODELS, _TRANSFORMERS_TOKENIZERS),
    )
    for model, tokenizer in product(models, tokenizers)
)
"""Files of a CLIP or SigLIP folder in open_clip's layout, with or without a tokenizer, or transformers'."""


def _world(folder: str, key: str, patterns: tuple[str, ...]) -> WeightsFile:
    return WeightsFile(key, patterns=patterns, package=f"world/weights/{folder}")


def _world_file(path: str, key: str) -> WeightsFile:
    return WeightsFile(key, file=path.rpartition("/")[2], package=f"world/weights/{path}")


_WORLD_TOKENIZER = _world("tokenizer", "tokenizer", TOKENIZER_FILES)
_VISION_CODE = {
    "world/vision.py": "9cc4e45eef71a6aa5f744a72aef052311849a59163451be92916e28e643988ed",
    "world/render.py": "b7ce76f2f3677e6c66cd93d23bf53fa930fccfbaab0c8a1efa6bbc704e5777c2",
    "world/scenes.py": "48cb7c0ca81d61b1ba5434611fe15928ee73a3a2b0265bd6ff3a8536a7decefb",
}
"""Code version of the image analysis that world-rule and world-oracle share (`RewardInfo.code`): the sha256
of each file when its scores last changed. tests/rewards/world/test_code_version.py pins the scores.
"""
_RULE_CODE = {
    "world/aesthetics.py": "2f6d0ec9dfa269026e4e4bdba81c92bdfb3761ab04f0dd06dad406bb2c6ffe0e",
    **_VISION_CODE,
}
_ORACLE_CODE = {
    "world/claims.py": "d655ff130be5390fecaa9b3bb83eaa206c42e4c97492852401aeb0b8a4bb8dda",
    "world/captions.py": "9bb1d3f56bbe34d2a5cf5e45835335f75afd067bb9a023484e3afcb5164c7250",
    **_VISION_CODE,
}

_LOOKS = (
    RewardInfo(
        name="colourfulness",
        entry="rewards.models.pixels:Colourfulness",
        uses_prompt=False,
        family="colourfulness",
        scale="spread and mean of colour; 15 is slightly colourful, 45 averagely, 109 extremely",
        typical_range=(0, 110),
        paper="https://doi.org/10.1117/12.477378",
        citation="Hasler and Suesstrunk 2003, Measuring Colourfulness in Natural Images",
        licence="Apache-2.0",
    ),
    RewardInfo(
        name="darkness",
        entry="rewards.models.pixels:Darkness",
        uses_prompt=False,
        family="darkness",
        scale="100 minus the mean luma in percent: 0 is white, 100 is black",
        typical_range=(0, 100),
        paper="docs/rewards.md",
        citation="own definition of this package",
        licence="Apache-2.0",
    ),
)

_WORLD_CLIP = _world("world-clip", "backbone", OPEN_CLIP_FILES)

_WORLD_REWARDS = (
    replace(
        CLIP,
        name="world-clip",
        family="world-clip",
        profile="clip-64",
        scale="100 x cosine",
        typical_range=(-20, 100),
        weights=(_WORLD_CLIP, _WORLD_TOKENIZER),
        licence=_WORLD_LICENCE,
    ),
    replace(
        AESTHETIC_V2,
        name="world-aesthetic",
        family="world-clip",
        profile="clip-64",
        scale="predicted value of the world's aesthetic rule",
        weights=(_WORLD_CLIP, _WORLD_TOKENIZER, _world_file("world-aesthetic/head.safetensors", "head")),
        licence=_WORLD_LICENCE,
    ),
    replace(
        PICKSCORE,
        name="world-pick",
        family="world-clip",
        profile="clip-64-floor",
        scale="cosine x logit scale",
        typical_range=(-20, 100),
        weights=(_world("world-pick", "model", TRANSFORMERS_FILES), _WORLD_TOKENIZER),
        licence=_WORLD_LICENCE,
    ),
    replace(
        HPSV2,
        name="world-hps",
        family="world-clip",
        profile="hps-64",
        scale="cosine",
        typical_range=(-1, 1),
        weights=(_world("world-hps", "backbone", OPEN_CLIP_FILES), _WORLD_TOKENIZER),
        options={},
        licence=_WORLD_LICENCE,
    ),
    replace(
        SIGLIP,
        name="world-siglip",
        role="selection",
        family="world-siglip",
        profile="siglip-64",
        scale="logit that image and text belong together",
        typical_range=(-20, 20),
        weights=(_world("world-siglip", "model", TRANSFORMERS_FILES), _WORLD_TOKENIZER),
        licence=_WORLD_LICENCE,
    ),
    replace(
        IMAGEREWARD,
        name="world-blip",
        role="judge",
        family="world-blip",
        profile="clip-64",
        scale="standardised",
        weights=(
            _world_file("world-blip/config.json", "config"),
            _world_file("world-blip/vocab.txt", "vocabulary"),
            _world_file("world-blip/model.safetensors", "checkpoint"),
        ),
        licence=_WORLD_LICENCE,
    ),
    replace(
        VQASCORE,
        name="world-vqa",
        role="judge",
        family="world-vqa",
        profile="clip-64",
        weights=(
            _world("world-vqa", "model", TRANSFORMERS_FILES),
            _world_file("world-vqa/tower.json", "tower"),
            _world_file("world-vqa/tokenizer.json", "tokenizer"),
        ),
        licence=_WORLD_LICENCE,
    ),
    RewardInfo(
        name="world-rule",
        entry="rewards.world.rule:WorldRule",
        differentiable=False,
        uses_prompt=False,
        role="judge",
        family="world-rule",
        profile="squash-64",
        scale="the world's aesthetic rule: colour, shading, depth, backdrop, composition, less clipping",
        code=_RULE_CODE,
        typical_range=(1, 10),
        paper=_WORLD_REPORT,
        citation="the embedded world of this package",
        licence=_WORLD_LICENCE,
    ),
    RewardInfo(
        name="world-oracle",
        entry="rewards.world.oracle:WorldOracle",
        differentiable=False,
        role="judge",
        family="world-oracle",
        profile="squash-64",
        scale="share of the prompt's claims that image analysis finds true",
        code=_ORACLE_CODE,
        typical_range=(0, 1),
        paper=_WORLD_REPORT,
        citation="the embedded world of this package",
        licence=_WORLD_LICENCE,
    ),
)

BUILTIN = {record.name: record for record in (*PUBLISHED_REWARDS, *_LOOKS, *_WORLD_REWARDS)}


def clipscore_by_model(record: RewardInfo, model: str) -> RewardInfo:
    """Return the record of CLIPScore by any CLIP or SigLIP that open_clip or transformers saved.

    Preprocessing follows the model's files.

    Args:
        record: One of `CLIPSCORES`.
        model: A folder on this machine, "owner/name" on the hub, or "owner/name@revision" to pin it.
    """
    hub = None if Path(model).is_dir() else _HUB_ID.fullmatch(model)
    if hub is None:
        weights = WeightsFile("backbone", layouts=_CLIP_LAYOUTS, path=model)
    else:
        revision = hub["revision"] or "main"
        weights = WeightsFile("backbone", layouts=_CLIP_LAYOUTS, hub=hub["name"], revision=revision)
    # timm names repositories of OpenAI's weights so; they need a configuration with quick GELU.
    quick = Path(weights.hub or weights.path).name.endswith(".openai")
    return replace(
        record,
        name=f"{record.name}:{model}",
        profile=PUBLISHED,
        weights=(replace(weights, quick_gelu=quick),),
        licence="unknown",
    )
