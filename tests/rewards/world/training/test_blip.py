"""world-blip: its vocabulary, its auxiliary losses, and a ranker saved like ImageReward."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import rewards
from rewards.backbones.tokens import bert_tokenizer
from rewards.world.captions import caption
from rewards.world.prompts import world_prompts
from rewards.world.scenes import Scene
from rewards.world.training import blip
from rewards.world.training.preferences import BLIP_RATER


@pytest.fixture(scope="module")
def vocabulary(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return blip._write_vocabulary(tmp_path_factory.mktemp("build") / "world-blip")


def test_every_caption_and_prompt_is_tokenised_in_whole_words_and_fits(vocabulary: Path) -> None:
    pieces = vocabulary.read_text(encoding="utf-8").splitlines()
    assert len(pieces) == len(set(pieces))
    assert pieces[:5] == ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    tokens = bert_tokenizer(vocabulary, blip.MAX_TOKENS)
    rng = np.random.default_rng(0)
    texts = [caption(rng, Scene.random(rng, "any"), style=1.0, detail=1.0) for _ in range(300)]
    texts += [prompt.text for prompt in world_prompts("test")]
    for text, row in zip(texts, tokens(texts).ids.tolist(), strict=True):
        spelled = [pieces[i] for i in row if pieces[i] not in ("[CLS]", "[SEP]", "[PAD]")]
        assert "".join(spelled) == text.replace(" ", ""), text
        assert not any(piece.startswith("##") for piece in spelled), text
    assert max(tokens.lengths(texts)) <= blip.MAX_TOKENS


def test_other_words_are_tokenised_by_letters(vocabulary: Path) -> None:
    tokens = bert_tokenizer(vocabulary, blip.MAX_TOKENS)
    unknown = vocabulary.read_text(encoding="utf-8").splitlines().index("[UNK]")
    for text in ("An astronaut, riding 3 horses!", "4k @ f/2.8 (50mm) - Kodak's", "~`^{}|\\<>"):
        assert unknown not in tokens([text]).ids[0].tolist()


def test_a_trained_ranker_is_standardised_and_its_folder_gives_its_scores(tmp_path: Path) -> None:
    plans = [
        replace(plan, steps=3, batch=4, warmup=1)
        for plan in (blip.VISION_PLAN, blip.ALIGN_PLAN, blip.PLAN, blip.TASTE_PLAN)
    ]
    model = blip.train_blip(tmp_path, *plans)
    for plan in plans:
        assert len((tmp_path / f"{plan.name}.jsonl").read_text().splitlines()) == 2
    folder = tmp_path / "world-blip"
    files = {
        "config": folder / "config.json",
        "vocabulary": folder / "vocab.txt",
        "checkpoint": folder / "model.safetensors",
    }
    assert {file.key for file in rewards.info("world-blip").weights} == set(files)
    reward = rewards.load("world-blip", weights=files)
    batch = BLIP_RATER.compare(np.random.default_rng(2), 40)
    tokens = bert_tokenizer(files["vocabulary"], blip.MAX_TOKENS)
    with torch.inference_mode():
        raw = blip._raw_rewards(model, tokens, batch)
        scores = reward.score(batch.images.flatten(0, 1), [text for text in batch.texts for _ in range(2)])
    expected = (raw.flatten() - model.config.mean) / model.config.std
    torch.testing.assert_close(scores, expected, rtol=0.02, atol=0.05)
    assert scores.mean().item() == pytest.approx(0, abs=0.3)
    assert scores.std().item() == pytest.approx(1, abs=0.25)
    assert model.config.max_tokens == blip.MAX_TOKENS
