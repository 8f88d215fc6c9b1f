"""Random weights of every reward's own architecture, in the very files and folders of the real ones.

They are tiny, so that the contract and the parity of every reward are checked offline in seconds: the same
configuration classes, key names and layouts, other sizes.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import save_file
from torch import nn

from rewards.backbones.blip import BlipConfig, BlipRanker
from rewards.backbones.head import WIDTHS, ScoreHead
from rewards.info import RewardInfo, WeightsFile
from rewards.models.mps import HEADS, MpsNetwork
from rewards.preprocess import PROFILES
from rewards.registry import load
from rewards.verification.tiny.flan import write_clip_t5, write_vision_config
from rewards.verification.tiny.qwen import write_hpsv3, write_qwen_base
from rewards.verification.tiny.vocabularies import (
    TOKENIZER_KINDS,
    VOCABULARIES,
    word_pieces,
    write_clip_tokenizer,
    write_t5_tokenizer,
    write_tokenizer,
    write_word_pieces,
)
from rewards.weights.locate import content_id

if TYPE_CHECKING:
    from rewards.base import Reward

WIDTH = 32
SEED = 1
"""One of the first whose random CLIP has positive cosines: the paper's CLIPScore clips the others to 0."""
OPENAI_VOCABULARY = 49408
TINY_ARCHITECTURE = "tcbench-tiny"
"""The name under which open_clip knows the tiny CLIP of `tiny_record`."""

HPS = "rewards.models.hpsv2:HPSv2"


@dataclass(frozen=True)
class Sizes:
    """What of a checkpoint depends on its reward: pixels a side, text tokens, the texts' vocabulary."""

    px: int
    tokens: int
    vocabulary: int
    tokenizer: str = ""
    quick_gelu: bool = False
    """What of OpenAI's the configuration must say."""

    @property
    def patch(self) -> int:
        """Pixels a side of an image token: four a side."""
        return self.px // 4


Writer = Callable[[Path, Sizes], Path]
"""Writes one of a reward's weights at a path, to which it may add a suffix; gives the path."""


def load_tiny(record: RewardInfo, folder: Path, **options: Any) -> Reward:
    """The reward with tiny random weights, which are written below ``folder``."""
    files, record = write(record, folder), tiny_record(record)
    # as if they were published: what is made for the moment does not belong in the user's lock file
    known = tuple(replace(file, sha256=content_id(file, files[file.key])) for file in record.weights)
    return load(replace(record, weights=known), weights=files, **options)


def tiny_record(record: RewardInfo) -> RewardInfo:
    """The record, free of what only the published weights satisfy: their sha256, sizes and licence."""
    files = tuple(replace(file, sha256="") for file in record.weights)
    options = dict(record.options)
    if "architecture" in options:
        options["architecture"] = TINY_ARCHITECTURE
    if record.name == "imagereward":
        files += (WeightsFile("config", file="config.json"),)
    return replace(record, weights=files, options=options, consent="")


def write(record: RewardInfo, folder: Path) -> dict[str, Path]:
    """Tiny random weights of the reward below ``folder``: their paths by key. The same at every call."""
    folder.mkdir(parents=True, exist_ok=True)
    writers, sizes = WRITERS.get(record.entry, {}), sizes_of(record)
    made = {}
    for file in tiny_record(record).weights:
        with _seed(SEED):
            made[file.key] = writers[file.key](folder / file.key, sizes)
    return made


def sizes_of(record: RewardInfo) -> Sizes:
    """The sizes of the reward's tiny weights."""
    tokens = 48 if record.name.startswith("world-") else 64 if record.name.startswith("siglip") else 77
    needed = [name for file in record.weights if file.key == "tokenizer" for name in file.patterns]
    kind = next((kind for name, kind in TOKENIZER_KINDS.items() if name in needed), "")
    vocabulary = len(VOCABULARIES[kind]()) if kind else OPENAI_VOCABULARY
    quick = any(file.quick_gelu for file in record.weights)
    return Sizes(PROFILES[record.profile].size, tokens, vocabulary, kind, quick)


@contextmanager
def _seed(seed: int) -> Iterator[None]:
    """Weights of a seed of their own, and the caller's random numbers as they were."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


def open_clip_config(sizes: Sizes) -> dict[str, Any]:
    """open_clip's "model_cfg" of a CLIP with a vision transformer."""
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


def resnet_config(sizes: Sizes) -> dict[str, Any]:
    """The same of a CLIP with a ResNet, as OpenAI's: quick GELUs, attention pooling."""
    return open_clip_config(replace(sizes, px=64)) | {
        "quick_gelu": True,
        "vision_cfg": {"image_size": 64, "layers": [1, 1, 1, 1], "width": 8, "patch_size": None},
    }


def write_open_clip(folder: Path, sizes: Sizes) -> Path:
    """A folder of open_clip's layout."""
    return _write_open_clip(folder, open_clip_config(sizes))


def write_resnet_clip(folder: Path, sizes: Sizes) -> Path:
    """The same of a CLIP with a ResNet."""
    return _write_open_clip(folder, resnet_config(sizes))


def _write_open_clip(folder: Path, config: Mapping[str, Any]) -> Path:
    from open_clip.model import CLIP

    folder.mkdir(exist_ok=True)
    written = json.dumps({"model_cfg": config, "preprocess_cfg": {}})
    (folder / "open_clip_config.json").write_text(written, encoding="utf-8")
    save_half(CLIP(**config).state_dict(), folder / "open_clip_model.safetensors")
    return folder


def write_hps(path: Path, sizes: Sizes) -> Path:
    """A checkpoint of the published kind, of an architecture that open_clip then knows by name."""
    import open_clip
    from open_clip.model import CLIP

    config = path.parent / f"{TINY_ARCHITECTURE}.json"
    config.write_text(json.dumps(open_clip_config(sizes)), encoding="utf-8")
    open_clip.add_model_config(config)
    checkpoint = path.with_suffix(".pt")
    torch.save({"state_dict": CLIP(**open_clip_config(sizes)).state_dict()}, checkpoint)
    return checkpoint


def write_head(path: Path, _: Sizes) -> Path:
    """Five linear layers under the keys of LAION's second head."""
    torch.save(ScoreHead(WIDTH).state_dict(), path.with_suffix(".pth"))
    return path.with_suffix(".pth")


def write_linear_head(path: Path, _: Sizes) -> Path:
    """One linear layer, LAION's first head."""
    torch.save(nn.Linear(WIDTH, 1).state_dict(), path.with_suffix(".pth"))
    return path.with_suffix(".pth")


def write_siglip_head(path: Path, _: Sizes) -> Path:
    """Under the keys of the published head of version 2.5."""
    state: dict[str, torch.Tensor] = {}
    for place, (inputs, outputs) in enumerate(pairwise((WIDTH, *WIDTHS, 1))):
        layer = nn.Linear(inputs, outputs).state_dict()
        state |= {f"scoring_head.{2 * place}.{key}": value for key, value in layer.items()}
    torch.save(state, path.with_suffix(".pth"))
    return path.with_suffix(".pth")


def towers_config(sizes: Sizes) -> dict[str, Any]:
    """Transformers' configuration of both halves of a two-tower model."""
    size = {"hidden_size": WIDTH, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    end = sizes.vocabulary - 1
    special = {"bos_token_id": end - 1, "eos_token_id": end, "pad_token_id": end}
    text = {**size, **special, "vocab_size": end + 1, "max_position_embeddings": sizes.tokens}
    vision = {**size, "image_size": sizes.px, "patch_size": sizes.patch}
    return {"text_config": text, "vision_config": vision}


def write_clip(folder: Path, sizes: Sizes) -> Path:
    """A CLIP in a folder of transformers' layout."""
    from transformers import CLIPConfig, CLIPModel

    CLIPModel(CLIPConfig(projection_dim=WIDTH, **towers_config(sizes))).save_pretrained(folder)
    return folder


def mps_config(sizes: Sizes) -> Any:
    """Transformers' configuration of the CLIP in MPS, whose heads are 4 wide."""
    from transformers import CLIPConfig

    return CLIPConfig(projection_dim=4 * HEADS, **towers_config(sizes))


def write_mps_config(path: Path, sizes: Sizes) -> Path:
    """It as a file."""
    mps_config(sizes).to_json_file(path.with_suffix(".json"), use_diff=False)
    return path.with_suffix(".json")


def write_mps(path: Path, sizes: Sizes) -> Path:
    """MPS under the keys of its conversion on the hub.

    Letters are further apart than a new CLIP's, or all would be close to the condition and none be hidden.
    Norms are random, as ones would not tell whether they are applied.
    """
    network = MpsNetwork(mps_config(sizes))
    nn.init.normal_(network.model.text_model.embeddings.token_embedding.weight)
    for weight in network.cross_model.parameters():
        if weight.ndim == 1:
            nn.init.uniform_(weight, 0.5, 1.5)
    state = {f"mps.{key}": value for key, value in network.state_dict().items()}
    save_half(state, path.with_suffix(".safetensors"))
    return path.with_suffix(".safetensors")


def write_siglip(folder: Path, sizes: Sizes) -> Path:
    """A SigLIP in a folder of transformers' layout."""
    from transformers import SiglipConfig, SiglipModel

    config = towers_config(sizes)
    config["text_config"]["projection_size"] = WIDTH
    model = SiglipModel(SiglipConfig(**config))
    nn.init.constant_(model.logit_bias, -3)
    model.save_pretrained(folder)
    return folder


def blip_config(sizes: Sizes) -> BlipConfig:
    """Sizes of a BLIP ranker."""
    return BlipConfig(
        image_size=sizes.px,
        patch_size=sizes.patch,
        vision_width=24,
        vision_layers=2,
        vision_heads=2,
        text_width=WIDTH,
        text_layers=2,
        text_heads=2,
        vocab_size=len(word_pieces()),
        max_positions=64,
        max_tokens=35,
        mean=0.2,
        std=0.5,
    )


def write_blip_config(path: Path, sizes: Sizes) -> Path:
    """The sizes as a file."""
    path.with_suffix(".json").write_text(json.dumps(asdict(blip_config(sizes))), encoding="utf-8")
    return path.with_suffix(".json")


def write_blip(path: Path, sizes: Sizes) -> Path:
    """Weights of the published kind, which hold position numbers and the projections that BLIP's contrastive
    loss needs beside the ranker's parameters (BLIP_Pretrain of the official code).
    """
    state = BlipRanker(blip_config(sizes)).state_dict()
    state["blip.text_encoder.embeddings.position_ids"] = torch.arange(64)[None]
    for tower in ("vision", "text"):
        state |= {f"blip.{tower}_proj.weight": torch.randn(8, 24), f"blip.{tower}_proj.bias": torch.randn(8)}
    torch.save(state, path.with_suffix(".pt"))
    return path.with_suffix(".pt")


def save_half(state: Mapping[str, Any], path: Path) -> None:
    """A .safetensors file in half precision, as much is published."""
    save_file({key: value.half().contiguous() for key, value in state.items()}, path)


WRITERS: Mapping[str, Mapping[str, Writer]] = {
    "rewards.models.aesthetic:LaionAestheticV1": {"backbone": write_open_clip, "head": write_linear_head},
    "rewards.models.aesthetic:LaionAestheticV2": {
        "backbone": write_open_clip,
        "tokenizer": write_clip_tokenizer,
        "head": write_head,
    },
    "rewards.models.aesthetic:AestheticV25": {"model": write_siglip, "head": write_siglip_head},
    "rewards.models.clipscore:ClipScore": {"backbone": write_open_clip, "tokenizer": write_clip_tokenizer},
    "rewards.models.clipiqa:ClipIqa": {"backbone": write_resnet_clip},
    "rewards.models.pickscore:PickScore": {"model": write_clip, "tokenizer": write_clip_tokenizer},
    "rewards.models.mps:Mps": {
        "checkpoint": write_mps,
        "config": write_mps_config,
        "tokenizer": write_clip_tokenizer,
    },
    HPS: {"checkpoint": write_hps, "backbone": write_open_clip, "tokenizer": write_clip_tokenizer},
    "rewards.models.hpsv3:Hpsv3": {"checkpoint": write_hpsv3, "base": write_qwen_base},
    "rewards.models.siglip:SiglipScore": {"model": write_siglip, "tokenizer": write_tokenizer},
    "rewards.models.imagereward:ImageReward": {
        "checkpoint": write_blip,
        "config": write_blip_config,
        "vocabulary": write_word_pieces,
    },
    "rewards.models.vqascore:VqaScore": {
        "model": write_clip_t5,
        "tower": write_vision_config,
        "tokenizer": write_t5_tokenizer,
    },
}
"""Who writes which of a reward's weights: class, key, writer."""
