"""Building the world: stages in order of need, resumable, failing with the place of their log."""

from __future__ import annotations

import fcntl
import json
from dataclasses import replace
from pathlib import Path

import pytest

from textcraftor.micro.training import rewriter
from textcraftor.micro.training import stages as build


def test_every_need_is_a_stage_that_comes_before() -> None:
    seen: set[str] = set()
    for stage in build.STAGES.values():
        assert set(stage.needs) <= seen
        seen.add(stage.name)
    assert set(build.REWARDS) <= seen


def test_the_log_of_every_stage_is_of_a_plan_that_it_runs() -> None:
    """What is shown as a stage's progress is written by that stage."""
    from rewards.world.training import aesthetic, clip, preferences, ranker, siglip
    from textcraftor.micro.training import unet, vae

    written = {
        "world-clip-read": (clip.READ,),
        "unet": (unet.PLAN,),
        "world-clip": (clip.LOOK, clip.PLAN),
        "vae": (vae.DECODER, vae.ENCODER),
        "world-pick": (preferences.PICK_PLAN,),
        "world-hps": (preferences.HPS_PLAN,),
        "world-siglip": (siglip.LOOK, siglip.PLAN),
        "world-blip": (ranker.LOOK, ranker.ALIGN, ranker.PLAN),
        "world-aesthetic": (aesthetic.PLAN,),
        "rewriter": (rewriter.PLAN,),
    }
    without = {"tokenizer", "patches"}  # nothing is trained step by step
    assert set(build.STAGES) == set(written) | without
    for name, plans in written.items():
        assert (build.STAGES[name].plans or (name,)) == tuple(plan.name for plan in plans)


def test_a_finished_stage_is_not_run_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build, "STAGES", {"tokenizer": build.STAGES["tokenizer"]})
    shown = list(build.build(tmp_path, jobs=1))
    assert {name for running in shown for name in running} == {"tokenizer"}
    assert json.loads((tmp_path / "tokenizer.done").read_text())["stage"] == "tokenizer"
    assert (tmp_path / "tokenizer" / "vocab.json").is_file()
    assert list(build.build(tmp_path, jobs=1)) == []


def test_two_processes_do_not_train_one_stage(tmp_path: Path) -> None:
    with (tmp_path / "tokenizer.lock").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(build.BuildFailed, match="another process trains tokenizer"):
            build.run_stage("tokenizer", tmp_path)
    assert not build.finished(tmp_path, "tokenizer")


def test_a_stage_that_fails_names_its_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lacking = replace(build.STAGES["world-aesthetic"], needs=())
    monkeypatch.setattr(build, "STAGES", {lacking.name: lacking})
    with pytest.raises(build.BuildFailed, match=r"stage world-aesthetic failed.*world-aesthetic\.log"):
        list(build.build(tmp_path, jobs=1))
    assert "Traceback" in (tmp_path / "world-aesthetic.log").read_text()


def test_half_a_world_is_not_installed(tmp_path: Path) -> None:
    kept = tmp_path / "rewards" / "old"
    kept.mkdir(parents=True)
    with pytest.raises(build.BuildFailed, match=r"lacks the stages .*unet.*; build them first"):
        build.install(tmp_path / "world", tmp_path / "rewards", tmp_path / "pipeline")
    assert kept.is_dir()


def test_progress_is_of_the_stages_newest_log(tmp_path: Path) -> None:
    assert build.progress(tmp_path, "vae") == "starting"
    row = {"step": 20, "loss": 0.5, "seconds_per_step": 1.25}
    (tmp_path / "vae-decoder.jsonl").write_text(json.dumps(row) + "\n")
    assert build.progress(tmp_path, "vae") == "step 20, loss 0.5000, 1.25 s a step"
    (tmp_path / "vae-encoder.jsonl").write_text(json.dumps(row | {"step": 40}) + "\n")
    assert build.progress(tmp_path, "vae").startswith("step 40")
    with (tmp_path / "vae-encoder.jsonl").open("a") as log:
        log.write('{"step": 60, "lo')  # a line on its way
    assert build.progress(tmp_path, "vae").startswith("step 40")
    (tmp_path / "world-pick.jsonl").touch()  # begun anew: the lines of lost steps are cut
    assert build.progress(tmp_path, "world-pick") == "starting"
