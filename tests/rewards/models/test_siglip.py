"""SigLIP and SigLIP 2 against transformers' model and processor."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import rewards
from rewards.backbones.tokens import transformers_tokenizer
from rewards.base import Reward
from rewards.models.siglip import SiglipScore
from rewards.verification.references import load_reference
from rewards.verification.tiny.checkpoints import tiny_record
from tcbench.errors import MismatchError

PROMPTS = [
    "A Large, red CIRCLE!",
    "",
    "the small circles " * 40,
    "snow: 3 whites of the in-er circle",
    "été 雪",
]
IDS = {
    "A Large, red CIRCLE!": [3, 6, 8, 15, 9, 10],
    "": [],
    "  a  circle": [15, 3, 15, 9, 10],
    "Two_dogs' 10 x½": [15, 35, 38, 30, 19, 30, 22, 34, 15, 43, 42, 15, 39, 2],
    "snow: 3 whites": [15, 34, 29, 30, 38, 15, 45, 14, 34],
    "été 雪": [15, 2, 35, 2, 15, 2],
}


def picture(height: int, width: int) -> Image.Image:
    rng = np.random.default_rng(height)
    coarse = Image.fromarray(rng.integers(0, 256, (6, 8, 3), dtype=np.uint8))
    return coarse.resize((width, height), Image.Resampling.BICUBIC)


@pytest.mark.parametrize("name", ["siglip", "siglip2", "world-siglip"])
def test_score_matches_official_model_processor_and_tokenizer(
    tiny_files: Callable[[str], Mapping[str, Path]], name: str
) -> None:
    files = tiny_files(name)
    reward = rewards.load(tiny_record(rewards.info(name)), weights=files)
    images = [picture(*size) for size in ((100, 100), (90, 130), (64, 150), (60, 60), (384, 400))]
    expected = [load_reference("siglip")(files, *pair) for pair in zip(images, PROMPTS, strict=True)]
    spread = max(expected) - min(expected)
    assert spread > 1e-3
    assert reward.score(images, PROMPTS).tolist() == pytest.approx(expected, abs=1e-4 * spread)


def test_score_is_the_logit_of_transformers(tiny: Callable[[str], Reward]) -> None:
    reward = tiny("world-siglip")
    assert isinstance(reward, SiglipScore)
    pixels, prompts = torch.randn(3, 3, 64, 64), ["a cat", "a long list of many words", ""]
    ids = reward.towers.tokenizer(prompts).ids
    output = reward.towers.model(input_ids=ids, pixel_values=pixels)
    torch.testing.assert_close(reward._score(pixels, prompts), output.logits_per_image.diagonal())


@pytest.mark.parametrize("prompt", IDS)
def test_siglip_ids_match_the_official_tokenizer(
    tiny_files: Callable[[str], Mapping[str, Path]], prompt: str
) -> None:
    # The ids are those of SiglipTokenizer (transformers 5.23) with sentencepiece 0.2.3.
    tokenizer = transformers_tokenizer(tiny_files("siglip")["tokenizer"], 64)
    ids = [*IDS[prompt], 1]
    assert tokenizer([prompt]).ids[0].tolist() == ids + [1] * (64 - len(ids))
    assert tokenizer.lengths([prompt]) == [len(ids)]


def test_siglip2_ignores_case_but_not_punctuation(
    tiny_files: Callable[[str], Mapping[str, Path]],
) -> None:
    tokenizer = transformers_tokenizer(tiny_files("siglip2")["tokenizer"], 64)
    capital, small, bare = tokenizer(["A Red, circle.", "a red, circle.", "a red circle"]).ids
    assert torch.equal(capital, small)
    assert not torch.equal(small, bare)
    assert small.tolist().count(0) == 64 - len(tokenizer._tokenizer("a red, circle.")["input_ids"])
    assert small[small != 0][-1] == 1  # ends with <eos>; then comes padding


@pytest.mark.parametrize("name", ["siglip", "siglip2"])
def test_prompts_are_cut_to_64_tokens_with_an_end_token(tiny: Callable[[str], Reward], name: str) -> None:
    reward = tiny(name)
    assert isinstance(reward, SiglipScore)
    letters = " ".join(["q"] * 40)
    assert reward.truncated(["q", letters]) == 1
    assert reward.towers.tokenizer([letters]).ids[0, -1] == 1


def test_siglip_ignores_case_and_punctuation(tiny: Callable[[str], Reward]) -> None:
    scores = tiny("siglip").score([picture(64, 64)] * 2, ["A red, circle!", "a red circle"])
    assert scores[0] == scores[1]


def test_folder_without_supported_tokenizer_is_refused(tmp_path: Path) -> None:
    with pytest.raises(MismatchError, match=r"tokenizer_config.json cannot be read .*; fetch it again"):
        transformers_tokenizer(tmp_path, 64)
    (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": "BertTokenizer"}', encoding="utf-8")
    with pytest.raises(
        MismatchError, match="names a BertTokenizer; supported: CLIPTokenizer, SiglipTokenizer"
    ):
        transformers_tokenizer(tmp_path, 64)
