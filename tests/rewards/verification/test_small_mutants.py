"""The comparison notices mistakes that hardly change a score, and records that contradict the facts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest import mock

import pytest
from open_clip.modified_resnet import Bottleneck
from PIL import Image
from torch import nn
from torch.nn import functional as F

import rewards
from rewards.backbones import blip, tokens
from rewards.info import RewardInfo
from rewards.models import imagereward, mps, pixels, vqascore
from rewards.models.clipiqa import ClipIqa
from rewards.verification import parity
from rewards.verification.pictures import PROMPTS

LAYER_NORM = nn.LayerNorm
FEW = (PROMPTS[1], PROMPTS[-1])

Patch = Callable[[pytest.MonkeyPatch], None]


class _Changed:
    """A module of torch with some names replaced, for one of our modules alone."""

    def __init__(self, base: ModuleType, **replaced: Any) -> None:
        self._base = base
        self.__dict__.update(replaced)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._base, name)


def epsilon(module: Any, old: float, new: float) -> Patch:
    def norm(width: int, eps: float = 1e-5) -> nn.Module:
        return LAYER_NORM(width, eps=new if eps == old else eps)

    return lambda patch: patch.setattr(module, "nn", _Changed(nn, LayerNorm=norm))


def gelu_with_tanh(layer: type[nn.Module]) -> Patch:
    """Change the GELU in one kind of layer, and not in the reference, where it would change alike."""
    forward, changed = layer.forward, _Changed(F, gelu=partial(F.gelu, approximate="tanh"))

    def with_tanh(self: nn.Module, *inputs: Any) -> Any:
        with mock.patch.object(blip, "F", changed):
            return forward(self, *inputs)

    return lambda patch: patch.setattr(layer, "forward", with_tanh)


def bert(**settings: Any) -> Patch:
    def make(vocabulary: Path, limit: int) -> tokens.Tokenizer:
        from transformers import BertTokenizer

        return tokens._TransformersTokenizer(BertTokenizer(vocab=str(vocabulary), **settings), limit)

    return lambda patch: patch.setattr(imagereward, "bert_tokenizer", make)


def without_residual_branches(patch: pytest.MonkeyPatch) -> None:
    """Leave the residual branches out of the ResNet that scores, and not out of the reference's."""
    build = ClipIqa._build

    def build_without(self: ClipIqa, files: Any) -> None:
        build(self, files)
        for module in self.modules():
            if isinstance(module, Bottleneck):
                nn.init.zeros_(module.bn3.weight)

    patch.setattr(ClipIqa, "_build", build_without)


MUTANTS: dict[str, tuple[str, Patch]] = {
    "MPS: epsilon": ("mps", epsilon(mps, 1e-5, 1e-6)),
    "VQAScore: projector with tanh": (
        "vqascore",
        lambda patch: patch.setattr(vqascore, "nn", _Changed(nn, GELU=partial(nn.GELU, approximate="tanh"))),
    ),
    "BERT: Chinese not split": ("imagereward", bert(tokenize_chinese_chars=False)),
    "BERT: accents kept": ("imagereward", bert(strip_accents=False)),
    "BERT: epsilon": ("imagereward", epsilon(blip, 1e-12, 1e-6)),
    "BLIP: epsilon of the image tower": ("imagereward", epsilon(blip, 1e-6, 1e-5)),
    "BLIP: GELU with tanh in the image tower": ("imagereward", gelu_with_tanh(blip._VisionBlock)),
    "BLIP: GELU with tanh in the text tower": ("imagereward", gelu_with_tanh(blip._BertLayer)),
    "CLIP-IQA: no residual branches": ("clip-iqa", without_residual_branches),
    "colourfulness: all images are grey on average": (
        "colourfulness",
        lambda patch: patch.setattr(pixels, "_MEAN_WEIGHT", 0.0),
    ),
    "darkness: luma of Rec. 601": (
        "darkness",
        lambda patch: patch.setattr(pixels, "_LUMA", (0.299, 0.587, 0.114)),
    ),
}


@pytest.fixture
def picture(photographs: dict[str, Image.Image]) -> dict[str, Image.Image]:
    return dict(list(photographs.items())[:1])


@pytest.mark.parametrize("mutant", MUTANTS)
def test_small_mistake_is_noticed(
    mutant: str, picture: dict[str, Image.Image], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name, patch = MUTANTS[mutant]
    monkeypatch.setattr(parity, "MUTANTS", {})
    patch(monkeypatch)
    row = parity.compare_with_reference(rewards.info(name), picture, FEW, tmp_path)
    assert not row.ok


@pytest.mark.parametrize("name", dict.fromkeys(name for name, _ in MUTANTS.values()))
def test_without_a_mistake_nothing_is_noticed(
    name: str, picture: dict[str, Image.Image], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parity, "MUTANTS", {})
    assert parity.compare_with_reference(rewards.info(name), picture, FEW, tmp_path).ok


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("hpsv2", {"profile": "hps-224-antialias"}),
        ("clip", {"options": {"convention": "cosine"}}),
    ],
)
def test_reference_takes_nothing_from_the_record_under_test(
    name: str,
    change: dict[str, Any],
    picture: dict[str, Image.Image],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(parity, "MUTANTS", {})
    record: RewardInfo = replace(rewards.info(name), **change)
    row = parity.compare_with_reference(record, picture, FEW, tmp_path)
    assert row.error > row.bound  # by its scores
    assert row.disagreements  # and by the table
