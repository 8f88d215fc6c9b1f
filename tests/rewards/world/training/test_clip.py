"""world-clip: open_clip's model and files, and the conversion to transformers' layout."""

from __future__ import annotations

import json
import math
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
from rewards.world.training.fit import TrainingPlan
from rewards.world.training.preferences import _to_transformers
from rewards.world.training.tokenizer import CONTEXT_LENGTH, CaptionTokenizer


@pytest.fixture(scope="module")
def tokens(tokenizer: Path) -> CaptionTokenizer:
    return CaptionTokenizer(tokenizer)


@pytest.fixture(scope="module")
def model(world_clip: Path, tokens: CaptionTokenizer) -> Any:
    return clip.load_clip(world_clip, len(tokens))


@pytest.fixture(scope="module")
def batch() -> tuple[Tensor, list[str]]:
    """Images (4, 3, 64, 64) and texts of different lengths, one of them too long."""
    rng = np.random.default_rng(0)
    scenes = data.random_scenes(rng, 4)
    return data.render_batch(scenes), [
        *data.caption_batch(rng, scenes[:2]),
        "a ring",
        "a big red star and " * 20,
    ]


def test_transformers_gives_the_same_embeddings(
    model: Any, tokens: CaptionTokenizer, batch: tuple[Tensor, list[str]]
) -> None:
    images, texts = clip.normalise_for_clip(batch[0]), tokens(batch[1])
    converted: Any = _to_transformers(model, tokens)
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


def test_unpadded_text_gives_open_clips_embedding_of_padded_text(
    model: Any, tokens: CaptionTokenizer, batch: tuple[Tensor, list[str]]
) -> None:
    for texts in (batch[1], batch[1][:3]):  # truncated at 48 tokens, and shorter
        short = tokens(texts, pad=False)
        assert (short.shape[1] == CONTEXT_LENGTH) == (texts is batch[1])
        with torch.inference_mode():
            expected = model.encode_text(tokens(texts))
            torch.testing.assert_close(clip.encode_captions(model, short), expected, rtol=1e-4, atol=1e-5)


def test_loaded_weights_are_the_saved_ones_in_float16(tokens: CaptionTokenizer, tmp_path: Path) -> None:
    torch.manual_seed(1)
    before = clip._build_clip(len(tokens))
    clip.save_clip(before, len(tokens), tmp_path / "new" / "folder")
    after = clip.load_clip(tmp_path / "new" / "folder", len(tokens))
    assert not after.training
    for name, value in before.state_dict().items():
        loaded = after.state_dict()[name]
        assert loaded.dtype == value.dtype
        assert torch.equal(loaded, value.half().float() if value.is_floating_point() else value), name


def test_open_clip_loads_the_folder(model: Any, world_clip: Path, batch: tuple[Tensor, list[str]]) -> None:
    import open_clip

    theirs, process = open_clip.create_model_from_pretrained(f"local-dir:{world_clip}")
    images = clip.normalise_for_clip(batch[0])
    with torch.inference_mode():
        torch.testing.assert_close(theirs.eval().encode_image(images), model.encode_image(images))
    from torchvision.transforms.functional import to_pil_image

    # open_clip reads the preprocessing from the same folder.
    torch.testing.assert_close(process(to_pil_image(batch[0][0])), images[0])


def test_normalisation_is_the_registered_profiles_preprocessing(batch: tuple[Tensor, list[str]]) -> None:
    from rewards.preprocess import PROFILES, preprocess

    expected = preprocess(batch[0], PROFILES[rewards.info("world-clip").profile])
    torch.testing.assert_close(clip.normalise_for_clip(batch[0]), expected)


def family(matches: list[list[int]]) -> data.AlignmentBatch:
    """A batch of which only the matches are known."""
    return data.AlignmentBatch([], torch.empty(0), [], torch.tensor(matches).float())


def test_the_loss_is_lowest_for_a_perfect_match_and_accuracy_counts_images_with_a_true_caption() -> None:
    unit, scale, batch = torch.eye(6), torch.tensor(20.0), family(torch.eye(6).int().tolist())
    perfect = clip.contrastive_loss(unit, unit, scale, batch)
    assert perfect["loss"] < 1e-6
    assert perfect["accuracy"] == 1
    two_wrong = clip.contrastive_loss(unit, unit[[0, 1, 5, 3, 4, 2]], scale, batch)
    assert two_wrong["accuracy"] == pytest.approx(4 / 6)
    assert two_wrong["loss"] > perfect["loss"]
    all_wrong = clip.contrastive_loss(unit, unit[[1, 2, 3, 4, 5, 0]], scale, batch)
    assert all_wrong["accuracy"] == 0
    assert all_wrong["loss"] > two_wrong["loss"]


def test_renders_of_the_same_scene_do_not_compete() -> None:
    """Renders that share their captions have the lowest loss, the targets' entropy, if embedded alike."""
    image, scale = torch.eye(3)[[0, 0, 1]], torch.tensor(20.0)
    batch = family([[1, 1, 0], [1, 1, 0], [0, 0, 1]])
    equal = clip.contrastive_loss(image, image, scale, batch)["loss"]
    torch.testing.assert_close(equal, torch.tensor(2 / 3 * math.log(2)), rtol=1e-4, atol=1e-6)
    apart = clip.contrastive_loss(torch.eye(3), torch.eye(3), scale, batch)["loss"]
    assert apart > equal + 5


def test_the_loss_is_symmetric_cross_entropy_with_equal_shares_for_all_matches() -> None:
    torch.manual_seed(2)
    image, text = F.normalize(torch.randn(3, 8), dim=-1), F.normalize(torch.randn(3, 8), dim=-1)
    matches = [[1, 1, 0], [0, 1, 0], [1, 0, 1]]
    chances = (5.0 * image @ text.T).exp()
    of_image = chances / chances.sum(dim=1, keepdim=True)
    of_text = chances / chances.sum(dim=0, keepdim=True)
    expected = torch.tensor(0.0)
    for i in range(3):
        for j in range(3):
            if matches[i][j]:
                images = sum(row[j] for row in matches)
                expected -= (of_image[i, j].log() / sum(matches[i]) + of_text[i, j].log() / images) / 6
    loss = clip.contrastive_loss(image, text, torch.tensor(5.0), family(matches))["loss"]
    torch.testing.assert_close(loss, expected)


def short(plan: TrainingPlan) -> TrainingPlan:
    return replace(plan, steps=3, batch=4, warmup=1)


def test_training_is_reproducible_and_its_folder_gives_the_models_scores(
    tokenizer: Path,
    tokens: CaptionTokenizer,
    build_folder: Path,
    other_build_folder: Path,
    batch: tuple[Tensor, list[str]],
) -> None:
    plans = short(clip.VISION_PLAN), short(clip.PLAN), short(clip.EVEN_PLAN)
    first: Any = clip.train_clip(build_folder, *plans)
    torch.randn(3)
    second = clip.train_clip(other_build_folder, *plans)
    again = clip.train_clip(build_folder, *plans)  # finished: nothing is trained
    for other in (second, again):
        for name, value in other.state_dict().items():
            assert torch.equal(value, first.state_dict()[name]), name
    for plan in plans:
        assert len((build_folder / f"{plan.name}.jsonl").read_text().splitlines()) == 2
    files = {"backbone": build_folder / "world-clip", "tokenizer": tokenizer}
    reward = rewards.load("world-clip", weights=files)
    images, texts = batch
    with torch.inference_mode():
        image = F.normalize(first.encode_image(clip.normalise_for_clip(images)), dim=-1)
        text = F.normalize(clip.encode_captions(first, tokens(texts, pad=False)), dim=-1)
        scores = reward.score(images, texts)
    torch.testing.assert_close(scores, 100 * (image * text).sum(-1), rtol=0.02, atol=0.2)
    assert reward.truncated(texts) == 1


def test_pretraining_the_text_tower_leaves_the_vision_tower_alone(
    tokens: CaptionTokenizer, build_folder: Path
) -> None:
    torch.manual_seed(clip.TEXT_PLAN.seed)
    start = clip._build_clip(len(tokens)).state_dict()
    trained = clip.train_clip_text(build_folder, short(clip.TEXT_PLAN)).state_dict()
    assert trained.keys() == start.keys()  # without the layers that answer questions
    changed = {name for name, value in trained.items() if not torch.equal(value, start[name])}
    assert {"token_embedding.weight", "text_projection", "ln_final.weight"} <= changed
    assert not any(name.startswith("visual.") for name in changed)


def test_the_vision_tower_is_pretrained_alone_and_then_both_are_trained(
    world_clip: Path, tokens: CaptionTokenizer, build_folder: Path
) -> None:
    start = clip.load_clip(world_clip, len(tokens)).state_dict()
    neither = replace(clip.PLAN, steps=0), replace(clip.EVEN_PLAN, steps=0)
    vision = clip.train_clip(build_folder, short(clip.VISION_PLAN), *neither)
    changed = {name for name, value in vision.state_dict().items() if not torch.equal(value, start[name])}
    assert "visual.proj" in changed
    assert all(name.startswith("visual.") for name in changed)
    both: Any = clip.train_clip(build_folder, short(clip.VISION_PLAN), short(clip.PLAN), neither[1])
    assert both.state_dict().keys() == start.keys()
    for name in ("visual.proj", "text_projection"):
        assert not torch.equal(both.state_dict()[name], vision.state_dict()[name])
    row = json.loads((build_folder / "world-clip.jsonl").read_text().splitlines()[-1])
    assert {"accuracy", "questions"} <= row.keys()
    assert both.encode_image(torch.zeros(1, 3, 64, 64)).shape == (1, 128)


def test_the_configuration_file_is_open_clips(world_clip: Path, tokens: CaptionTokenizer) -> None:
    written = json.loads((world_clip / "open_clip_config.json").read_text(encoding="utf-8"))
    assert written == clip.clip_config(len(tokens))
    assert written["model_cfg"]["text_cfg"]["vocab_size"] == len(tokens)
