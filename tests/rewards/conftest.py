"""Tiny random weights of every reward's architecture, in the very files and folders of the real ones."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import rewards
from rewards.info import WeightsFile
from rewards.registry import load

if TYPE_CHECKING:
    from rewards.base import Reward

WIDTH = 32
TOKENS = 48
OPENAI_VOCABULARY = 49408
TINY_HPS = "tiny-hps"


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Reward]:
    """Loads a reward by its name, with its weights replaced by tiny random ones."""
    zoo = TinyZoo(tmp_path_factory.mktemp("zoo"))
    return cache(zoo.load)


@pytest.fixture(scope="session")
def tiny_files(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], dict[str, Path]]:
    """Writes the tiny weights of a reward and gives their places by key."""
    return TinyZoo(tmp_path_factory.mktemp("files")).files


class TinyZoo:
    """Writes weights below a folder, with seeds of their own, so that no test depends on another."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def load(self, name: str) -> Reward:
        return load(tiny_record(name), weights=self.files(name))

    def files(self, name: str) -> dict[str, Path]:
        world = name.startswith("world-")
        folder = self.folder / name
        folder.mkdir(exist_ok=True)
        writers: dict[str, Callable[[Path, bool], Path]] = {
            "backbone": write_resnet_clip if name == "clip-iqa" else write_open_clip,
            "checkpoint": write_blip if name.endswith(("blip", "imagereward")) else write_hps,
            "config": write_blip_config,
            "head": HEADS.get(name, write_head),
            "model": write_siglip if rewards.info(name).profile.startswith("siglip") else write_clip,
            "tokenizer": lambda path, _: write_tokenizer(path),
            "vocabulary": lambda path, _: write_vocabulary(path),
        }
        return {file.key: writers[file.key](folder / file.key, world) for file in tiny_record(name).weights}


def tiny_record(name: str) -> rewards.RewardInfo:
    """The record, free of what only the published weights satisfy: their sha256 and their sizes."""
    record = rewards.info(name)
    files = tuple(replace(file, sha256="") for file in record.weights)
    options = dict(record.options)
    if "architecture" in options:
        options["architecture"] = TINY_HPS
    if name == "imagereward":
        files += (WeightsFile("config", file="config.json"),)
    return replace(record, weights=files, options=options, consent="")


def side(world: bool) -> int:
    return 64 if world else 224


def open_clip_config(world: bool) -> dict[str, Any]:
    size = side(world)
    return {
        "embed_dim": WIDTH,
        "vision_cfg": {
            "image_size": size,
            "layers": 2,
            "width": WIDTH,
            "head_width": 16,
            "patch_size": size // 4,
        },
        "text_cfg": {
            "context_length": TOKENS if world else 77,
            "vocab_size": len(vocabulary()) if world else OPENAI_VOCABULARY,
            "width": WIDTH,
            "heads": 2,
            "layers": 2,
        },
    }


def random_open_clip(world: bool) -> Any:
    import torch
    from open_clip.model import CLIP

    torch.manual_seed(
        1
    )  # of the first seeds, one whose cosines are positive: CLIPScore clips the others to 0
    return CLIP(**open_clip_config(world))


def write_open_clip(folder: Path, world: bool) -> Path:
    folder.mkdir(exist_ok=True)
    config = json.dumps({"model_cfg": open_clip_config(world), "preprocess_cfg": {}})
    (folder / "open_clip_config.json").write_text(config, encoding="utf-8")
    save_half(random_open_clip(world).state_dict(), folder / "open_clip_model.safetensors")
    return folder


def write_hps(path: Path, _: bool) -> Path:
    """A checkpoint of the published kind, of an architecture that open_clip then knows by name."""
    import open_clip
    import torch

    config = path.parent / f"{TINY_HPS}.json"
    config.write_text(json.dumps(open_clip_config(world=False)), encoding="utf-8")
    open_clip.add_model_config(config)
    checkpoint = path.with_suffix(".pt")
    torch.save({"state_dict": random_open_clip(world=False).state_dict()}, checkpoint)
    return checkpoint


def write_head(path: Path, world: bool) -> Path:
    import torch

    from rewards.head import ScoreHead

    torch.manual_seed(2)
    state = ScoreHead(WIDTH).state_dict()
    if world:
        return save_half(state, path.with_suffix(".safetensors"))
    torch.save(state, path.with_suffix(".pth"))
    return path.with_suffix(".pth")


def write_resnet_clip(folder: Path, _: bool) -> Path:
    """A CLIP with a ResNet, in a folder of open_clip's layout."""
    import torch
    from open_clip.model import CLIP

    config = open_clip_config(world=False) | {
        "quick_gelu": True,
        "vision_cfg": {"image_size": 64, "layers": [1, 1, 1, 1], "width": 8, "patch_size": None},
    }
    torch.manual_seed(7)
    folder.mkdir(exist_ok=True)
    written = json.dumps({"model_cfg": config, "preprocess_cfg": {}})
    (folder / "open_clip_config.json").write_text(written, encoding="utf-8")
    save_half(CLIP(**config).state_dict(), folder / "open_clip_model.safetensors")
    return folder


def write_siglip_head(path: Path, _: bool) -> Path:
    """Under the keys of the published head of version 2.5."""
    import torch

    torch.manual_seed(8)
    sizes = (WIDTH, 1024, 128, 64, 16, 1)
    state = {}
    for place, (inputs, outputs) in enumerate(zip(sizes, sizes[1:], strict=False)):
        layer = torch.nn.Linear(inputs, outputs)
        state |= {f"scoring_head.{2 * place}.{k}": v.detach() for k, v in layer.state_dict().items()}
    torch.save(state, path.with_suffix(".pth"))
    return path.with_suffix(".pth")


def write_linear_head(path: Path, _: bool) -> Path:
    import torch

    torch.manual_seed(3)
    torch.save(torch.nn.Linear(WIDTH, 1).state_dict(), path.with_suffix(".pth"))
    return path.with_suffix(".pth")


HEADS: dict[str, Callable[[Path, bool], Path]] = {
    "aesthetic-v1": write_linear_head,
    "aesthetic-v2.5": write_siglip_head,
}


def towers_config(world: bool) -> dict[str, Any]:
    size = {"hidden_size": WIDTH, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    end = len(vocabulary()) - 1
    special = {"bos_token_id": end - 1, "eos_token_id": end, "pad_token_id": end}
    length = TOKENS if world else 77
    text = {**size, **special, "vocab_size": end + 1, "max_position_embeddings": length}
    vision = {**size, "image_size": side(world), "patch_size": side(world) // 4}
    return {"text_config": text, "vision_config": vision}


def write_clip(folder: Path, world: bool) -> Path:
    import torch
    from transformers import CLIPConfig, CLIPModel

    torch.manual_seed(4)
    CLIPModel(CLIPConfig(projection_dim=WIDTH, **towers_config(world))).save_pretrained(folder)
    return folder


def write_siglip(folder: Path, world: bool) -> Path:
    import torch
    from transformers import SiglipConfig, SiglipModel

    torch.manual_seed(5)
    config = towers_config(world)
    config["text_config"]["projection_size"] = WIDTH
    model = SiglipModel(SiglipConfig(**config))
    torch.nn.init.constant_(model.logit_bias, -3)
    model.save_pretrained(folder)
    return folder


def blip_config(world: bool) -> Any:
    from rewards.blip import BlipConfig

    return BlipConfig(
        image_size=side(world),
        patch_size=side(world) // 4,
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


def write_blip_config(path: Path, world: bool) -> Path:
    path.with_suffix(".json").write_text(json.dumps(asdict(blip_config(world))), encoding="utf-8")
    return path.with_suffix(".json")


def write_blip(path: Path, world: bool) -> Path:
    """Weights of the published kind, which hold position numbers and the projections that BLIP's contrastive
    loss needs beside the ranker's parameters (BLIP_Pretrain of the official code)."""
    import torch

    from rewards.blip import BlipRanker

    torch.manual_seed(6)
    state = BlipRanker(blip_config(world)).state_dict()
    if world:
        return save_half(state, path.with_suffix(".safetensors"))
    state["blip.text_encoder.embeddings.position_ids"] = torch.arange(64)[None]
    for tower in ("vision", "text"):
        state |= {f"blip.{tower}_proj.weight": torch.randn(8, 24), f"blip.{tower}_proj.bias": torch.randn(8)}
    torch.save(state, path.with_suffix(".pt"))
    return path.with_suffix(".pt")


def save_half(state: dict[str, Any], path: Path) -> Path:
    from safetensors.torch import save_file

    save_file({key: value.half().contiguous() for key, value in state.items()}, path)
    return path


@cache
def vocabulary() -> tuple[str, ...]:
    """Byte-level BPE without merges: all bytes, all bytes at a word's end, start, and at the end the end."""
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    letters = list(bytes_to_unicode().values())
    return (*letters, *(f"{letter}</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>")


def write_tokenizer(folder: Path) -> Path:
    folder.mkdir(exist_ok=True)
    special = {"bos_token": "<|startoftext|>"} | dict.fromkeys(
        ("eos_token", "unk_token", "pad_token"), "<|endoftext|>"
    )
    contents = {
        "vocab.json": json.dumps({token: i for i, token in enumerate(vocabulary())}),
        "merges.txt": "#version: 0.2\n",
        "tokenizer_config.json": json.dumps(
            {"tokenizer_class": "CLIPTokenizer", "model_max_length": TOKENS, **special}
        ),
        "special_tokens_map.json": json.dumps(special),
    }
    for name, content in contents.items():
        (folder / name).write_text(content, encoding="utf-8")
    return folder


@cache
def word_pieces() -> tuple[str, ...]:
    letters = "abcdefghijklmnopqrstuvwxyz"
    return ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters, *(f"##{letter}" for letter in letters))


def write_vocabulary(path: Path) -> Path:
    path.with_suffix(".txt").write_text("\n".join(word_pieces()) + "\n", encoding="utf-8")
    return path.with_suffix(".txt")
