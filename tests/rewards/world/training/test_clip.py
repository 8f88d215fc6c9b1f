"""world-clip: open_clip's own model, in its own files, and the same again in transformers' layout."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

import rewards
from rewards.world.training import clip, data
from rewards.world.training.fit import Plan
from rewards.world.training.preferences import as_transformers
from rewards.world.training.tokenizer import CONTEXT_LENGTH


@pytest.fixture(scope="module")
def tokens(tokenizer: Path) -> clip.Tokens:
    return clip.Tokens(tokenizer)


@pytest.fixture(scope="module")
def model(world_clip: Path, tokens: clip.Tokens) -> Any:
    return clip.load(world_clip, len(tokens))


@pytest.fixture(scope="module")
def batch() -> tuple[Tensor, list[str]]:
    """Pictures (4, 3, 64, 64) and texts of different lengths, one of them too long."""
    rng = np.random.default_rng(0)
    scenes = data.random_scenes(rng, 4)
    return data.pictures(rng, scenes), [*data.captions(rng, scenes[:2]), "a ring", "a big red star and " * 20]


def test_transformers_gives_the_same_embeddings(
    model: Any, tokens: clip.Tokens, batch: tuple[Tensor, list[str]]
) -> None:
    images, texts = clip.normalise(batch[0]), tokens(batch[1])
    converted: Any = as_transformers(model, tokens)
    with torch.inference_mode():
        torch.testing.assert_close(
            converted.get_image_features(pixel_values=images).pooler_output,
            model.encode_image(images),
            rtol=1e-4,
            atol=1e-5,
        )
        torch.testing.assert_close(
            converted.get_text_features(input_ids=texts).pooler_output,
            model.encode_text(texts),
            rtol=1e-4,
            atol=1e-5,
        )
    torch.testing.assert_close(converted.logit_scale, model.logit_scale)
    assert converted.num_parameters() == sum(parameter.numel() for parameter in model.parameters())


def test_text_without_padding_is_encoded_as_open_clip_encodes_it_padded(
    model: Any, tokens: clip.Tokens, batch: tuple[Tensor, list[str]]
) -> None:
    for texts in (batch[1], batch[1][:3]):  # cut at 48, and shorter
        short = tokens(texts, pad=False)
        assert (short.shape[1] == CONTEXT_LENGTH) == (texts is batch[1])
        with torch.inference_mode():
            expected = model.encode_text(tokens(texts))
            torch.testing.assert_close(clip.encode_text(model, short), expected, rtol=1e-4, atol=1e-5)


def test_saved_weights_come_back_rounded_to_float16(tokens: clip.Tokens, tmp_path: Path) -> None:
    torch.manual_seed(1)
    before = clip.build(len(tokens))
    clip.save(before, len(tokens), tmp_path / "new" / "folder")
    after = clip.load(tmp_path / "new" / "folder", len(tokens))
    assert not after.training
    for name, value in before.state_dict().items():
        found = after.state_dict()[name]
        assert found.dtype == value.dtype
        assert torch.equal(found, value.half().float() if value.is_floating_point() else value), name


def test_open_clip_itself_reads_the_folder(
    model: Any, world_clip: Path, batch: tuple[Tensor, list[str]]
) -> None:
    import open_clip

    theirs, process = open_clip.create_model_from_pretrained(f"local-dir:{world_clip}")
    images = clip.normalise(batch[0])
    with torch.inference_mode():
        torch.testing.assert_close(theirs.eval().encode_image(images), model.encode_image(images))
    from torchvision.transforms.functional import to_pil_image

    # Their preprocessing, read from the same folder, is ours.
    torch.testing.assert_close(process(to_pil_image(batch[0][0])), images[0])


def test_normalise_is_the_registered_profiles_preprocessing(batch: tuple[Tensor, list[str]]) -> None:
    from rewards.preprocess import PROFILES, preprocess

    expected = preprocess(batch[0], PROFILES[rewards.info("world-clip").profile])
    torch.testing.assert_close(clip.normalise(batch[0]), expected)


def test_the_loss_is_least_for_a_perfect_match_and_its_accuracy_counts_the_right_ones() -> None:
    unit = torch.eye(6)
    image, text, scale = unit[:3], unit, torch.tensor(20.0)
    perfect = clip.contrastive(image, text, scale)
    assert perfect["loss"] < 1e-6
    assert perfect["accuracy"] == 1
    one_wrong = clip.contrastive(image, text[[0, 1, 5, 3, 4, 2]], scale)  # the third's near miss fits better
    assert one_wrong["accuracy"] == pytest.approx(2 / 3)
    assert one_wrong["loss"] > perfect["loss"]
    all_wrong = clip.contrastive(image, text[[1, 2, 0, 3, 4, 5]], scale)
    assert all_wrong["accuracy"] == 0
    assert all_wrong["loss"] > one_wrong["loss"]


def test_the_loss_is_symmetric_cross_entropy_with_near_misses_for_images_alone() -> None:
    torch.manual_seed(2)
    image, text = F.normalize(torch.randn(3, 8), dim=-1), F.normalize(torch.randn(6, 8), dim=-1)
    logits = (5.0 * image @ text.T).exp()
    of_image = [-(logits[i, i] / logits[i].sum()).log() for i in range(3)]
    of_text = [-(logits[i, i] / logits[:, i].sum()).log() for i in range(3)]
    found = clip.contrastive(image, text, torch.tensor(5.0))["loss"]
    torch.testing.assert_close(found, (torch.stack(of_image).mean() + torch.stack(of_text).mean()) / 2)


def short(plan: Plan) -> Plan:
    return replace(plan, steps=3, batch=4, warmup=1)


def test_training_is_reproducible_resumable_and_makes_a_reward(
    world_clip: Path,
    tokenizer: Path,
    tokens: clip.Tokens,
    tmp_path: Path,
    batch: tuple[Tensor, list[str]],
) -> None:
    plans = short(clip.LOOK), short(clip.PLAN)
    first: Any = clip.train(tokenizer, world_clip, tmp_path / "first", *plans)
    torch.randn(3)
    second = clip.train(tokenizer, world_clip, tmp_path / "second", *plans)
    again = clip.train(tokenizer, world_clip, tmp_path / "first", *plans)  # finished: nothing is trained
    for other in (second, again):
        for name, value in other.state_dict().items():
            assert torch.equal(value, first.state_dict()[name]), name
    for plan in plans:
        assert len((tmp_path / "first" / f"{plan.name}.jsonl").read_text().splitlines()) == 2
    clip.save(first, len(tokens), tmp_path / "saved")
    reward = rewards.load("world-clip", weights={"backbone": tmp_path / "saved", "tokenizer": tokenizer})
    images, texts = batch
    with torch.inference_mode():
        image = F.normalize(first.encode_image(clip.normalise(images)), dim=-1)
        text = F.normalize(clip.encode_text(first, tokens(texts, pad=False)), dim=-1)
        scores = reward.score(images, texts)
    torch.testing.assert_close(scores, 100 * (image * text).sum(-1), rtol=0.02, atol=0.2)
    assert reward.truncated(texts) == 1


def test_it_learns_to_read_before_it_sees(tokenizer: Path, tokens: clip.Tokens, tmp_path: Path) -> None:
    torch.manual_seed(clip.READ.seed)
    start = clip.build(len(tokens)).state_dict()
    trained = clip.read(tokenizer, tmp_path, short(clip.READ)).state_dict()
    assert trained.keys() == start.keys()  # the questions are thrown away
    changed = {name for name, value in trained.items() if not torch.equal(value, start[name])}
    assert {"token_embedding.weight", "text_projection", "ln_final.weight"} <= changed
    assert not any(name.startswith("visual.") for name in changed)


def test_its_eyes_are_taught_alone_and_then_both_towers(
    world_clip: Path, tokenizer: Path, tokens: clip.Tokens, tmp_path: Path
) -> None:
    start = clip.load(world_clip, len(tokens)).state_dict()
    eyes = clip.train(tokenizer, world_clip, tmp_path, short(clip.LOOK), replace(clip.PLAN, steps=0))
    changed = {name for name, value in eyes.state_dict().items() if not torch.equal(value, start[name])}
    assert "visual.proj" in changed
    assert all(name.startswith("visual.") for name in changed)
    both: Any = clip.train(tokenizer, world_clip, tmp_path, short(clip.LOOK), short(clip.PLAN))
    assert both.state_dict().keys() == start.keys()
    for name in ("visual.proj", "text_projection"):
        assert not torch.equal(both.state_dict()[name], eyes.state_dict()[name])
    row = json.loads((tmp_path / "world-clip.jsonl").read_text().splitlines()[-1])
    assert {"accuracy", "questions"} <= row.keys()
    assert both.encode_image(torch.zeros(1, 3, 64, 64)).shape == (1, 128)


def test_the_configuration_file_is_open_clips(world_clip: Path, tokens: clip.Tokens) -> None:
    written = json.loads((world_clip / "open_clip_config.json").read_text(encoding="utf-8"))
    assert written == clip.config(len(tokens))
    assert written["model_cfg"]["text_cfg"]["vocab_size"] == len(tokens)
