"""Folders as `save_pretrained` of transformers 4 and of the installed version 5 writes them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    AutoTokenizer,
    CLIPImageProcessor,
    CLIPImageProcessorPil,
    CLIPProcessor,
    CLIPTokenizer,
    Qwen2Tokenizer,
    SiglipImageProcessorPil,
)

import rewards
from rewards.backbones.processor import profile_of
from rewards.info import PUBLISHED, RewardInfo
from rewards.preprocess import PROFILES, Profile
from rewards.registry import load
from rewards.verification.references import clip as reference
from rewards.verification.samples import ODD_PROMPTS, PROMPTS, blobs
from rewards.verification.tiny.checkpoints import tiny_record
from rewards.verification.tiny.vocabularies import write_openai_tokenizer
from rewards.weights.locate import locate_weights

Files = Callable[[str], Mapping[str, Path]]

TEXTS = (*PROMPTS, *ODD_PROMPTS)
CLIP_4 = {
    "crop_size": {"height": 224, "width": 224}, "do_center_crop": True, "do_convert_rgb": True,
    "do_normalize": True, "do_rescale": True, "do_resize": True,
    "image_mean": [0.48145466, 0.4578275, 0.40821073], "image_std": [0.26862954, 0.26130258, 0.27577711],
    "image_processor_type": "CLIPImageProcessor", "processor_class": "CLIPProcessor", "resample": 3,
    "rescale_factor": 0.00392156862745098, "size": {"shortest_edge": 224},
}  # fmt: skip
"""preprocessor_config.json of transformers 4.46.3."""
CLIP_4_TOKENIZER = {
    "bos_token": "<|startoftext|>", "clean_up_tokenization_spaces": False, "eos_token": "<|endoftext|>",
    "errors": "replace", "pad_token": "<|endoftext|>", "processor_class": "CLIPProcessor",
    "tokenizer_class": "CLIPTokenizer", "unk_token": "<|endoftext|>",
}  # fmt: skip


def write_json(path: Path, content: object) -> None:
    path.write_text(json.dumps(content), encoding="utf-8")


def folder_profile(folder: Path) -> Profile:
    return profile_of(RewardInfo("any", profile=PUBLISHED), {"backbone": folder})


@pytest.fixture(scope="module")
def vocabulary(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """OpenAI's vocabulary as transformers 4 saves it, from the copy that open_clip ships."""
    folder = write_openai_tokenizer(tmp_path_factory.mktemp("vocabulary"))
    write_json(folder / "tokenizer_config.json", CLIP_4_TOKENIZER)
    write_json(folder / "special_tokens_map.json", {"pad_token": "<|endoftext|>"})
    return folder


@pytest.fixture(scope="module")
def model(tiny_files: Files, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny CLIP, saved by the installed transformers."""
    folder = tmp_path_factory.mktemp("model")
    reference._from_open_clip(tiny_files("clip")["backbone"]).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def saved_by_4(model: Path, vocabulary: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("four")
    for part in (model, vocabulary):
        shutil.copytree(part, folder, dirs_exist_ok=True)
    write_json(folder / "preprocessor_config.json", CLIP_4)
    return folder


@pytest.mark.parametrize("processor", [CLIPImageProcessor, CLIPImageProcessorPil])
def test_clip_saved_by_the_installed_version_scores_like_that_of_version_4(
    model: Path, vocabulary: Path, saved_by_4: Path, tmp_path: Path, processor: type[Any]
) -> None:
    shutil.copytree(model, tmp_path, dirs_exist_ok=True)
    CLIPProcessor(processor(), CLIPTokenizer.from_pretrained(vocabulary)).save_pretrained(tmp_path)
    assert (tmp_path / "processor_config.json").is_file()
    assert not (tmp_path / "preprocessor_config.json").exists()
    old, new = (rewards.load(f"clip:{folder}") for folder in (saved_by_4, tmp_path))
    assert old.profile == new.profile == PROFILES["clip-224-floor"]
    images = blobs(1) * len(TEXTS)
    torch.testing.assert_close(new.score(images, TEXTS), old.score(images, TEXTS), rtol=0, atol=0)


def test_processor_config_of_version_4_does_not_hide_the_image_processor(tmp_path: Path) -> None:
    write_json(tmp_path / "preprocessor_config.json", CLIP_4)
    write_json(tmp_path / "processor_config.json", {"processor_class": "CLIPProcessor", "patch_size": 14})
    assert folder_profile(tmp_path).name == "clip-224-floor"


def test_settings_of_the_whole_processor_are_preferred_as_in_transformers(tmp_path: Path) -> None:
    write_json(tmp_path / "preprocessor_config.json", CLIP_4)
    size = {"height": 384, "width": 384}
    nested = SiglipImageProcessorPil(size=size, image_mean=[0.5] * 3, image_std=[0.5] * 3).to_dict()
    write_json(tmp_path / "processor_config.json", {"image_processor": nested})
    assert folder_profile(tmp_path).name == "siglip-384"


@pytest.mark.parametrize("name", ["pickscore", "mps"])
def test_clip_tokenizer_saved_by_the_installed_version(tiny_files: Files, tmp_path: Path, name: str) -> None:
    files = tiny_files(name)
    CLIPTokenizer.from_pretrained(files["tokenizer"]).save_pretrained(tmp_path)
    assert not (tmp_path / "vocab.json").exists()
    check_alike(name, files, "tokenizer", tmp_path)


def test_qwen_folder_saved_by_the_installed_version(tiny_files: Files, tmp_path: Path) -> None:
    files = tiny_files("hpsv3")
    Qwen2Tokenizer.from_pretrained(files["base"]).save_pretrained(tmp_path)
    shutil.copy(files["base"] / "config.json", tmp_path)
    assert not (tmp_path / "vocab.json").exists()
    check_alike("hpsv3", files, "base", tmp_path)


@pytest.mark.parametrize("name", ["siglip", "siglip2"])
def test_siglip_tokenizer_saved_by_the_installed_version(
    tiny_files: Files, tmp_path: Path, name: str
) -> None:
    files = tiny_files(name)
    AutoTokenizer.from_pretrained(files["tokenizer"]).save_pretrained(tmp_path)
    check_alike(name, files, "tokenizer", tmp_path)


def check_alike(name: str, files: Mapping[str, Path], key: str, folder: Path) -> None:
    """The reward scores the same with another folder for one of its weights."""
    record = tiny_record(rewards.info(name))
    texts = [text for text in TEXTS if "<|" not in text]
    images = blobs(1) * len(texts)
    located = [locate_weights(record, {**files, key: part}) for part in (files[key], folder)]
    old, new = (load(record, weights=paths).score(images, texts) for paths in located)
    torch.testing.assert_close(new, old, rtol=0, atol=0)
