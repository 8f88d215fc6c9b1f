"""Runs: checked before they start, resumable after any interruption, paired and reproducible."""

from __future__ import annotations

import doctest
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest

import benchmarks
from benchmarks.execution import RunResult, execute_plan
from benchmarks.planning import Plan, Request, plan_run
from benchmarks.systems import SYSTEMS, System
from leaderboards.builder import build
from leaderboards.records import Sample
from leaderboards.run_state import RunState
from leaderboards.scores import RunScores
from rewards import WrongRole
from rewards.combine.panel import Panel
from tcbench.errors import MismatchError, Problems, TcbenchError, UnknownName
from tcbench.files import locked, read_lines
from tcbench.progress import Silent
from textcraftor.diffusion.runner import PipelineRunner
from textcraftor.diffusion.schedule import Schedule

Requests = Callable[..., Request]


def run(request: Request) -> RunResult:
    return execute_plan(plan_run(request), Silent())


def scores(result: RunResult) -> dict[tuple[int, int], float | None]:
    folder = RunState(result.path)
    return {key: score.score for key, score in folder.scores(folder.score_sets[0]).items()}


def image_bytes(result: RunResult) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in (result.path / "images").iterdir()}


def test_repeating_a_complete_run_changes_nothing(request_for: Requests) -> None:
    first = run(request_for())
    assert first.complete
    assert (first.planned, first.images, first.added) == (8, 8, 16)
    before = {file: file.stat().st_mtime_ns for file in first.path.rglob("*")}
    again = run(request_for())
    assert again.complete
    assert again.added == 0
    assert {file: file.stat().st_mtime_ns for file in first.path.rglob("*")} == before


def test_the_example_in_the_docstring_runs(tmp_path: Path) -> None:
    (example,) = doctest.DocTestFinder(recurse=False).find(benchmarks.run, globs={"folder": tmp_path})
    assert doctest.DocTestRunner().run(example).failed == 0


def test_a_start_reads_each_journal_once(
    request_for: Requests, toy_rewards: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rewards = [f"{toy_rewards}:Brightness", f"{toy_rewards}:Picky"]
    first = run(request_for(rewards=rewards))
    (first.path / "images" / "00003-0.png").unlink()
    files: list[Path] = []

    def counted(file: Path) -> list[dict[str, Any]]:
        files.append(file)
        return read_lines(file)

    monkeypatch.setattr("leaderboards.journal.read_lines", counted)
    monkeypatch.setattr("leaderboards.run_state.read_lines", counted)
    assert run(request_for(rewards=rewards, seeds=2)).complete
    assert len(files) == len(set(files)) == 4  # samples, batches and one of each reward


def test_images_are_decoded_once_for_all_rewards(
    request_for: Requests, toy_rewards: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[tuple[int, int]] = []

    open_image = RunState.open_image

    def counted(state: RunState, sample: Sample) -> object:
        opened.append(sample.key)
        return open_image(state, sample)

    monkeypatch.setattr(RunState, "open_image", counted)
    result = run(request_for(rewards=[f"{toy_rewards}:Brightness", f"{toy_rewards}:Picky"]))
    assert result.complete
    assert len(opened) == len(set(opened)) == 8


def test_scores_do_not_depend_on_the_other_rewards(request_for: Requests, tmp_path: Path) -> None:
    names = ["world-clip", "world-aesthetic", "world-rule"]
    together = run(request_for(rewards=names, seeds=2)).run
    alone = run(request_for(rewards=names[:1], seeds=2, out=tmp_path / "alone")).run
    for name in names[1:]:
        alone = run(request_for(rewards=[name], seeds=2, out=tmp_path / "alone")).run
    scores = [{s.reward: dict(run.scores(s)) for s in run.score_sets} for run in (together, alone)]
    assert scores[0] == scores[1]


def test_rewards_that_do_not_fit_together_are_loaded_one_by_one(
    request_for: Requests, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[int] = []

    class Counted(Panel):
        def __init__(self, rewards: list[Any], **options: Any) -> None:
            sizes.append(len(rewards))
            super().__init__(rewards, **options)

    monkeypatch.setattr("rewards.combine.panel.Panel", Counted)
    monkeypatch.setattr("benchmarks.score._free_bytes", lambda device: 0)
    assert run(request_for(rewards=["world-clip", "world-aesthetic"])).complete
    assert sizes == [1, 1]


def test_out_of_memory_with_several_rewards_continues_one_by_one(
    request_for: Requests, toy_rewards: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    shared_pass = Panel.shared_pass

    def small_memory(panel: Panel, images: Any) -> Any:
        if len(panel.names) > 1:
            raise torch.OutOfMemoryError
        return shared_pass(panel, images)

    monkeypatch.setattr(Panel, "shared_pass", small_memory)
    result = run(request_for(rewards=[f"{toy_rewards}:Brightness", f"{toy_rewards}:Picky"]))
    assert result.complete
    assert result.added == 8 + 2 * 8


def test_a_complete_run_loads_no_model(request_for: Requests, monkeypatch: pytest.MonkeyPatch) -> None:
    run(request_for())
    monkeypatch.setattr("textcraftor.diffusion.loading.load_pipeline", None)
    monkeypatch.setattr("rewards.combine.panel.Panel", None)
    assert run(request_for()).complete


def test_another_reward_scores_the_existing_images(
    request_for: Requests, toy_rewards: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = run(request_for())
    images = image_bytes(first)
    monkeypatch.setattr("textcraftor.diffusion.loading.load_pipeline", None)
    both = run(request_for(rewards=[f"{toy_rewards}:Brightness", f"{toy_rewards}:Picky"]))
    assert both.path == first.path
    assert both.added == 8
    assert image_bytes(both) == images


def test_a_wider_plan_keeps_existing_images(request_for: Requests) -> None:
    small = run(request_for(limit=4))
    assert small.run.header.watermarks == ("limit 4 of 8",)
    old = image_bytes(small)
    wide = run(request_for(seeds=2))
    assert wide.path == small.path
    assert (wide.planned, wide.images, wide.added, wide.run.header.watermarks) == (16, 16, 2 * 12, ())
    assert old.items() <= image_bytes(wide).items()


@pytest.mark.parametrize(
    "change", [{"steps": 3}, {"guidance": 2.0}, {"base_seed": 1}, {"dtype": "bfloat16"}], ids=str
)
def test_image_settings_change_the_folder(request_for: Requests, change: dict[str, object]) -> None:
    assert plan_run(request_for(**change)).path != plan_run(request_for()).path


@pytest.mark.parametrize("narrower", [{"limit": 3}, {"seeds": 1}, {"limit": 2, "seeds": 1}], ids=str)
def test_a_narrower_request_works_less_and_takes_no_results_away(
    request_for: Requests, narrower: dict[str, int]
) -> None:
    whole = run(request_for(seeds=2))
    again = run(request_for(**{"seeds": 2} | narrower))
    assert (again.path, again.added, again.complete) == (whole.path, 0, True)
    assert again.watermarks == ((f"limit {narrower['limit']} of 8",) if "limit" in narrower else ())
    assert again.planned < whole.planned == 16
    header = RunState(whole.path).header
    assert (len(header.planned.prompt_ids), header.planned.seeds, header.watermarks) == (8, 2, ())
    (compared,) = build([whole.path], "tiny").sections
    assert compared.cells["tiny", compared.columns[0].label, None].samples == 16


def test_an_interrupted_extension_leaves_the_finished_prompts_in_force(
    request_for: Requests, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = run(request_for(limit=3))
    with monkeypatch.context() as patch:
        patch.setattr("benchmarks.execution.score_images", Mock(side_effect=KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            run(request_for())
    header = RunState(small.path).header
    assert (header.planned.count, header.watermarks) == (3, ("limit 3 of 8",))
    run(request_for())
    header = RunState(small.path).header
    assert (header.planned.count, header.watermarks) == (8, ())


def test_a_start_that_never_finished_does_not_stay_in_force(
    request_for: Requests, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("benchmarks.execution.score_images", Mock(side_effect=KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            run(request_for())
    small = run(request_for(limit=3))
    assert RunState(small.path).header.planned.count == 3


@pytest.mark.parametrize(
    "change", [{"limit": 3}, {"seeds": 2}, {"batch_size": 5}, {"out": Path("x")}], ids=str
)
def test_other_settings_keep_the_id(request_for: Requests, change: dict[str, object]) -> None:
    assert plan_run(request_for(**change)).path.name == plan_run(request_for()).path.name


def test_an_edited_reward_has_another_score_id(request_for: Requests, tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    text = "from rewards import Reward\nclass Mine(Reward):\n"
    text += "    def _score(self, pixels, prompts):\n        return "
    file.write_text(text + "pixels.mean((1, 2, 3))")
    first = run(request_for(rewards=[f"{file}:Mine"]))
    file.write_text(text + "pixels.mean((1, 2, 3)) + 1")
    second = run(request_for(rewards=[f"{file}:Mine"]))
    assert second.path == first.path
    assert second.rewards[0].score_id != first.rewards[0].score_id
    assert second.rewards[0].mean == pytest.approx((first.rewards[0].mean or 0) + 1)
    assert len(RunState(second.path).score_sets) == 2


class Interrupt(Silent):
    """Interrupts after ``count`` batches, as Ctrl-C would."""

    def __init__(self, count: int) -> None:
        self.left = count

    def advance(self, count: int = 1, status: str = "") -> None:
        self.left -= 1
        if self.left == 0:
            raise KeyboardInterrupt


@pytest.mark.parametrize("batches", range(1, 7))
def test_resuming_gives_identical_images_and_scores(
    request_for: Requests, tmp_path: Path, batches: int
) -> None:
    """Six batches in all: three of images (3, 3, 2) and three of scores."""
    whole = run(request_for(out=tmp_path / "whole"))
    with pytest.raises(KeyboardInterrupt):
        execute_plan(plan_run(request_for()), Interrupt(batches))
    resumed = run(request_for())
    assert resumed.complete
    assert image_bytes(resumed) == image_bytes(whole)
    assert scores(resumed) == scores(whole)


def test_incomplete_records_are_redone(request_for: Requests, tmp_path: Path) -> None:
    whole = run(request_for(out=tmp_path / "whole"))
    torn = run(request_for())
    for file in [*torn.path.glob("samples/*.jsonl"), *torn.path.glob("scores/*/*.jsonl")]:
        file.write_bytes(file.read_bytes()[:-400])
    (torn.path / "batches.jsonl").write_bytes((torn.path / "batches.jsonl").read_bytes()[:-9])
    resumed = run(request_for())
    assert resumed.complete
    assert resumed.added > 0
    assert scores(resumed) == scores(whole)
    assert image_bytes(resumed) == image_bytes(whole)


def test_a_deleted_image_is_regenerated(request_for: Requests) -> None:
    first = run(request_for())
    before = image_bytes(first)
    (first.path / "images" / "00003-0.png").unlink()
    assert run(request_for()).added == 1
    assert image_bytes(first) == before


def test_a_regenerated_image_with_other_pixels_is_scored_again(
    request_for: Requests, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = run(request_for())
    (first.path / "images" / "00003-0.png").unlink()
    draw = PipelineRunner.generate
    monkeypatch.setattr(PipelineRunner, "generate", lambda *arguments: 1 - draw(*arguments))
    again = run(request_for())
    assert again.added == 2  # the image and its score
    assert again.complete
    assert again.rewards[0].mean != first.rewards[0].mean


def test_categories_follow_the_prompt_file(request_for: Requests, prompt_file: Path) -> None:
    first = run(request_for())
    prompt_file.write_text(prompt_file.read_text().replace(",a cats", ",felines"))
    again = run(request_for())
    assert (again.path, again.added) == (first.path, 0)
    categories = {sample.category for sample in RunState(again.path).samples.values()}
    assert categories == {"felines", "a dogs"}


def test_temporary_files_of_a_killed_process_are_removed(request_for: Requests) -> None:
    first = run(request_for())
    torn = first.path / "images" / ".00003-0.png.123.tmp"
    torn.write_bytes(b"half an image")
    run(request_for())
    assert not torn.exists()


def test_two_runs_are_bit_identical(request_for: Requests, tmp_path: Path) -> None:
    first, second = run(request_for()), run(request_for(out=tmp_path / "second"))
    assert image_bytes(first) == image_bytes(second)
    assert scores(first) == scores(second)


def test_batch_size_changes_pixels_by_one_level_at_most(request_for: Requests, tmp_path: Path) -> None:
    import numpy as np
    from PIL import Image

    first, second = run(request_for()), run(request_for(batch_size=8, out=tmp_path / "second"))
    for name in image_bytes(first):
        pair = [np.asarray(Image.open(o.path / "images" / name)).astype(int) for o in (first, second)]
        assert abs(pair[0] - pair[1]).max() <= 1


def test_systems_share_initial_noise(request_for: Requests, tmp_path: Path, tiny_pipeline: Path) -> None:
    toml = tmp_path / "worded.toml"
    toml.write_text(f'pipeline = "{tiny_pipeline}"\nappend = ", vivid"\n')
    plain = RunState(run(request_for()).path)
    worded = RunState(run(request_for(model=str(toml))).path)
    for key, sample in worded.samples.items():
        assert sample.text == f"{sample.prompt}, vivid"
        other = plain.samples[key]
        assert (other.text, other.noise_seed) == (sample.prompt, sample.noise_seed)
    assert plain.header.generation_id != worded.header.generation_id


def test_prompts_are_stratified_by_category(request_for: Requests) -> None:
    planned = plan_run(request_for(limit=2))
    categories = {planned.prompts.prompts[i].category for i in planned.header.planned.prompt_ids}
    assert categories == {"a cats", "a dogs"}


def test_weights_are_checked_before_generating(request_for: Requests, tmp_path: Path) -> None:
    with pytest.raises(UnknownName, match="did you mean"):
        plan_run(request_for(rewards=["world-clipp"]))
    with pytest.raises(TcbenchError, match=r"missing model_index.json"):
        plan_run(request_for(model=str(tmp_path)))
    assert not (tmp_path / "runs").exists()


def test_missing_weights_are_an_error(
    request_for: Requests, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(
        ValueError, match=r"pickscore needs .*yuvalkirstain/PickScore_v1.*TCBENCH_WEIGHTS_PICKSCORE"
    ):
        plan_run(request_for(rewards=["pickscore"]))


def test_all_problems_are_reported(request_for: Requests, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setenv("HF_HUB_CACHE", "/nowhere")
    with pytest.raises(Problems) as caught:
        plan_run(request_for(model="sd15", suite="parti", prompts=None, rewards=["pickscore", "hpsv2"]))
    lines = str(caught.value).splitlines()
    assert len(lines) == 4
    for part in ("suite parti", "pickscore needs", "hpsv2 needs", "2.1 GB"):
        assert sum(part in line for line in lines) == 1


def test_missing_prompt_file_is_an_error(request_for: Requests, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"prompts not found: .*pets\.cvs; give --prompts"):
        plan_run(request_for(prompts=tmp_path / "pets.cvs", suite=None))


def test_score_sets_name_their_weights(request_for: Requests) -> None:
    result = run(request_for(rewards=["world-clip"]))
    (score_set,) = RunState(result.path).score_sets
    backbone = score_set.details["weights"]["backbone"]
    assert re.fullmatch(r"rewards/world/weights/world-clip sha256:[0-9a-f]{64}", backbone)


def test_abstentions_are_not_failures(request_for: Requests, toy_rewards: Path) -> None:
    result = run(request_for(rewards=[f"{toy_rewards}:Picky"]))
    summary = result.rewards[0]
    assert (summary.scored, summary.abstained, dict(summary.failed)) == (4, 4, {})
    assert result.complete


def test_a_reward_that_fails_on_one_image_scores_the_others(
    request_for: Requests, toy_rewards: Path, tmp_path: Path
) -> None:
    farm = tmp_path / "farm.txt"
    farm.write_text("a cat\na cow\na horse\n")
    request = request_for(prompts=farm, rewards=[f"{toy_rewards}:Picky"])
    result = run(request)
    assert not result.complete
    assert dict(result.rewards[0].failed) == {(1, 0): "RuntimeError: no cows please"}
    assert result.rewards[0].scored == 2
    (scored,) = RunScores.read(RunState(result.path)).scored
    assert scored.reasons == {1: "RuntimeError: no cows please"}
    assert scored.has_score.tolist() == [True, False, True]


def test_an_image_that_is_not_finite_is_missing_with_its_reason(
    request_for: Requests, monkeypatch: pytest.MonkeyPatch
) -> None:
    draw = PipelineRunner.generate

    def broken(runner: PipelineRunner, texts: list[str], latents: object, seeds: object) -> object:
        images = draw(runner, texts, latents, seeds)  # type: ignore[arg-type]
        images[["a cat 1" in text for text in texts]] = float("nan")
        return images

    with monkeypatch.context() as patch:
        patch.setattr(PipelineRunner, "generate", broken)
        result = run(request_for())
    assert list(result.missing.values()) == ["the pipeline returned pixels that are not finite"]
    assert (result.images, result.rewards[0].scored, result.complete) == (7, 7, False)
    assert run(request_for()).complete


def test_a_batch_that_does_not_fit_is_halved(request_for: Requests, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    draw = PipelineRunner.generate

    def small_memory(runner: PipelineRunner, texts: list[str], *rest: object) -> object:
        if len(texts) > 2:
            raise torch.OutOfMemoryError
        return draw(runner, texts, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(PipelineRunner, "generate", small_memory)
    result = run(request_for(batch_size=8))
    assert result.complete
    assert [len(batch) for batch in RunState(result.path).batches] == [2, 2, 2, 2]


def test_only_halves_with_a_missing_image_are_generated(
    request_for: Requests, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    whole = run(request_for(batch_size=4))
    (whole.path / "images" / "00003-0.png").unlink()
    draw, generated = PipelineRunner.generate, []

    def small_memory(runner: PipelineRunner, texts: list[str], *rest: object) -> object:
        if len(texts) > 2:
            raise torch.OutOfMemoryError
        generated.extend(texts)
        return draw(runner, texts, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(PipelineRunner, "generate", small_memory)
    again = run(request_for(batch_size=4))
    assert again.complete
    assert len(generated) == 2


def test_a_smaller_batch_size_splits_batches_not_started(request_for: Requests) -> None:
    with pytest.raises(KeyboardInterrupt):
        execute_plan(plan_run(request_for(batch_size=4)), Interrupt(1))
    result = run(request_for(batch_size=2))
    assert result.complete
    assert [len(batch) for batch in RunState(result.path).batches] == [4, 2, 2]


def test_two_processes_cannot_share_a_run(request_for: Requests) -> None:
    planned = plan_run(request_for())
    with locked(planned.path), pytest.raises(TcbenchError, match="another process is working on"):
        execute_plan(planned, Silent())


def test_rewards_of_installed_plug_ins_work(
    request_for: Requests, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    installed = tmp_path / "site" / "plug-1.0.dist-info"
    installed.mkdir(parents=True)
    (installed / "METADATA").write_text("Metadata-Version: 2.1\nName: plug\nVersion: 1.0\n")
    (installed / "entry_points.txt").write_text("[tcbench.rewards]\nplug-red = plug:Red\n")
    (tmp_path / "site" / "plug.py").write_text(
        "from rewards import Reward\nclass Red(Reward):\n"
        "    def _score(self, pixels, prompts):\n        return pixels[:, 0].mean((1, 2))\n"
    )
    monkeypatch.syspath_prepend(tmp_path / "site")
    result = run(request_for(rewards=["plug-red"]))
    assert result.complete
    assert result.rewards[0].reward == "plug-red"


def test_rewards_see_the_original_prompt(
    request_for: Requests, tiny_pipeline: Path, toy_rewards: Path, tmp_path: Path
) -> None:
    toml = tmp_path / "worded.toml"
    toml.write_text(f'pipeline = "{tiny_pipeline}"\nappend = ", vivid"\n')
    picky = [f"{toy_rewards}:Picky"]  # scores a prompt by its length
    plain, worded = run(request_for(rewards=picky)), run(request_for(model=str(toml), rewards=picky))
    assert scores(worded) == scores(plain)
    assert image_bytes(worded) != image_bytes(plain)


def test_a_changed_image_fails_to_score(request_for: Requests, toy_rewards: Path) -> None:
    first = run(request_for())
    shutil.copy(first.path / "images" / "00000-0.png", first.path / "images" / "00001-0.png")
    result = run(request_for(rewards=[f"{toy_rewards}:Picky"]))
    assert "is not the image that was recorded" in result.rewards[0].failed[1, 0]
    assert len(result.rewards[0].failed) == 1


def test_a_folder_with_other_settings_is_an_error(request_for: Requests) -> None:
    planned = plan_run(request_for())
    run(request_for())
    other: Plan = replace(planned, header=replace(planned.header, generation_id="0" * 12))
    with pytest.raises(MismatchError):
        execute_plan(other, Silent())


def test_truncated_prompts_are_counted(request_for: Requests, tmp_path: Path) -> None:
    file = tmp_path / "long.txt"
    file.write_text("a cat\n" + "a very long prompt " * 4)
    assert run(request_for(prompts=file)).truncated == 1


def test_micro_outside_its_world_is_watermarked(
    request_for: Requests, tiny_pipeline: Path, tmp_path: Path
) -> None:
    toml = tmp_path / "small.toml"
    toml.write_text(f'base = "micro"\npipeline = "{tiny_pipeline}"\n')
    assert plan_run(request_for(model=str(toml))).header.watermarks == ("out of domain",)
    assert plan_run(request_for()).header.watermarks == ()


def test_systems_set_the_defaults() -> None:
    micro = SYSTEMS["micro"]
    assert (micro.suite, micro.schedule) == ("world", Schedule("ddim", 25, 3.0))
    assert set(micro.rewards) > {"world-clip", "world-blip", "world-vqa", "world-rule", "world-oracle"}
    assert (SYSTEMS["sd15"].suite, SYSTEMS["sd15"].schedule) == ("parti", Schedule("ddim", 25, 7.5))


@pytest.mark.parametrize(
    "change", [{"limit": 0}, {"seeds": 0}, {"steps": 0}, {"guidance": -1.0}, {"batch_size": 0}]
)
def test_numbers_out_of_range_are_an_error(request_for: Requests, change: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="expected at least"):
        plan_run(request_for(**change))


def test_changes_of_the_environment_are_noted(request_for: Requests, monkeypatch: pytest.MonkeyPatch) -> None:
    notes: list[str] = []

    class Notes(Silent):
        def note(self, message: str) -> None:
            notes.append(message)

    run(request_for())
    monkeypatch.setattr("textcraftor.io.provenance._versions", lambda: {"torch": "99"})
    execute_plan(plan_run(request_for()), Notes())
    assert any("torch" in note and "now 99" in note for note in notes)


def test_groups_of_a_suite_are_recorded(request_for: Requests, shared_data: Path) -> None:
    planned = plan_run(request_for(suite="parti", prompts=shared_data / "prompts", limit=2, rewards=[]))
    result = execute_plan(planned, Silent())
    for sample in RunState(result.path).samples.values():
        (group,) = sample.groups
        assert group == f"challenge: {planned.prompts.prompts[sample.prompt_id].tags['challenge']}"


def test_best_of_n_keeps_the_best_image(
    request_for: Requests, toy_rewards: str, tmp_path: Path, tiny_pipeline: Path
) -> None:
    text = f'name = "best"\npipeline = "{tiny_pipeline}"\nschedule.steps = 2\ntrained_on = []\n'
    results = []
    for best_of in (1, 3):
        system = tmp_path / f"best-{best_of}.toml"
        more = (
            f'best_of = {best_of}\ntest_time_reward = "{toy_rewards}:Brightness=1"\n' if best_of > 1 else ""
        )
        system.write_text(text + more)
        results.append(run(request_for(model=str(system), rewards=[f"{toy_rewards}:Brightness"])))
    one, three = map(scores, results)
    assert results[0].path != results[1].path
    gains = [(three[key] or 0.0) - (one[key] or 0.0) for key in one]
    assert min(gains) >= 0
    assert max(gains) > 0
    best = RunState(results[1].path)
    assert best.header.details["trained_on"] == [best.score_sets[0].details["declared_as"]]
    with pytest.raises(ValueError, match="best_of = 4 with test_time_reward = ''; set a reward"):
        replace(System.find("micro"), best_of=4)


def test_judges_cannot_select_and_broken_images_never_win(
    request_for: Requests,
    toy_rewards: str,
    tmp_path: Path,
    tiny_pipeline: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    system = tmp_path / "best.toml"
    text = f'pipeline = "{tiny_pipeline}"\nschedule.steps = 2\nbest_of = 2\n'
    system.write_text(text + 'test_time_reward = "world-oracle=1"\n')
    with pytest.raises(WrongRole, match="world-oracle"):
        plan_run(request_for(model=str(system)))
    system.write_text(
        text + f'test_time_reward = "world-clip=1,{toy_rewards}:Brightness=1"\ncalibration = "world"\n'
    )
    with pytest.raises(
        MismatchError, match="calibration on world-train has no toy-brightness"
    ):  # before any work
        plan_run(request_for(model=str(system)))
    system.write_text(text + f'test_time_reward = "{toy_rewards}:Brightness=1"\n')
    draw, calls = PipelineRunner.generate, []

    def broken(runner: PipelineRunner, texts: list[str], latents: object, seeds: object) -> object:
        images = draw(runner, texts, latents, seeds)  # type: ignore[arg-type]
        calls.append(len(texts))
        if len(calls) % 2:  # the first attempt of each batch
            images[0] = float("nan")
        return images

    monkeypatch.setattr(PipelineRunner, "generate", broken)
    result = run(request_for(model=str(system), rewards=[f"{toy_rewards}:Brightness"]))
    assert result.complete
