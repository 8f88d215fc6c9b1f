"""world-vqa: its vocabulary, and a model saved like the published CLIP-FlanT5."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import rewards
from rewards.backbones.tokens import Tokens
from rewards.models.vqascore import ClipFlanT5, QuestionTokenizer
from rewards.world.captions import caption
from rewards.world.prompts import world_prompts
from rewards.world.scenes import Scene
from rewards.world.training import clip, data, vqa

PLANS = [
    replace(plan, steps=3, batch=4, warmup=1)
    for plan in (vqa.VISION_PLAN, vqa.ALIGN_PLAN, vqa.PLAN, vqa.AGAIN_PLAN)
]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, ClipFlanT5]:
    """The folder of a build, and its model after three steps."""
    folder = tmp_path_factory.mktemp("build")
    return folder, vqa.train_vqa(folder, *PLANS)


def files(build: Path) -> dict[str, Path]:
    folder = build / "world-vqa"
    return {"model": folder, "tower": folder / "tower.json", "tokenizer": folder / "tokenizer.json"}


def test_the_folder_loads_as_a_published_model_with_its_weights_in_float16(
    trained: tuple[Path, ClipFlanT5],
) -> None:
    build, model = trained
    folder = build / "world-vqa"
    names = {"config.json", "model.safetensors", "tokenizer.json", "tower.json"}
    assert {path.name for path in folder.iterdir()} == names
    loaded = ClipFlanT5.from_folder(folder, folder / "tower.json").state_dict()
    assert loaded.keys() == model.state_dict().keys()
    for name, value in model.state_dict().items():
        expected = value.half().float() if value.is_floating_point() else value
        assert torch.equal(loaded[name].to(value.dtype), expected), name


def test_its_reward_is_the_likelihood_of_yes(trained: tuple[Path, ClipFlanT5]) -> None:
    build, model = trained
    assert {file.key for file in rewards.info("world-vqa").weights} == set(files(build))
    reward = rewards.load("world-vqa", weights=files(build))
    questions = QuestionTokenizer(files(build)["tokenizer"])
    rng = np.random.default_rng(1)
    scenes = data.random_scenes(rng, 3)
    images, texts = data.render_batch(scenes), [*data.caption_batch(rng, scenes[:2]), "a photo, 4k @ f/2.8"]
    yes = torch.tensor(questions.encode("Yes"))
    with torch.inference_mode():
        patches = model.patches(clip.normalise_for_clip(images))
        logits = model.answer(patches, torch.tensor(questions.before), questions(texts), yes)[1]
        chances = logits.log_softmax(dim=-1)[:, range(len(yes)), yes]
        scores = reward.score(images, texts)
    assert ((scores > 0) & (scores < 1)).all()
    torch.testing.assert_close(scores, chances.mean(dim=1).exp(), rtol=0.02, atol=1e-4)


def test_training_is_reproducible_can_be_resumed_and_a_finished_state_is_loaded(
    trained: tuple[Path, ClipFlanT5], tmp_path: Path
) -> None:
    build, model = trained
    torch.randn(3)
    aligned = vqa.train_vqa(
        tmp_path, *PLANS[:2], *(replace(plan, steps=0) for plan in PLANS[2:])
    ).state_dict()
    assert not torch.equal(aligned["t5.shared.weight"], model.state_dict()["t5.shared.weight"])
    for folder in (build, tmp_path):  # finished, and after the alignment
        other = vqa.train_vqa(folder, *PLANS).state_dict()
        assert all(torch.equal(value, other[name]) for name, value in model.state_dict().items())


def test_the_log_has_all_losses(trained: tuple[Path, ClipFlanT5]) -> None:
    for plan in PLANS:
        lines = (trained[0] / f"{plan.name}.jsonl").read_text(encoding="utf-8").splitlines()
        assert [json.loads(line)["step"] for line in lines] == [0, 2]
    assert {"answer", "accuracy", "mistakes", "questions"} <= json.loads(lines[-1]).keys()


def test_every_caption_and_question_is_tokenised_in_whole_words(trained: tuple[Path, ClipFlanT5]) -> None:
    questions = QuestionTokenizer(files(trained[0])["tokenizer"])
    pieces = {index: piece for piece, index in questions.vocabulary.items()}
    rng = np.random.default_rng(0)
    texts = [caption(rng, Scene.random(rng, "any"), style=1.0, detail=1.0) for _ in range(200)]
    texts += [prompt.text for prompt in world_prompts("validation")]
    tokens: Tokens = questions(texts)
    for text, ids, mask in zip(texts, tokens.ids.tolist(), tokens.mask.tolist(), strict=True):
        spelled = [pieces[index] for index in ids[: sum(mask)]]
        assert text.replace(" ", "") in "".join(spelled)
        assert "<unk>" not in spelled
        assert not any(piece.startswith("##") for piece in spelled), text
    answers = [[pieces[index] for index in questions.encode(word)] for word in ("Yes", "No")]
    assert answers == [["yes", "</s>"], ["no", "</s>"]]
    assert "<unk>" not in [pieces[index] for index in questions.encode("An astronaut rides 3 horses @ 50mm!")]
