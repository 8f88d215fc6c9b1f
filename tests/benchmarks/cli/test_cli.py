"""The command line: exit codes, one-line errors, data on stdout, commands that resume."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from benchmarks.cli import VERBS, main
from benchmarks.cli.progress import _Lines
from tcbench.errors import MismatchError
from textcraftor.diffusion.pipeline import MICRO

Command = Callable[..., tuple[int, str, str]]

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def tcbench(capsys: pytest.CaptureFixture[str]) -> Command:
    """Run `tcbench` in this process and return exit code, stdout and stderr."""

    def call(*arguments: object) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as exit:
            main([str(argument) for argument in arguments])
        out, err = capsys.readouterr()
        return int(exit.value.code or 0), out, err

    return call


@pytest.fixture
def run_arguments(tiny_pipeline: Path, prompt_file: Path, toy_rewards: Path, tmp_path: Path) -> list[str]:
    """Arguments of a tiny run: eight prompts, two steps, one toy reward."""
    return [
        "run", "--model", str(tiny_pipeline), "--prompts", str(prompt_file),
        "--rewards", f"{toy_rewards}:Brightness", "--steps", "2", "--batch-size", "3",
        "--device", "cpu", "--out", str(tmp_path / "runs"),
    ]  # fmt: skip


def test_run_prints_its_folder_and_the_next_command(tcbench: Command, run_arguments: list[str]) -> None:
    code, out, err = tcbench(*run_arguments)
    assert code == 0
    assert re.search(r"toy-brightness +0\.\d{4}  \(8 of 8\)", out)
    assert re.search(r"run: \S+/custom_pets-tiny-[0-9a-f]{12}  8 of 8 images", out)
    assert re.search(r"next: tcbench leaderboard \S+ --baseline tiny --out board", out)
    assert "images: 8 of 8" in err
    code, out, _ = tcbench(*run_arguments)
    assert code == 0
    assert "nothing to do" in out


def test_next_command_names_the_run_if_its_system_has_several(
    tcbench: Command, run_arguments: list[str]
) -> None:
    tcbench(*run_arguments)
    code, out, _ = tcbench(*run_arguments, "--guidance", "2")
    assert code == 0
    command = out.splitlines()[-1].removeprefix("next: tcbench ").split()
    assert re.fullmatch(r".+@[0-9a-f]{12}", command[command.index("--baseline") + 1])
    assert tcbench(*command[: command.index("--out")], "--out", Path(command[1]) / "board")[0] == 0


def test_damaged_run_in_the_same_folder_is_ignored(tcbench: Command, run_arguments: list[str]) -> None:
    out_folder = Path(run_arguments[run_arguments.index("--out") + 1])
    (out_folder / "old-run").mkdir(parents=True)
    (out_folder / "old-run" / "run.json").write_text("{")
    code, out, err = tcbench(*run_arguments)
    assert (code, "error" in err) == (0, False)
    assert "next: tcbench leaderboard" in out


def test_version_is_printed(tcbench: Command) -> None:
    code, out, _ = tcbench("--version")
    assert code == 0
    assert re.fullmatch(r"\d+\.\d+\.\d+\S*", out.strip())


def test_stdout_contains_only_json(tcbench: Command, run_arguments: list[str]) -> None:
    code, out, _ = tcbench(*run_arguments, "--json")
    record = json.loads(out)
    assert code == 0
    assert (record["complete"], record["images"], record["rewards"][0]["scored"]) == (True, 8, 8)


def test_dry_run_prints_the_plan_and_writes_nothing(
    tcbench: Command, run_arguments: list[str], tmp_path: Path
) -> None:
    code, out, _ = tcbench(*run_arguments, "--dry-run", "--limit", "4")
    assert code == 0
    assert re.search(r"images +4\n", out)
    assert "limit 4 of 8" in out
    assert json.loads(tcbench(*run_arguments, "--dry-run", "--json")[1])["settings"]["steps"] == 2
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["run", "--model", ""], 2, "error: --model is empty"),
        (["run", "--model=", "--limit", "1"], 2, "error: --model is empty"),
        (["score", " "], 2, "error: an argument is empty"),
        (["run", "--model", "micro", "--prompts", ""], 2, "error: --prompts is empty"),
        (["run", "--model", "micro", "--guidance", "inf"], 1, "guidance = inf; expected a finite number"),
        (["run", "--model", "micro", "--guidance", "nan"], 2, "--guidance"),
        (["run", "--model", "micro", "--base-seed", "-1"], 2, "--base-seed"),
        (["train", "--model", "micro", "--out", "x", "--seed", "-1"], 2, "--seed"),
        (
            ["train", "--model", "micro", "--out", "x", "--set", "seed=-1"],
            1,
            "seed = -1; expected at least 0",
        ),
        (
            ["train", "--model", "micro", "--out", "x", "--set", "optimiser.lr=inf"],
            1,
            "lr = inf; expected a fin",
        ),
        (["sweep", "--model", "micro", "--out", "x", "--strengths", "nan"], 2, "expected finite numbers"),
        (["leaderboard", "FILE", "--baseline", "x"], 1, "FILE is a file; give run folders, or their parent"),
        (["compare", "FILE", "FILE"], 1, "FILE is not a run folder: it is a file"),
        (["calibrate", "FILE"], 1, "FILE is not a run folder: it is a file"),
        (["pairs", "nowhere", "--out", "x"], 1, "nowhere is not a run folder: it does not exist"),
        (["diversity", "FILE"], 1, "FILE is a file; give run folders, or their parent"),
        (["run", "--model", "FILE"], 1, "FILE is a file; expected a named system, a TOML file, a diffusers"),
        (["run", "--model", "micro", "--out", "FILE/runs"], 1, "FILE; give --out a folder"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_invalid_arguments_are_named(
    tcbench: Command,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    code: int,
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NO_COLOR", "1")
    Path("FILE").write_text("a file")
    result, _, err = tcbench(*arguments)
    assert result == code
    assert message in err
    assert [path.name for path in tmp_path.iterdir()] == ["FILE"]


def test_mistakes_come_before_downloads_and_each_has_a_line(
    tcbench: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def download(*_: object, **__: object) -> None:
        raise AssertionError("a mistake is reported before anything is downloaded")

    monkeypatch.setattr("rewards.weights.hub.offline_reason", lambda: "")
    monkeypatch.setattr("huggingface_hub.hf_hub_download", download)
    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    (tmp_path / "sd3" / "transformer").mkdir(parents=True)
    index = {"_class_name": "StableDiffusion3Pipeline", "transformer": ["diffusers", "SD3Transformer2DModel"]}
    (tmp_path / "sd3" / "model_index.json").write_text(json.dumps(index))
    options = ["--model", tmp_path / "sd3", "--rewards", "clip,nope,neither", "--device", "gpu"]
    code, _, err = tcbench("run", *options, "--out", tmp_path / "runs")
    lines = err.splitlines()
    assert (code, len(lines)) == (2, 4)
    assert (
        "sd3 is a StableDiffusion3Pipeline, which has no UNet; expected a pipeline of Stable Dif" in lines[0]
    )
    assert ["unknown device 'gpu'" in lines[1], "'nope'" in lines[2], "'neither'" in lines[3]] == [True] * 3


NO_REWARD = """
class NotAReward:
    pass
from rewards import Reward
class Broken(Reward):
    def __init__(self, info, files=None):
        raise KeyError("no such weights")
    def _score(self, pixels, prompts): ...
class Unfinished(Reward):
    pass
"""


@pytest.mark.parametrize(
    ("reward", "message"),
    [
        ("NotAReward", "NotAReward is not a reward"),
        ("Broken", "reward Broken cannot be loaded: KeyError: 'no such weights'"),
        ("Unfinished", "reward Unfinished cannot be loaded: TypeError: .*abstract"),
    ],
)
@pytest.mark.parametrize("dry_run", [True, False])
def test_rewards_of_ones_own_are_loaded_before_the_first_step(
    tcbench: Command, run_arguments: list[str], tmp_path: Path, reward: str, message: str, dry_run: bool
) -> None:
    (tmp_path / "own.py").write_text(NO_REWARD)
    options = ["--rewards", f"{tmp_path / 'own.py'}:{reward}", *(["--dry-run"] if dry_run else [])]
    code, _, err = tcbench(*run_arguments, *options)
    assert code == 1
    assert re.search(message, err)
    assert not (tmp_path / "runs").exists()


def encoder_like(pipeline: Path, folder: Path, **changes: int) -> Path:
    """Write a text encoder that differs from the pipeline's own in its configuration."""
    from transformers import CLIPTextConfig, CLIPTextModel

    config = CLIPTextConfig.from_pretrained(pipeline / "text_encoder")
    for name, value in changes.items():
        setattr(config, name, value)
    CLIPTextModel(config).save_pretrained(folder)
    return folder


@pytest.mark.parametrize(
    ("part", "changes", "message"),
    [
        ("text_encoder", None, "unet holds a UNet2DConditionModel; expected a CLIPTextModel"),
        ("unet", None, "unet cannot be loaded as a UNet2DConditionModel: its config.json"),
        ("text_encoder", {"vocab_size": 250}, "the pipeline's own: vocab_size 250, not 190;"),
        (
            "text_encoder",
            {"max_position_embeddings": 8},
            "own: max_position_embeddings 8, not 16;",
        ),
        ("text_encoder", {"hidden_size": 8}, "the pipeline's own: hidden_size 8, not 16;"),
    ],
)
@pytest.mark.parametrize("dry_run", [True, False])
def test_parts_that_do_not_fit_are_refused_before_the_first_step(
    tcbench: Command,
    run_arguments: list[str],
    tiny_pipeline: Path,
    tmp_path: Path,
    part: str,
    changes: dict[str, int] | None,
    message: str,
    dry_run: bool,
) -> None:
    folder = tiny_pipeline / "unet"
    if changes is not None:
        folder = encoder_like(tiny_pipeline, tmp_path / "encoder", **changes)
    elif part == "unet":
        folder = Path(shutil.copytree(folder, tmp_path / "unet"))
        (folder / "config.json").write_text("{")
    (tmp_path / "other.toml").write_text(f'pipeline = "{tiny_pipeline}"\n{part} = "{folder}"\n')
    options = ["--model", tmp_path / "other.toml", *(["--dry-run"] if dry_run else [])]
    code, _, err = tcbench(*run_arguments, *options)
    assert code == 1
    assert re.search(message, err)
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("dry_run", [[], ["--dry-run"]])
@pytest.mark.parametrize("sampler", ["ddim", "euler"])
def test_more_steps_than_timesteps_are_refused_before_the_first_step(
    tcbench: Command,
    run_arguments: list[str],
    tiny_pipeline: Path,
    tmp_path: Path,
    sampler: str,
    dry_run: list[str],
) -> None:
    system = f'pipeline = "{tiny_pipeline}"\n[schedule]\nsampler = "{sampler}"\n'
    (tmp_path / "other.toml").write_text(system)
    options = ["--model", tmp_path / "other.toml", "--steps", "2000", *dry_run]
    code, _, err = tcbench(*run_arguments, *options)
    assert (code, "steps = 2000; expected at most 1000" in err) == (1, True)
    assert not (tmp_path / "runs").exists()


def test_generated_images_are_scored_by_a_second_command(
    tcbench: Command, run_arguments: list[str], toy_rewards: Path
) -> None:
    at = run_arguments.index("--rewards")
    arguments = ["generate", *run_arguments[1:at], *run_arguments[at + 2 :]]
    code, out, _ = tcbench(*arguments)
    assert code == 0
    (folder,) = re.findall(r"next: tcbench score (\S+)", out)
    code, out, _ = tcbench("score", folder, "--rewards", f"{toy_rewards}:Brightness")
    assert code == 0
    assert "(8 of 8)" in out
    assert "nothing to do" in tcbench(*run_arguments)[1]


def test_missing_scores_exit_with_3(tcbench: Command, run_arguments: list[str], toy_rewards: Path) -> None:
    prompts = toy_rewards.with_name("farm.txt")
    prompts.write_text("a cat\na cow\n")
    code, out, err = tcbench(*run_arguments, "--prompts", prompts, "--rewards", f"{toy_rewards}:Picky")
    assert code == 3
    assert "1 failed" in out
    assert "failed: images/00001-0.png: RuntimeError: no cows please (toy-picky)" in err


def test_images_that_cannot_be_scored_are_named(tcbench: Command, toy_rewards: Path, tmp_path: Path) -> None:
    folder = tmp_path / "pictures"
    folder.mkdir()
    Image.new("RGB", (8, 8), "red").save(folder / "a.png")
    (folder / "b.png").write_bytes(b"no picture")
    whole = (folder / "a.png").read_bytes()
    (folder / "c.png").write_bytes(whole[:-30])
    (tmp_path / "farm.txt").write_text("a cat\na dog\na hen\n")
    arguments = ["score", folder, "--prompts", tmp_path / "farm.txt", "--out", tmp_path / "runs"]
    both = f"{toy_rewards}:Brightness,world-rule"
    code, _, err = tcbench(*arguments, "--rewards", both)
    assert code == 3
    lines = [line for line in err.splitlines() if line.startswith("failed: ")]
    b, c = folder / "b.png", folder / "c.png"
    assert (
        lines[0] == f"failed: ValueError: {b} is not an image that PIL can read (toy-brightness, world-rule)"
    )
    assert lines[1].startswith(f"failed: ValueError: {c} cannot be decoded: ")
    assert len(lines) == 2
    assert "BytesIO" not in err
    record = json.loads(tcbench(*arguments, "--rewards", both, "--json")[1])
    assert [row["image"] for row in record["rewards"][0]["failed"]] == [str(b), str(c)]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["rn"], "Did you mean 'run'?"),
        (["run", "--model", "micr"], "did you mean micro"),
        (["run", "--model", "micro", "--suite", "patri"], "did you mean parti"),
        (["run", "--model", "micro", "--rewards", "world-clop"], "did you mean world-clip"),
        (["run", "--model", "micro", "--device", "cupa"], "cuda"),
        (["run", "--model", "micro", "--limit", "0"], "greater than or equal to 1"),
        (["run", "--model", "micro", "--batch-size", "many"], "expected auto or a whole number"),
        (["run"], "--model"),
        (["ls", "modles"], "modles"),
    ],
)
def test_unknown_names_and_bad_usage_exit_with_2(
    tcbench: Command, run_arguments: list[str], arguments: list[str], message: str
) -> None:
    if "--device" in arguments:  # checked last, so everything else must be valid
        arguments = [*run_arguments, "--device", "cupa"]
    code, out, err = tcbench(*arguments)
    assert (code, out) == (2, "")
    assert message in err


def test_prompts_that_differ_from_the_pinned_ones_exit_with_4(
    tcbench: Command, run_arguments: list[str], tmp_path: Path
) -> None:
    (tmp_path / "drawbench.json").write_text('["a cat"]')
    code, _, err = tcbench(*run_arguments, "--suite", "drawbench", "--prompts", tmp_path)
    assert code == 4
    assert "holds 1 prompts" in err


def test_mixed_records_exit_with_4(
    tcbench: Command, run_arguments: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def mixed(*_: object) -> None:
        raise MismatchError("records of a in a folder of b")

    monkeypatch.setattr("benchmarks.execution.execute_plan", mixed)
    assert tcbench(*run_arguments)[0] == 4


def test_missing_prompt_file_is_a_one_line_error(
    tcbench: Command, run_arguments: list[str], tmp_path: Path
) -> None:
    code, out, err = tcbench(*run_arguments, "--prompts", tmp_path / "none.txt")
    assert (code, out) == (1, "")
    assert re.fullmatch(r"error: .*none\.txt.*\n", err)


def test_debug_variable_shows_the_traceback(
    run_arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TCBENCH_DEBUG", "1")
    with pytest.raises(ValueError, match=r"none\.txt"):
        main([*run_arguments, "--prompts", str(tmp_path / "none.txt")])


def test_full_disk_is_a_one_line_error_and_keeps_finished_images(
    tcbench: Command, run_arguments: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from benchmarks import generate

    write, written = generate.write_atomically, []

    def full(path: Path, content: bytes) -> None:
        if len(written) == 5:
            raise OSError(28, "No space left on device", str(path))
        written.append(path)
        write(path, content)

    with monkeypatch.context() as patch:
        patch.setattr(generate, "write_atomically", full)
        code, _, err = tcbench(*run_arguments)
    assert code == 1
    assert "error: No space left on device" in err
    assert "finished work is kept" in err
    code, _, err = tcbench(*run_arguments)
    assert code == 0
    assert "images: 3 of 8 done" in err


def test_unwritable_folder_is_a_one_line_error(
    tcbench: Command, run_arguments: list[str], tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    code, _, err = tcbench(*run_arguments, "--out", tmp_path / "file")
    assert code == 1
    assert err.startswith("error: Not a directory")


@pytest.mark.parametrize(
    "arguments",
    [
        "train --model micro --dry-run --out FILE",
        "train --model micro --dry-run --out runs --set memory.prefix_cache=FILE",
        "run --model micro --limit 1 --dry-run --out FILE",
        "generate --model micro --limit 1 --dry-run --out FILE",
        "reproduce world-table --dry-run --out FILE",
        "reproduce world-table --dry-run --out runs --docs FILE",
        "mix micro-tuned=1 --out FILE",
        "export micro-tuned --to diffusers --out FILE",
        "sweep --model micro-tuned --limit 1 --out FILE",
        "leaderboard nowhere --baseline micro --out FILE",
        "calibrate nowhere --out FILE/calibration.json",
        "score pictures --prompts pets.csv --rewards jpeg-compressibility --out FILE",
    ],
)
def test_a_file_in_place_of_a_folder_is_refused_before_work(
    tcbench: Command, prompt_file: Path, monkeypatch: pytest.MonkeyPatch, arguments: str
) -> None:
    monkeypatch.chdir(prompt_file.parent)
    Path("FILE").touch()
    Path("pictures").mkdir()
    for number in range(8):
        Image.new("RGB", (8, 8)).save(f"pictures/{number}.png")
    shutil.copytree(MICRO / "text_encoder", "micro-tuned/text_encoder")
    Path("micro-tuned/system.toml").write_text(
        'base = "micro"\n[[windows]]\nweights = { "." = 1.0 }\ntuned_steps = 2\n'
    )
    code, out, err = tcbench(*arguments.split())
    assert (code, out) == (1, "")
    (line,) = err.splitlines()
    option = next(word for word in ("memory.prefix_cache", "--docs", "--out") if word in arguments)
    assert re.fullmatch(f"error: Not a directory: .*/FILE; give {option} a folder", line), line


@pytest.mark.parametrize(
    "arguments",
    [
        "train --model micro --out runs --dry-run",
        "run --model micro --limit 1 --out runs --dry-run",
        "generate --model micro --limit 1 --out runs --dry-run",
        "score pictures --prompts pets.csv --rewards jpeg-compressibility --out runs",
    ],
)
def test_gpu_means_cuda(
    tcbench: Command, prompt_file: Path, monkeypatch: pytest.MonkeyPatch, arguments: str
) -> None:
    monkeypatch.chdir(prompt_file.parent)
    Path("pictures").mkdir()
    for number in range(8):
        Image.new("RGB", (8, 8)).save(f"pictures/{number}.png")
    code, _, err = tcbench(*arguments.split(), "--device", "gpu")
    assert (code, err) == (2, "error: unknown device 'gpu'; did you mean cuda?\n")
    assert not Path("runs").exists()


def test_interruption_prints_the_command_that_resumes(
    tcbench: Command, run_arguments: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("benchmarks.execution.execute_plan", interrupted)
    code, _, err = tcbench(*run_arguments, "--seeds", "1")
    assert code == 130
    assert f"resume with: tcbench {' '.join(run_arguments)} --seeds 1" in err


DYING = """
import os, signal, sys
write, left = os.write, int(sys.argv.pop(1))

def dying(descriptor, data):
    global left
    left -= 1
    if left:
        return write(descriptor, data)
    write(descriptor, data[: len(data) // 2])
    os.kill(os.getpid(), signal.SIGKILL)

from benchmarks.cli import main
os.write = dying
main()
"""


@pytest.mark.parametrize(
    "writes", [3, pytest.param(1, marks=pytest.mark.slow), pytest.param(6, marks=pytest.mark.slow)]
)
def test_run_killed_while_writing_a_line_resumes_to_the_same_result(
    tcbench: Command, run_arguments: list[str], tmp_path: Path, writes: int
) -> None:
    """Write 1 is the batch plan, writes 2 to 4 are image records, 5 to 7 scores."""
    killed = subprocess.run(
        [sys.executable, "-c", DYING, str(writes), *run_arguments], cwd=ROOT, capture_output=True, text=True
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert tcbench(*run_arguments)[0] == 0
    assert tcbench(*run_arguments, "--out", tmp_path / "whole")[0] == 0
    assert final_state(tmp_path / "runs") == final_state(tmp_path / "whole")


def final_state(out: Path) -> dict[str, object]:
    """Return the images and scores of the only run in ``out``, without the names of its journal files."""
    from leaderboards.run_state import RunState

    (path,) = out.iterdir()
    run = RunState(path)
    images: dict[str, object] = {file.name: file.read_bytes() for file in (path / "images").glob("*.png")}
    return images | {c.reward: dict(sorted(run.scores(c).items())) for c in run.score_sets}


@pytest.mark.parametrize("kind", ["models", "rewards", "suites", "runs"])
def test_ls_lists_every_kind(
    tcbench: Command, kind: str, run_arguments: list[str], tmp_path: Path, toy_rewards: Path
) -> None:
    if kind == "runs":
        assert tcbench("ls", kind, "--out", tmp_path / "runs") == (0, "no runs\n", "")
        assert tcbench(*run_arguments)[0] == 0
    code, out, _ = tcbench("ls", kind, "--out", tmp_path / "runs", "--json")
    rows = json.loads(out)
    assert code == 0
    table = tcbench("ls", kind, "--out", tmp_path / "runs")[1].splitlines()
    assert len(table) == len(rows) + 1
    first = {"models": "micro", "rewards": "world-clip", "suites": "parti", "runs": "toy-brightness"}
    assert any(first[kind] in line for line in table)


def test_folder_of_images_is_scored(
    tcbench: Command, shared_data: Path, toy_rewards: Path, tmp_path: Path
) -> None:
    images = sorted((shared_data / "photos" / "sd").glob("*.png"))
    prompts = tmp_path / "sd.jsonl"
    lines = [json.dumps({"prompt": f.name.split("__")[0], "image": f.name}) for f in images]
    prompts.write_text("\n".join(lines))
    arguments = [
        "score", shared_data / "photos" / "sd", "--prompts", prompts,
        "--rewards", f"{toy_rewards}:Brightness", "--name", "official", "--out", tmp_path / "runs",
    ]  # fmt: skip
    code, out, _ = tcbench(*arguments, "--json")
    record = json.loads(out)
    assert code == 0
    assert record["rewards"][0]["scored"] == len(images)
    assert "custom_sd-official-" in record["run"]
    assert "nothing to do" in tcbench(*arguments)[1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["score", "nowhere", "--rewards", "clip"], "folder not found: nowhere"),
        (["score", "."], "give the prompts of its images"),
        (["score", "tests", "--prompts", "p.txt"], "cannot read p.txt"),
    ],
)
def test_score_reports_missing_arguments(tcbench: Command, arguments: list[str], message: str) -> None:
    code, _, err = tcbench(*arguments)
    assert code == 1
    assert message in err


@pytest.mark.parametrize(
    ("rewards", "message"), [((), "no rewards given"), (("--rewards", "clop"), "did you mean clip")]
)
def test_score_writes_nothing_without_known_rewards(
    tcbench: Command, tmp_path: Path, rewards: tuple[str, ...], message: str
) -> None:
    (tmp_path / "pictures").mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / "pictures" / "a.png")
    (tmp_path / "p.txt").write_text("a cat\n")
    given = ["score", tmp_path / "pictures", "--prompts", tmp_path / "p.txt", "--out", tmp_path / "runs"]
    code, out, err = tcbench(*given, *rewards)
    assert (code > 0, out) == (True, "")
    assert message in err
    assert not (tmp_path / "runs").exists()


def test_help_lists_every_command_in_its_panel(tcbench: Command) -> None:
    code, out, _ = tcbench("--help")
    assert code == 0
    panel = ""
    listed = {}
    for line in out.splitlines():
        if title := re.match(r"╭─ (.+?) ─", line):
            panel = title[1]
        elif command := re.match(r"│ (\w+) ", line):
            listed[command[1]] = panel
    assert {name: panel for name, (panel, _) in VERBS.items()}.items() <= listed.items()


@pytest.mark.parametrize("command", VERBS)
def test_every_command_has_help(tcbench: Command, command: str) -> None:
    code, out, _ = tcbench(command, "--help")
    assert code == 0
    assert f"tcbench {command}" in out


def test_help_of_train_names_every_profile(tcbench: Command) -> None:
    _, out, _ = tcbench("train", "--help")
    for profile in ("default", "paper", "official-code", "ddpo", "grpo", "nft", "rewriter", "quick"):
        assert profile in out


@pytest.mark.parametrize(
    ("arguments", "option"),
    [(["run", "--switch-step", "5"], "--switch-step"), (["sweep", "--switch-steps=5,10"], "--switch-steps")],
)
def test_renamed_options_are_reported(tcbench: Command, arguments: list[str], option: str) -> None:
    code, _, err = tcbench(*arguments)
    assert code == 2
    assert err == f"error: the option {option} is now called --tuned-steps\n"


@pytest.mark.parametrize("number", ["2.5", "inf", ","])
def test_numbers_of_tuned_steps_are_whole(tcbench: Command, number: str, tmp_path: Path) -> None:
    code, _, err = tcbench("sweep", "--model", "micro", "--out", tmp_path, "--tuned-steps", number)
    assert code == 2
    assert "whole numbers such as 5,15" in " ".join(err.replace("│", " ").split())


def test_plain_progress_shows_rate_and_time_left(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    lines = _Lines()
    lines.stage("images", total=40, done=10)
    for _ in range(3):
        now[0] += 6
        lines.advance(10)
    assert capsys.readouterr().err.splitlines() == [
        "images: 10 of 40 done",
        "images: 30 of 40, 1.7/s, 6 s left",
        "images: 40 of 40, 1.7/s, 0 s left",
    ]


BARS = """
from benchmarks.cli.progress import _Bars, show_progress
with show_progress() as shown:
    assert isinstance(shown, _Bars)
    shown.stage("images", 4)
    shown.advance(4)
    shown.note("a remark")
"""


def test_terminal_shows_progress_bars() -> None:
    import pty

    controller, terminal = pty.openpty()
    environment = os.environ | {"TERM": "xterm"}
    done = subprocess.run([sys.executable, "-c", BARS], cwd=ROOT, stderr=terminal, env=environment)
    os.close(terminal)
    shown = os.read(controller, 65536).decode()
    os.close(controller)
    assert done.returncode == 0
    assert "images" in shown
    assert "4/4" in shown
    assert "note: a remark" in shown


def test_trained_model_is_run_mixed_and_exported(
    tcbench: Command, tiny_pipeline: Path, prompt_file: Path, toy_rewards: Path, tmp_path: Path
) -> None:
    arguments = [
        "train", "--model", tiny_pipeline, "--out", tmp_path / "tuned", "--prompts", prompt_file,
        "--device", "cpu", "--rewards", f"{toy_rewards}:Brightness=1", "--updates", "2",
        "--set", "optimiser.batch=2", "--set", "schedule.steps=2", "--set", "schedule.tuned_steps=1",
        "--set", "validation.eval_tuned_steps=1", "--set", "validation.every=0",
    ]  # fmt: skip
    code, out, err = tcbench(*arguments)
    assert code == 0, err
    assert re.search(r"trained: \S+/tuned  2 updates; selected the checkpoint after 2", out)
    assert "next: tcbench run --model" in out
    code, out, _ = tcbench(*arguments, "--dry-run", "--json")
    assert (code, json.loads(out)["optimiser"]["batch"]) == (0, 2)
    run = ["run", "--model", tmp_path / "tuned", "--prompts", prompt_file, "--limit", "2", "--device", "cpu",
           "--rewards", f"{toy_rewards}:Brightness", "--out", tmp_path / "runs"]  # fmt: skip
    code, out, err = tcbench(*run)
    assert code == 0, err
    code, out, err = tcbench("mix", f"{tmp_path / 'tuned'}=0.5", "original=0.5", "--out", tmp_path / "half")
    assert code == 0, err
    code, out, err = tcbench(
        "export", tmp_path / "tuned", "--to", "single-file", "--out", tmp_path / "single"
    )
    assert code == 0, err
    code, out, err = tcbench("export", tmp_path / "tuned", "--to", "lora", "--out", tmp_path / "lora")
    assert (code, err.count("\n")) == (1, 1)
    code, out, err = tcbench(*arguments, "--set", "learning_rate=1")
    assert code == 2
    assert "unknown key 'learning_rate'" in err
    code, out, err = tcbench(*arguments, "--set", "lr=1")
    assert code == 1
    assert "'lr' is now 'optimiser.lr'" in err
