"""The shipped text encoder: distilled on a few captions, in a folder that transformers loads."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from transformers import CLIPTextModel

from rewards.world.training.tokenizer import TOKENIZER, CaptionTokenizer, _caption_corpus, _write_tokenizer
from textcraftor.micro.training import text, unet

PROMPTS = ["", "a small red circle in the centre", "a blue star above a green ring"]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a build with a tokenizer and an untrained UNet with its text encoder."""
    folder = tmp_path_factory.mktemp("world")
    _write_tokenizer(folder / TOKENIZER, _caption_corpus(200), merges=50)
    torch.manual_seed(3)
    model = unet._ConditionedUNet(CaptionTokenizer(folder / TOKENIZER))
    average = {f"average.{key}": value.contiguous() for key, value in model.state_dict().items()}
    save_file(average, folder / f"{unet.LOOKS_PLAN.name}.safetensors")
    return folder


def test_the_distilled_folder_loads_completely(world: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(world, tmp_path / "world")
    trained = text.train_text_encoder(
        folder, replace(text.PLAN, steps=2, batch=4, warmup=1), singles=2, pairs=3
    ).eval()
    read, report = CLIPTextModel.from_pretrained(folder / text.PLAN.name, output_loading_info=True)
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    ids = CaptionTokenizer(folder / TOKENIZER)(PROMPTS)
    with torch.inference_mode():
        written, loaded = (model(input_ids=ids).last_hidden_state for model in (trained, read))
    assert torch.equal(written, loaded)
    teacher = unet.load_trained_unet(folder).text_encoder.eval()
    with torch.inference_mode():
        assert not torch.allclose(teacher(input_ids=ids).last_hidden_state, loaded, atol=0.1)


def test_it_sees_a_given_number_of_captions_and_the_empty_prompt(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: set[tuple[int, ...]] = set()

    def watched(tokens: CaptionTokenizer) -> CLIPTextModel:
        def record(_: Any, __: Any, inputs: dict[str, Any]) -> None:
            seen.update(map(tuple, inputs["input_ids"].tolist()))

        model = unet.build_text_encoder(tokens)
        model.register_forward_pre_hook(record, with_kwargs=True)
        return model

    monkeypatch.setattr(text, "build_text_encoder", watched)
    folder = shutil.copytree(world, tmp_path / "world")
    text.train_text_encoder(folder, replace(text.PLAN, steps=4, batch=16, warmup=1), singles=2, pairs=3)
    assert len(seen) == 5 + 1
    (empty,) = CaptionTokenizer(folder / TOKENIZER)([""]).tolist()
    assert tuple(empty) in seen


def test_it_learns_what_the_captions_mean_to_the_unet(world: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(world, tmp_path / "world")
    text.train_text_encoder(folder, replace(text.PLAN, steps=40, batch=8, warmup=1), singles=2, pairs=3)
    rows = [json.loads(line) for line in (folder / f"{text.PLAN.name}.jsonl").read_text().splitlines()]
    assert rows[-1]["step"] == 39
    assert rows[-1]["loss"] < 0.5 * rows[0]["loss"]
