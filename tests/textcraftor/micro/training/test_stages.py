"""Stages that train the embedded world: order, resuming, failures, installing."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from tcbench.cells import cell_keys, run_cells, unfinished_cells
from tcbench.errors import MissingFiles, TcbenchError
from tcbench.progress import Silent
from textcraftor.micro.training import rewriter
from textcraftor.micro.training.stages import (
    REWARDS,
    STAGES,
    build_cells,
    install_world,
    training_state,
)


def test_stages_need_only_earlier_stages() -> None:
    seen: set[str] = set()
    for name, stage in STAGES.items():
        assert set(stage.needs) <= seen
        seen.add(name)
    assert set(REWARDS) <= seen


def test_the_logs_of_a_stage_are_those_of_its_plans() -> None:
    """The state that is shown of a stage is written by that stage."""
    from rewards.world.training import aesthetic, blip, clip, preferences, siglip, vqa
    from textcraftor.micro.training import text, unet, vae

    plans_of = {
        "world-clip-read": (clip.TEXT_PLAN,),
        "unet": (unet.PLAN, unet.LOOKS_PLAN),
        "text-encoder": (text.PLAN,),
        "world-clip": (clip.VISION_PLAN, clip.PLAN, clip.EVEN_PLAN),
        "vae": (vae.DECODER, vae.SHARP, vae.ENCODER),
        "world-pick": (preferences.PICK_PLAN,),
        "world-hps": (preferences.HPS_PLAN,),
        "world-siglip": (siglip.VISION_PLAN, siglip.PLAN, siglip.EVEN_PLAN),
        "world-blip": (blip.VISION_PLAN, blip.ALIGN_PLAN, blip.PLAN, blip.TASTE_PLAN),
        "world-vqa": (vqa.VISION_PLAN, vqa.ALIGN_PLAN, vqa.PLAN, vqa.AGAIN_PLAN),
        "world-aesthetic": (aesthetic.PLAN,),
        "rewriter": (rewriter.PLAN,),
    }
    no_plans = {"tokenizer", "patches"}  # not trained step by step
    assert set(STAGES) == set(plans_of) | no_plans
    for name, plans in plans_of.items():
        assert (STAGES[name].plans or (name,)) == tuple(plan.name for plan in plans)


def test_a_finished_stage_is_not_run_again(tmp_path: Path) -> None:
    cells = [cell for cell in build_cells() if cell.name == "tokenizer"]
    run_cells(cells, tmp_path, 1, Silent())
    vocabulary = tmp_path / "tokenizer" / "vocab.json"
    before = vocabulary.stat().st_mtime_ns
    run_cells(cells, tmp_path, 1, Silent())
    assert vocabulary.stat().st_mtime_ns == before
    assert "tokenizer" not in {cell.name for cell in unfinished_cells(build_cells(), tmp_path)}


def test_a_stage_that_is_finished_on_one_device_is_finished_on_any() -> None:
    assert cell_keys(build_cells("cpu")) == cell_keys(build_cells("cuda"))


def test_a_failed_stage_names_its_log(tmp_path: Path) -> None:
    (cell,) = (replace(cell, needs=()) for cell in build_cells() if cell.name == "world-aesthetic")
    with pytest.raises(TcbenchError, match=r"cell world-aesthetic: .*world-aesthetic\.log"):
        run_cells([cell], tmp_path, 1, Silent())
    assert "Traceback" in (tmp_path / "cells" / "world-aesthetic.log").read_text()


def test_an_unfinished_world_is_not_installed(tmp_path: Path) -> None:
    kept = tmp_path / "rewards" / "old"
    kept.mkdir(parents=True)
    with pytest.raises(MissingFiles, match=r"unfinished stages .*unet.*: run tcbench world build"):
        install_world(tmp_path / "world", tmp_path / "rewards", tmp_path / "pipeline")
    assert kept.is_dir()


def test_the_state_is_read_from_the_stages_newest_log(tmp_path: Path) -> None:
    assert training_state(tmp_path, "vae") == "starting"
    row = {"step": 20, "loss": 0.5, "seconds_per_step": 1.25}
    (tmp_path / "vae-decoder.jsonl").write_text(json.dumps(row) + "\n")
    assert training_state(tmp_path, "vae") == "step 20, loss 0.5000, 1.25 s per step"
    (tmp_path / "vae-decoder-sharp.jsonl").write_text(json.dumps(row | {"step": 30}) + "\n")
    assert training_state(tmp_path, "vae").startswith("step 30")
    (tmp_path / "vae-encoder.jsonl").write_text(json.dumps(row | {"step": 40}) + "\n")
    assert training_state(tmp_path, "vae").startswith("step 40")
    with (tmp_path / "vae-encoder.jsonl").open("a") as log:
        log.write('{"step": 60, "lo')  # an incomplete line
    assert training_state(tmp_path, "vae").startswith("step 40")
    (tmp_path / "world-pick.jsonl").touch()  # the lines of lost steps were removed
    assert training_state(tmp_path, "world-pick") == "starting"
