"""What the authors published of each reward: weights, preprocessing, limits and constants.

Written from the papers, the authors' repositories and their model files alone. The records are tested against
this table, so it must not be written from them or from the code: a changed flag would change both sides of a
comparison alike. The embedded world's rewards and darkness have no publication; their entries only guard
against accidental changes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from functools import reduce
from importlib import import_module
from types import MappingProxyType
from typing import Any, Literal

from rewards.info import RewardInfo
from rewards.preprocess import PROFILES, Profile

_CLIP_MEAN, _CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
"""OpenAI's statistics (openai/CLIP, clip/clip.py)."""
_HALF = (0.5, 0.5, 0.5)
_Statistics = tuple[float, float, float] | None

_FIELDS = ("uses_prompt", "differentiable", "role", "family", "consent")
"""Facts that a record states under the same name."""


@dataclass(frozen=True)
class Facts:
    """Published facts of one reward."""

    source: str
    """Where they were read."""
    weights: Mapping[str, str]
    """By key: "repository/file" on the hub, "repository" for a folder, or the end of a URL."""
    profile: Profile
    """Preprocessing, without a name and of version 1."""
    quick_gelu: bool = False
    """Whether the weights need OpenAI's approximate GELU."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """Options of the record; the reference gets them too."""
    uses_prompt: bool = True
    differentiable: bool = True
    role: str = "trainable"
    family: str = "clip"
    """What the model or its training data descends from."""
    token_limit: int | None = None
    """Tokens that the text encoder reads, special ones included; None: it reads no prompt, or all of it."""
    consent: str = ""
    """Licence that must be accepted."""
    constants: Mapping[str, Any] = field(default_factory=dict)
    """Values in the code by "module:name.attribute"."""

    def disagreements(self, record: RewardInfo) -> tuple[str, ...]:
        """Return the differences between a record and the published facts, one phrase each."""
        stated: dict[str, Any] = {name: getattr(record, name) for name in _FIELDS}
        stated["options"] = dict(record.options)
        stated["quick_gelu"] = any(file.quick_gelu for file in record.weights)
        stated["weights"] = {
            file.key: f"{file.hub}/{file.file}".strip("/") if file.hub else file.url or file.package
            for file in record.weights
        }
        expected: dict[str, Any] = {name: getattr(self, name) for name in stated}
        stated |= _settings(replace(PROFILES[record.profile], name="", version=1))
        expected |= _settings(self.profile)
        # Of a URL only the end is a fact of the authors; the rest says which commit was pinned.
        urls = {k: u for k, u in stated["weights"].items() if u.endswith(self.weights.get(k) or "?")}
        stated["weights"] |= {key: self.weights[key] for key in urls}
        stated |= {name: _constant(name) for name in self.constants}
        expected |= self.constants
        return tuple(
            f"{name} is {value!r}, published is {expected[name]!r}"
            for name, value in stated.items()
            if value != (dict(expected[name]) if isinstance(expected[name], Mapping) else expected[name])
        )


def _constant(path: str) -> Any:
    module, _, names = path.partition(":")
    return reduce(getattr, names.split("."), import_module(module))


def _settings(profile: Profile) -> dict[str, Any]:
    return {field.name: getattr(profile, field.name) for field in fields(profile)}


def _profile(
    resize: Literal["shortest", "longest", "pad", "squash", "area", "none"],
    size: int = 0,
    *,
    kernel: Literal["bicubic", "bilinear"] = "bicubic",
    emulate_pil: bool = True,
    antialias: bool = True,
    crop: Literal["round", "floor"] = "round",
    convert: Literal["first", "last"] = "first",
    mean: _Statistics = _CLIP_MEAN,
    std: _Statistics = _CLIP_STD,
) -> Profile:
    """Return a profile with every setting stated here, so that another default of `Profile` is noticed."""
    return Profile("", resize, size, emulate_pil, antialias, kernel, crop, mean, std, convert)


_VIT_L, _VIT_B = "timm/vit_large_patch14_clip_224.openai", "timm/vit_base_patch32_clip_224.openai"
_HEAD_WIDTHS = {"rewards.backbones.head:WIDTHS": (1024, 128, 64, 16)}
_SO400M = "google/siglip-so400m-patch14-384"
_LAION_H = "laion/CLIP-ViT-H-14-laion2B-s32B-b79K"

_AESTHETIC_V2 = Facts(
    "christophschuhmann/improved-aesthetic-predictor, simple_inference.py",
    {"backbone": _VIT_L, "head": "/sac+logos+ava1-l14-linearMSE.pth"},
    _profile("shortest", 224, convert="last"),
    quick_gelu=True,
    uses_prompt=False,
    constants=_HEAD_WIDTHS,
)
_CLIP = Facts(
    "torchmetrics, functional/multimodal/clip_score.py; openai/CLIP, clip/clip.py",
    {"backbone": _VIT_L},
    _profile("shortest", 224, convert="last"),
    quick_gelu=True,
    options={"convention": "torchmetrics"},
    token_limit=77,
    constants={"rewards.backbones.tokens:CLIP_LIMIT": 77},
)
_SIGLIP = Facts(
    "google/siglip-so400m-patch14-384, preprocessor_config.json and config.json",
    {"model": _SO400M, "tokenizer": _SO400M},
    _profile("squash", 384, mean=_HALF, std=_HALF),
    family="siglip",
    token_limit=64,
)
_PICKSCORE = Facts(
    "yuvalkirstain/PickScore, README.md: the processor is laion's ViT-H-14",
    {"model": "yuvalkirstain/PickScore_v1", "tokenizer": _LAION_H},
    _profile("shortest", 224, crop="floor"),
    token_limit=77,
)
_HPSV2 = Facts(
    "tgxs002/HPSv2, hpsv2/img_score.py and hpsv2/src/open_clip/transform.py; torchvision before 0.17, which "
    "did not antialias tensors by default",
    {"checkpoint": "xswu/HPSv2/HPS_v2_compressed.pt"},
    _profile("longest", 224, emulate_pil=False, antialias=False),
    options={"architecture": "ViT-H-14"},
    token_limit=77,
)
_HPSV2_1 = replace(_HPSV2, weights={"checkpoint": "xswu/HPSv2/HPS_v2.1_compressed.pt"})
_ANTIALIASED = replace(_HPSV2.profile, antialias=True)
_VQASCORE = Facts(
    "linzhiqiu/t2v_metrics, clip_t5_model.py, mm_utils.py and constants.py",
    {
        "model": "zhiqiulin/clip-flant5-xl",
        "tower": "openai/clip-vit-large-patch14-336/config.json",
        "tokenizer": "google/flan-t5-xl/tokenizer.json",
    },
    _profile("pad", 336),
    family="clip-flant5",
    constants={
        "rewards.models.vqascore:_CONTEXT": 2048,
        "rewards.models.vqascore:_ANSWER": "Yes",
        "rewards.models.vqascore:_BEFORE_IMAGE": (
            "A chat between a curious user and an artificial intelligence assistant. The assistant gives "
            "helpful, detailed, and polite answers to the user's questions. USER: "
        ),
        "rewards.models.vqascore:_AFTER_IMAGE": (
            '\nDoes this figure show "{}"? Please answer yes or no. ASSISTANT: '
        ),
        "rewards.models.vqascore:_EXPECTED_CONFIG": {
            "mm_vision_select_layer": -2,
            "mm_vision_select_feature": "patch",
            "mm_projector_type": "mlp2x_gelu",
        },
    },
)
_WORLD = "docs/world/report.md"
_WORLD_TOKENIZER = {"tokenizer": "world/weights/tokenizer"}
_WORLD_CLIP = {"backbone": "world/weights/world-clip", **_WORLD_TOKENIZER}
_WORLD_JUDGE = Facts(
    _WORLD,
    {},
    _profile("squash", 64, mean=None, std=None),
    differentiable=False,
    role="judge",
    family="world-oracle",
)
_JPEG = Facts(
    "kvablack/ddpo-pytorch, ddpo_pytorch/rewards.py",
    {},
    _profile("none", emulate_pil=False, mean=None, std=None),
    options={"sign": 1},
    uses_prompt=False,
    differentiable=False,
    family="jpeg",
    constants={"rewards.models.jpeg:_QUALITY": 95},
)
_COLOURFULNESS = Facts(
    "Hasler and Suesstrunk 2003, metric M(3)",
    {},
    _profile("none", emulate_pil=False, mean=None, std=None),
    uses_prompt=False,
    family="colourfulness",
    constants={"rewards.models.pixels:_LEVELS": 255, "rewards.models.pixels:_MEAN_WEIGHT": 0.3},
)


def _world(base: Facts, **changes: Any) -> Facts:
    """Return the facts of a reward of the embedded world: a published recipe at 64 pixels."""
    small = replace(base.profile, size=64, convert="first")
    given: dict[str, Any] = {"quick_gelu": False, "options": {}, "family": "world-clip"}
    return replace(base, source=_WORLD, profile=small, **given | changes)


FACTS: Mapping[str, Facts] = MappingProxyType(
    {
        "aesthetic-v1": replace(
            _AESTHETIC_V2,
            source="LAION-AI/aesthetic-predictor, README.md",
            weights={"backbone": _VIT_L, "head": "/sa_0_4_vit_l_14_linear.pth"},
        ),
        "aesthetic-v2": _AESTHETIC_V2,
        "aesthetic-v2.5": Facts(
            "discus0434/aesthetic-predictor-v2-5, siglip_v2_5.py",
            {"model": _SO400M, "head": "/aesthetic_predictor_v2_5.pth"},
            _profile("squash", 384, mean=_HALF, std=_HALF),
            uses_prompt=False,
            family="siglip",
            consent="AGPL-3.0",
            constants=_HEAD_WIDTHS,
        ),
        "clip": _CLIP,
        "clip-hessel": replace(
            _CLIP,
            source="jmhessel/clipscore, clipscore.py: ViT-B/32, w = 2.5",
            weights={"backbone": _VIT_B},
            options={"convention": "hessel"},
            constants={"rewards.models.clipscore:_PREFIX": "A photo depicts "},
        ),
        "clip-logits": replace(_CLIP, options={"convention": "logits"}),
        "clip-cosine": replace(_CLIP, options={"convention": "cosine"}),
        "siglip": _SIGLIP,
        "siglip2": replace(
            _SIGLIP,
            source="google/siglip2-so400m-patch14-384, preprocessor_config.json (resample 2) and config.json",
            weights=dict.fromkeys(("model", "tokenizer"), "google/siglip2-so400m-patch14-384"),
            profile=replace(_SIGLIP.profile, kernel="bilinear"),
        ),
        "clip-iqa": Facts(
            "IceClear/CLIP-IQA, coopclipiqa.py and configs/clipiqa; openai/CLIP's RN50",
            {"backbone": "timm/resnet50_clip.openai"},
            _profile("none", emulate_pil=False),
            quick_gelu=True,
            uses_prompt=False,
            constants={"rewards.models.clipiqa:_ANTONYMS": ("Good photo.", "Bad photo.")},
        ),
        "pickscore": _PICKSCORE,
        "hpsv2": _HPSV2,
        "hpsv2-antialias": replace(_HPSV2, profile=_ANTIALIASED),
        "hpsv2.1": _HPSV2_1,
        "hpsv2.1-antialias": replace(_HPSV2_1, profile=_ANTIALIASED),
        "mps": replace(
            _PICKSCORE,
            source="Kwai-Kolors/MPS, eval_overall_mps_on_hpdv2.py and trainer/models/cross_modeling.py",
            weights={
                "checkpoint": "RE-N-Y/mpsv1/model.safetensors",
                "config": f"{_LAION_H}/config.json",
                "tokenizer": _LAION_H,
            },
            constants={
                "rewards.models.mps:_THRESHOLD": 0.3,
                "rewards.models.mps:HEADS": 16,
                "rewards.models.mps:_LAYERS": 4,
                "rewards.models.mps:_FEEDFORWARD": 4,
                "rewards.models.mps:_ROTARY_BASE": 10000,
            },
        ),
        "hpsv3": Facts(
            "MizzenAI/HPSv3, hpsv3/inference.py, hpsv3/dataset/utils.py (200,704 pixels) and "
            "hpsv3/dataset/data_collator_qwen.py",
            {"checkpoint": "MizzenAI/HPSv3/HPSv3.safetensors", "base": "Qwen/Qwen2-VL-7B-Instruct"},
            _profile("area", 448),
            family="hpsv3",
            constants={
                "rewards.models.hpsv3:_REWARD": "<|Reward|>",
                "rewards.preprocess:_QWEN_BLOCK_PX": 28,
                "rewards.preprocess:_QWEN_MAX_RATIO": 200,
            },
        ),
        "imagereward": Facts(
            "THUDM/ImageReward, ImageReward.py and med_config.json; BLIP's ViT-L/16 and BERT-base",
            {
                "checkpoint": "zai-org/ImageReward/ImageReward.pt",
                "vocabulary": "google-bert/bert-base-uncased/vocab.txt",
            },
            _profile("shortest", 224, convert="last"),
            family="blip",
            token_limit=35,
            constants=_HEAD_WIDTHS
            | {
                f"rewards.models.imagereward:PUBLISHED.{name}": value
                for name, value in {
                    "mean": 0.16717362830052426,
                    "std": 1.0333394966054072,
                    "max_tokens": 35,
                    "image_size": 224,
                    "patch_size": 16,
                    "vision_width": 1024,
                    "vision_layers": 24,
                    "vision_heads": 16,
                    "text_width": 768,
                    "text_layers": 12,
                    "text_heads": 12,
                    "vocab_size": 30524,  # BERT's 30,522 with [DEC] and [ENC]
                    "max_positions": 512,
                }.items()
            },
        ),
        "vqascore": _VQASCORE,
        "vqascore-xxl": replace(
            _VQASCORE,
            weights={
                **_VQASCORE.weights,
                "model": "zhiqiulin/clip-flant5-xxl",
                "tokenizer": "google/flan-t5-xxl/tokenizer.json",
            },
        ),
        "jpeg-compressibility": replace(_JPEG, options={"sign": -1}),
        "jpeg-incompressibility": _JPEG,
        "colourfulness": _COLOURFULNESS,
        "darkness": replace(
            _COLOURFULNESS,
            source="docs/rewards.md; ITU-R BT.709, luma",
            family="darkness",
            constants={"rewards.models.pixels:_LUMA": (0.2126, 0.7152, 0.0722)},
        ),
        "world-clip": _world(_CLIP, weights=_WORLD_CLIP, options=_CLIP.options, token_limit=48),
        "world-aesthetic": _world(
            _AESTHETIC_V2,
            weights=_WORLD_CLIP | {"head": "world/weights/world-aesthetic/head.safetensors"},
        ),
        "world-pick": _world(
            _PICKSCORE, weights={"model": "world/weights/world-pick", **_WORLD_TOKENIZER}, token_limit=48
        ),
        "world-hps": _world(
            _HPSV2, weights={"backbone": "world/weights/world-hps", **_WORLD_TOKENIZER}, token_limit=48
        ),
        "world-siglip": _world(
            _SIGLIP,
            weights={"model": "world/weights/world-siglip", **_WORLD_TOKENIZER},
            role="selection",
            family="world-siglip",
            token_limit=48,
        ),
        "world-blip": Facts(
            _WORLD,
            {
                "config": "world/weights/world-blip/config.json",
                "vocabulary": "world/weights/world-blip/vocab.txt",
                "checkpoint": "world/weights/world-blip/model.safetensors",
            },
            _profile("shortest", 64),
            role="judge",
            family="world-blip",
        ),
        "world-vqa": replace(
            _VQASCORE,
            source=_WORLD,
            weights={
                "model": "world/weights/world-vqa",
                "tower": "world/weights/world-vqa/tower.json",
                "tokenizer": "world/weights/world-vqa/tokenizer.json",
            },
            profile=_profile("shortest", 64),
            role="judge",
            family="world-vqa",
        ),
        "world-rule": replace(_WORLD_JUDGE, uses_prompt=False, family="world-rule"),
        "world-oracle": _WORLD_JUDGE,
    }
)
"""Facts by the reward's name."""
