"""The rewards of the package: the published ones, the embedded world's, and CLIPScore by any model.

Roles: a run may train on "trainable" rewards, choose checkpoints by "selection" rewards, and only report
"judge" rewards. Free of torch.
"""

from __future__ import annotations

import re
from dataclasses import replace
from itertools import product
from pathlib import Path

from rewards.info import PUBLISHED, RewardInfo, WeightsFile
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
)

WORLD_LICENCE = "Apache-2.0"
WORLD_REPORT = "docs/world/report.md"

CLIPSCORES = ("clip", "clip-hessel", "clip-logits", "clip-cosine")
"""What can be had by any model, as ``clip:model``."""

HUB_ID = re.compile(r"(?P<name>[A-Za-z0-9][\w.-]*/[\w.-]+)(@(?P<revision>[\w./-]+))?")

OPEN_CLIP_MODELS = (OPEN_CLIP_FILES, ("open_clip_config.json", "open_clip_pytorch_model.bin"))
OPEN_CLIP_TOKENIZERS: tuple[tuple[str, ...], ...] = (("tokenizer.json", "tokenizer_config.json"), ())
TRANSFORMERS_MODELS = tuple(
    ("config.json", "preprocessor_config.json", "tokenizer_config.json", *weights)
    for weights in (
        ("model.safetensors",),
        ("model.safetensors.index.json", "model-*.safetensors"),
    )
)
TRANSFORMERS_TOKENIZERS = (("vocab.json", "merges.txt"), ("spiece.model",), ("tokenizer.json",))
CLIP_LAYOUTS = tuple(
    model + tokenizer
    for models, tokenizers in (
        (OPEN_CLIP_MODELS, OPEN_CLIP_TOKENIZERS),
        (TRANSFORMERS_MODELS, TRANSFORMERS_TOKENIZERS),
    )
    for model, tokenizer in product(models, tokenizers)
)
"""Folders of a CLIP or SigLIP: of open_clip, with a tokenizer of its own or without, and of transformers."""


def _world(folder: str, key: str, patterns: tuple[str, ...]) -> WeightsFile:
    return WeightsFile(key, patterns=patterns, package=f"world/weights/{folder}")


def _world_file(path: str, key: str) -> WeightsFile:
    return WeightsFile(key, file=path.rpartition("/")[2], package=f"world/weights/{path}")


WORLD_TOKENIZER = _world("tokenizer", "tokenizer", TOKENIZER_FILES)
VISION_CODE = {
    "world/vision.py": "429876e2464e3f896d0d18dea48906de99a7b94815f492eb97204a79281be8f4",
    "world/render.py": "1b06172e6695b9610f0a88a2679299cab1c353ce287f91d687c40af57ada5062",
    "world/scenes.py": "58713cb61ceef1eb026a3e20d36c84157bc1dbb2ef5c6448913a6a865e7107fe",
}
"""Code version of the image analysis that world-rule and world-oracle share (`RewardInfo.code`): the sha256
that each file had when its scores last changed. tests/rewards/world/test_code_version.py pins the scores.
"""
RULE_CODE = {
    "world/aesthetics.py": "6ebd46ad90f5b55172c00c783f6cfe0866e8a5ec4e6e87ebf9f83b9e7935e89b",
    **VISION_CODE,
}
ORACLE_CODE = {
    "world/claims.py": "4ffd3979bf2ac4fa8372ec211e84f8306e83eb1613e32e379d1966f203d1efaf",
    "world/captions.py": "3efd90b7b23bfd58ac53f17164ff9ac0a85668d20c582413352d63ebee3df887",
    **VISION_CODE,
}

WORLD_CLIP = _world("world-clip", "backbone", OPEN_CLIP_FILES)

WORLD_REWARDS = (
    replace(
        CLIP,
        name="world-clip",
        family="world-clip",
        profile="clip-64",
        scale="100 x cosine",
        typical_range=(-20, 100),
        weights=(WORLD_CLIP, WORLD_TOKENIZER),
        licence=WORLD_LICENCE,
    ),
    replace(
        AESTHETIC_V2,
        name="world-aesthetic",
        family="world-clip",
        profile="clip-64",
        scale="predicted value of the world's aesthetic rule",
        weights=(WORLD_CLIP, WORLD_TOKENIZER, _world_file("world-aesthetic/head.safetensors", "head")),
        licence=WORLD_LICENCE,
    ),
    replace(
        PICKSCORE,
        name="world-pick",
        family="world-clip",
        profile="clip-64-floor",
        scale="cosine x logit scale",
        typical_range=(-20, 100),
        weights=(_world("world-pick", "model", TRANSFORMERS_FILES), WORLD_TOKENIZER),
        licence=WORLD_LICENCE,
    ),
    replace(
        HPSV2,
        name="world-hps",
        family="world-clip",
        profile="hps-64",
        scale="cosine",
        typical_range=(-1, 1),
        weights=(_world("world-hps", "backbone", OPEN_CLIP_FILES), WORLD_TOKENIZER),
        options={},
        licence=WORLD_LICENCE,
    ),
    replace(
        SIGLIP,
        name="world-siglip",
        role="selection",
        family="world-siglip",
        profile="siglip-64",
        scale="logit that image and text belong together",
        typical_range=(-20, 20),
        weights=(_world("world-siglip", "model", TRANSFORMERS_FILES), WORLD_TOKENIZER),
        licence=WORLD_LICENCE,
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
        licence=WORLD_LICENCE,
    ),
    RewardInfo(
        name="world-rule",
        entry="rewards.world.rule:WorldRule",
        differentiable=False,
        uses_prompt=False,
        role="judge",
        family="world-rule",
        profile="squash-64",
        scale="the world's aesthetic rule: colour, sharpness, glow, composition, less noise and clipping",
        code=RULE_CODE,
        typical_range=(1, 10),
        paper=WORLD_REPORT,
        citation="the embedded world of this package",
        licence=WORLD_LICENCE,
    ),
    RewardInfo(
        name="world-oracle",
        entry="rewards.world.oracle:WorldOracle",
        differentiable=False,
        role="judge",
        family="world-oracle",
        profile="squash-64",
        scale="share of the prompt's claims that image analysis finds true",
        code=ORACLE_CODE,
        typical_range=(0, 1),
        paper=WORLD_REPORT,
        citation="the embedded world of this package",
        licence=WORLD_LICENCE,
    ),
)

BUILTIN = {record.name: record for record in (*PUBLISHED_REWARDS, *WORLD_REWARDS)}


def clipscore_by_model(record: RewardInfo, model: str) -> RewardInfo:
    """A CLIPScore of `CLIPSCORES` by any CLIP or SigLIP that open_clip or transformers (safetensors) saved.

    ``model`` is a folder on this machine or "owner/name" on the hub, "owner/name@revision" to pin it. Images
    become its input as its files say. OpenAI's weights, "owner/name.openai", must ask for their quick GELU.
    """
    hub = None if Path(model).is_dir() else HUB_ID.fullmatch(model)
    if hub is None:
        weights = WeightsFile("backbone", layouts=CLIP_LAYOUTS, path=model)
    else:
        revision = hub["revision"] or "main"
        weights = WeightsFile("backbone", layouts=CLIP_LAYOUTS, hub=hub["name"], revision=revision)
    quick = Path(weights.hub or weights.path).name.endswith(".openai")
    return replace(
        record,
        name=f"{record.name}:{model}",
        profile=PUBLISHED,
        weights=(replace(weights, quick_gelu=quick),),
        licence="unknown",
    )
