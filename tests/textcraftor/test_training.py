"""The training loop on a tiny pipeline: it learns, resumes bit-identically, and reports errors."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import rewards
from rewards import WrongRole
from tcbench.cells import ONE_CORE
from tcbench.errors import ConfigError, MissingFiles, Problems, TcbenchError
from textcraftor.config import TrainConfig, make_config
from textcraftor.curves import save_curves
from textcraftor.io.checkpoint import LOG, VALIDATION, TrainFolder
from textcraftor.sources import PromptSource
from textcraftor.training import train
from textcraftor.validation import Validation

# inside diffusers
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

REWARDS = '''
from rewards import Reward, RewardInfo, register

@register(RewardInfo("train-red", uses_prompt=False))
class Red(Reward):
    """How red an image is."""
    def _score(self, pixels, prompts):
        return pixels[:, 0].mean((1, 2)) - pixels[:, 1:].mean((1, 2, 3))

@register(RewardInfo("train-bright", uses_prompt=False))
class Bright(Reward):
    def _score(self, pixels, prompts):
        return pixels.mean((1, 2, 3))

@register(RewardInfo("train-broken"))
class Broken(Reward):
    """NaN for dogs."""
    def _score(self, pixels, prompts):
        scores = pixels.mean((1, 2, 3))
        return scores * pixels.new_tensor([float("nan") if "dog" in p else 1.0 for p in prompts])

@register(RewardInfo("train-constant", uses_prompt=False))
class Constant(Reward):
    """The same score for every image, with a gradient of 0."""
    def _score(self, pixels, prompts):
        return pixels.mean((1, 2, 3)) * 0 + 0.5

@register(RewardInfo("train-detached", uses_prompt=False))
class Detached(Reward):
    def _score(self, pixels, prompts):
        return pixels.detach().mean((1, 2, 3))
'''

REWARD = "Red"
PROMPTS = ["a cat", "a dog", "a hen", "a cow", "a pig", "a fox"]
CONFIG = {
    "steps": 4, "tuned_steps": 2, "eval_tuned_steps": 3, "guidance": 3.0, "batch": 4, "updates": 4,
    "lr": 1e-3, "every": 2, "prompt_count": 4, "save_every": 1,
}  # fmt: skip


def weights(folder: Path) -> dict[str, torch.Tensor]:
    """The tuned encoder that a run ended with."""
    newest = TrainFolder(folder).newest()
    assert newest is not None
    return load_file(newest.path / "text_encoder" / "model.safetensors")


def same(a: Path, b: Path) -> bool:
    first, second = weights(a), weights(b)
    return first.keys() == second.keys() and all(torch.equal(first[k], second[k]) for k in first)


def test_training_raises_the_reward_and_logs_everything(
    config_for: Callable[..., TrainConfig], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    done = train(config_for(updates=12, every=12), out, device="cpu")
    assert (done.updates, done.best) == (12, 12)
    folder = TrainFolder(out)
    lines = folder.rows(LOG)
    assert [line["update"] for line in lines] == list(range(12))
    assert lines[-1]["samples"] == 48
    name = next(key for key in lines[0] if key.startswith("reward/"))
    assert {"grad_norm", "seconds", "peak_mib", "lr", name, name.replace("reward", "pull")} <= set(lines[0])
    first, last = folder.rows(VALIDATION)
    assert (first["update"], last["update"]) == (0, 12)
    _, low, _ = last["changes"]["trained"]
    assert low > 0  # on fixed prompts and noises
    assert last["drift"] > 0 == first["drift"]
    assert sorted(path.name for path in (out / "samples").iterdir()) == ["000000.png", "000012.png"]
    record = json.loads((out / "train.json").read_text())
    assert record["config"]["optimiser"]["lr"] == 1e-3
    assert len(record["environments"]) == 1
    checkpoint = folder.newest()
    assert checkpoint is not None
    ledger = checkpoint.record["ledger"]
    # a sample: two guidance branches x (2 prefix + 2 tuned) steps, and backward passes of the tuned ones
    assert ledger["unet_forwards"] == 48 * 2 * 4
    assert ledger["unet_backwards"] == 48 * 2 * 2
    assert (ledger["reward_calls"], ledger["decodes"], ledger["skipped"]) == (48, 48, 0)


def test_curves_are_drawn_at_each_validation_and_progress_shows_rewards(
    config_for: Callable[..., TrainConfig],
    tmp_path: Path,
    make_notes: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from PIL import Image

    drawn = []
    monkeypatch.setattr("textcraftor.validation.save_curves", lambda f: drawn.append(save_curves(f)))
    seen = make_notes()
    train(config_for(updates=2, every=2), tmp_path / "out", device="cpu", progress=seen)
    with Image.open(tmp_path / "out" / "curves.png") as picture:
        assert picture.width > 500
    assert len(drawn) == 2
    rows = TrainFolder(tmp_path / "out").rows(LOG)
    assert seen.statuses == [
        f"trained {row['trained']:.4g}, train-red {row['reward/train-red']:.4g}" for row in rows
    ]


def test_only_the_text_encoder_changes(
    config_for: Callable[..., TrainConfig], tmp_path: Path, tiny_pipeline: Path
) -> None:
    train(config_for(updates=1), tmp_path / "out", device="cpu")
    before = load_file(tiny_pipeline / "text_encoder" / "model.safetensors")
    after = weights(tmp_path / "out")
    assert any(
        not torch.equal(after[k if k in after else f"text_model.{k}"], value) for k, value in before.items()
    )
    assert not (tmp_path / "out" / "best" / "unet").exists()


@pytest.mark.parametrize("changes", [{}, {"ema": 0.9, "lr_schedule": "cosine"}, {"lora_rank": 2}])
def test_resume_gives_identical_weights(
    config_for: Callable[..., TrainConfig],
    tmp_path: Path,
    changes: dict[str, Any],
    make_notes: Callable[..., Any],
) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    train(config_for(**changes), whole, device="cpu")

    class Stop(Exception):
        pass

    def stop_in_the_third(done: int) -> None:
        if done == 3:
            raise Stop

    with pytest.raises(Stop):
        train(config_for(**changes), parts, device="cpu", progress=make_notes(stop_in_the_third))
    train(config_for(**changes), parts, device="cpu")
    assert same(whole, parts)
    assert [row["update"] for row in TrainFolder(parts).rows(LOG)] == [0, 1, 2, 3]
    shown = [row["trained"] for row in TrainFolder(parts).rows(LOG)]
    assert shown == [row["trained"] for row in TrainFolder(whole).rows(LOG)]
    assert TrainFolder(parts).rows(VALIDATION) == TrainFolder(whole).rows(VALIDATION)


def test_prefix_cache_gives_identical_weights_for_less_work(
    config_for: Callable[..., TrainConfig], tmp_path: Path
) -> None:
    settings = {"noises": 1, "prefix_cache": str(tmp_path / "cache"), "batch": 6}
    for name in ("cold", "warm"):
        train(config_for(**settings), tmp_path / name, device="cpu")
    train(config_for(noises=1, batch=6), tmp_path / "none", device="cpu")
    assert same(tmp_path / "cold", tmp_path / "warm")
    last = [TrainFolder(tmp_path / name).newest() for name in ("cold", "warm", "none")]
    spent = [checkpoint.record["ledger"]["unet_forwards"] for checkpoint in last if checkpoint]
    # four epochs; the prefix is sampled in the first epoch, in none, in all
    assert spent == [2 * (6 * 2 + 24 * 2), 2 * 24 * 2, 2 * 24 * 4]


def test_micro_batches_give_the_gradient_of_the_whole_batch(
    config_for: Callable[..., TrainConfig], tmp_path: Path
) -> None:
    train(config_for(updates=1, clip=0.0), tmp_path / "whole", device="cpu")
    train(config_for(updates=1, clip=0.0, micro_batch=2), tmp_path / "parts", device="cpu")
    norms = [TrainFolder(tmp_path / name).rows(LOG)[0]["grad_norm"] for name in ("whole", "parts")]
    assert norms[1] == pytest.approx(norms[0], rel=1e-4)


@pytest.mark.parametrize(
    "changes",
    [
        {"algorithm": "truncation"},
        {"algorithm": "one-step"},
        {"algorithm": "low-variance"},
        {"algorithm": "conditioning"},
        {"checkpointing": True},
        {"sampler": "dpm++2m"},
        {"pool": 8},
        {"decode_slice": 1},
        {"tune_null": False},
        {"drift_penalty": 1.0},
        {"precision": "bfloat16"},
        {"parts": ("unet",), "algorithm": "detached-chain"},
        {"parts": ("text_encoder", "unet"), "lora_rank": 2},
        {"offload": True},
    ],
    ids=str,
)
def test_every_estimator_and_setting_raises_the_reward(
    config_for: Callable[..., TrainConfig], tmp_path: Path, changes: dict[str, Any]
) -> None:
    train(config_for(updates=8, every=8, **changes), tmp_path / "out", device="cpu")
    assert TrainFolder(tmp_path / "out").rows(VALIDATION)[-1]["changes"]["trained"][0] > 0


def test_direct_fine_tuning_trains_on_pairs(config_for: Callable[..., TrainConfig], tmp_path: Path) -> None:
    from PIL import Image

    folder = tmp_path / "pairs"
    folder.mkdir()
    lines = []
    for number, text in enumerate(PROMPTS):
        Image.new("RGB", (20, 24), (40 * number, 100, 90)).save(folder / f"{number}.png")
        lines.append(json.dumps({"file_name": f"{number}.png", "text": text}))
    (folder / "metadata.jsonl").write_text("\n".join(lines))
    config = config_for(algorithm="direct", pairs=str(folder), prompts="", updates=8, every=8)
    train(config, tmp_path / "out", device="cpu")
    rows = TrainFolder(tmp_path / "out").rows(LOG)
    assert rows[-1]["unet"] == 8 * 4 * 2 * 2  # one guided call a sample, forward and backward
    (folder / "0.png").write_bytes(b"no picture")
    with pytest.raises(ConfigError, match=r"cannot read .*0\.png"):
        train(config, tmp_path / "again", device="cpu")


def test_second_stage_starts_from_the_tuned_encoder(
    config_for: Callable[..., TrainConfig], tmp_path: Path
) -> None:
    train(config_for(), tmp_path / "first", device="cpu")
    second = config_for(parts=("unet",), start=str(tmp_path / "first" / "best"), updates=1)
    train(second, tmp_path / "second", device="cpu")
    tuned = load_file(tmp_path / "first" / "best" / "text_encoder" / "model.safetensors")
    kept = weights(tmp_path / "second")
    assert all(torch.equal(tuned[k], kept[k]) for k in tuned)
    assert (tmp_path / "second" / "best" / "unet" / "config.json").is_file()


def test_averaged_weights_are_validated_and_saved(
    config_for: Callable[..., TrainConfig], tmp_path: Path, tiny_pipeline: Path
) -> None:
    train(config_for(ema=0.9, lr=1e-2), tmp_path / "out", device="cpu")
    (row,) = [row for row in TrainFolder(tmp_path / "out").rows(VALIDATION) if row["update"] == 4]
    start = config_for(start=str(tmp_path / "out" / "best"), updates=1, lr=0.0)
    train(start, tmp_path / "again", device="cpu")
    again = TrainFolder(tmp_path / "again").rows(VALIDATION)[0]
    assert again["scores"]["trained"] == pytest.approx(row["scores"]["trained"], abs=1e-5)
    assert again["drift"] == pytest.approx(row["drift"], rel=1e-3)


def test_bfloat16_keeps_trained_weights_in_float32(
    config_for: Callable[..., TrainConfig], tmp_path: Path, tiny_pipeline: Path
) -> None:
    config = config_for(precision="bfloat16", lr=0.0, updates=1, weight_decay=0.0, every=0)
    train(config, tmp_path / "out", device="cpu")
    before = load_file(tiny_pipeline / "text_encoder" / "model.safetensors")
    after = weights(tmp_path / "out")
    for name, value in before.items():
        if not name.endswith("position_ids"):
            assert torch.equal(after[name if name in after else f"text_model.{name}"], value)


def test_warmup_raises_the_learning_rate(config_for: Callable[..., TrainConfig], tmp_path: Path) -> None:
    train(config_for(warmup=4, every=0), tmp_path / "out", device="cpu")
    rates = [row["lr"] for row in TrainFolder(tmp_path / "out").rows(LOG)]
    assert rates == pytest.approx([0, 0.25e-3, 0.5e-3, 0.75e-3])


def test_without_validation_the_newest_checkpoint_is_best(
    config_for: Callable[..., TrainConfig], tmp_path: Path
) -> None:
    assert train(config_for(validation_prompts=""), tmp_path / "out", device="cpu").best == 4
    with pytest.raises(ConfigError, match='selection_reward = "world-siglip" requires validation'):
        train(
            config_for(validation_prompts="", selection_reward="world-siglip"),
            tmp_path / "chosen",
            device="cpu",
        )


def test_validation_prompts_of_the_caller_do_not_turn_validation_on(
    config_for: Callable[..., TrainConfig], tmp_path: Path
) -> None:
    given = PromptSource.from_texts("suite:other", ["a cat"])
    for every, validated in ((0, []), (1, [0, 1])):
        config = config_for(every=every, updates=1, validation_prompts="suite:other")
        out = tmp_path / str(every)
        train(config, out, device="cpu", validation=given)
        assert [row["update"] for row in TrainFolder(out).rows(VALIDATION)] == validated


# what goes wrong


def test_validation_ignores_scores_that_are_not_finite(
    config_for: Callable[..., TrainConfig], tmp_path: Path, toys: Path
) -> None:
    train(config_for(mix=f"{toys}:Broken=1", batch=6), tmp_path / "out", device="cpu")
    row = TrainFolder(tmp_path / "out").rows(VALIDATION)[-1]
    assert [value is None for value in row["scores"]["trained"]] == [False, True, False, False]  # the dog
    assert row["means"]["trained"] is not None
    (tmp_path / "dogs.txt").write_text("a dog\n")
    config = config_for(mix=f"{toys}:Broken=1", validation_prompts=str(tmp_path / "dogs.txt"))
    train(config, tmp_path / "dogs", device="cpu")
    assert TrainFolder(tmp_path / "dogs").rows(VALIDATION)[-1]["changes"]["trained"] == [None] * 3


def test_resume_with_other_prompts_is_refused(
    config_for: Callable[..., TrainConfig], tmp_path: Path, prompts: Path
) -> None:
    train(config_for(updates=1, every=0), tmp_path / "out", device="cpu")
    prompts.write_text("a cat\n")
    with pytest.raises(ConfigError, match=r"another training run \(different prompts\)"):
        train(config_for(updates=2, every=0), tmp_path / "out", device="cpu")


def test_damaged_state_is_reported(config_for: Callable[..., TrainConfig], tmp_path: Path) -> None:
    train(config_for(updates=1, every=0), tmp_path / "out", device="cpu")
    state = tmp_path / "out" / "checkpoints" / "000001" / "state.safetensors"
    state.write_bytes(state.read_bytes()[:50])
    with pytest.raises(ConfigError, match=r"state\.safetensors is damaged .* remove"):
        train(config_for(updates=2, every=0), tmp_path / "out", device="cpu")


def test_start_from_a_tuned_unet_requires_training_it(
    config_for: Callable[..., TrainConfig], tmp_path: Path
) -> None:
    train(config_for(parts=("unet",), updates=1, every=0), tmp_path / "unet", device="cpu")
    start = str(tmp_path / "unet" / "best")
    with pytest.raises(ValueError, match="has a tuned UNet, which would be lost"):
        train(config_for(start=start), tmp_path / "out", device="cpu")


def test_samples_that_are_not_finite_are_skipped_and_reported(
    config_for: Callable[..., TrainConfig], tmp_path: Path, toys: Path, make_notes: Callable[..., Any]
) -> None:
    progress = make_notes()
    config = config_for(mix=f"{toys}:Broken=1", every=0, batch=6, updates=2)
    train(config, tmp_path / "out", device="cpu", progress=progress)
    rows = TrainFolder(tmp_path / "out").rows(LOG)
    assert rows[-1]["skipped"] == 2  # the dog, in each epoch
    assert rows[-1]["trained"] is not None
    assert "skipped 'a dog'; not finite: the score of train-broken (1 so far)" in progress.lines
    assert all(bool(value.isfinite().all()) for value in weights(tmp_path / "out").values())


def test_run_ends_when_no_sample_is_finite(
    config_for: Callable[..., TrainConfig], tmp_path: Path, toys: Path
) -> None:
    (tmp_path / "dogs.txt").write_text("a dog\n")
    config = config_for(mix=f"{toys}:Broken=1", prompts=str(tmp_path / "dogs.txt"), every=0, updates=50)
    with pytest.raises(TcbenchError, match=r"the last 20 samples .* such as 'a dog'") as caught:
        train(config, tmp_path / "out", device="cpu")
    assert "the score of train-broken" in str(caught.value)
    assert "optimiser.lr" not in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"mix": "{toys}:Constant=1"}, "train-constant gives every image the score 0.5"),
        ({"mix": "{toys}:Bright=1@-5"}, r"train-bright is above its cap -5 \(0"),
    ],
    ids=["constant", "cap"],
)
def test_a_run_without_a_learning_signal_ends_and_names_the_reward_and_a_prompt(
    config_for: Callable[..., TrainConfig],
    tmp_path: Path,
    toys: Path,
    changes: dict[str, Any],
    message: str,
) -> None:
    mix = changes["mix"].format(toys=toys)
    config = config_for(**changes | {"mix": mix, "every": 0, "updates": 50, "batch": 10})
    with pytest.raises(
        ConfigError, match=rf"gradient was 0 for all 20 samples so far, such as 'a .*: {message}"
    ):
        train(config, tmp_path / "out", device="cpu")


def test_reinforcement_learning_goes_on_without_a_learning_signal_and_says_so(
    config_for: Callable[..., TrainConfig], tmp_path: Path, toys: Path, make_notes: Callable[..., Any]
) -> None:
    notes = make_notes()
    config = config_for(
        mix=f"{toys}:Constant=1", algorithm="ddpo", eta=1.0, every=0, batch=10, updates=5, selection_reward=""
    )
    assert train(config, tmp_path / "out", device="cpu", progress=notes).updates == 5
    lines = [line for line in notes.lines if "no learning signal" in line]
    assert ["the last 20 samples" in lines[0], "the last 40 samples" in lines[1]] == [True, True]
    assert all(line.endswith("train-constant gives every image the score 0.5") for line in lines)


def test_a_reward_without_a_learning_signal_is_noted_beside_others(
    config_for: Callable[..., TrainConfig], tmp_path: Path, toys: Path, make_notes: Callable[..., Any]
) -> None:
    notes = make_notes()
    config = config_for(mix=f"{toys}:Red=1,{toys}:Constant=1", every=0, batch=10, updates=3)
    train(config, tmp_path / "out", device="cpu", progress=notes)
    (note,) = [note for note in notes.lines if "no learning signal" in note]
    assert "in the last 20 samples, such as 'a " in note
    assert "train-constant gives every image the score 0.5" in note


def test_a_reward_that_detaches_is_named_with_a_prompt(
    config_for: Callable[..., TrainConfig], tmp_path: Path, toys: Path
) -> None:
    config = config_for(mix=f"{toys}:Detached=1", every=0)
    with pytest.raises(ValueError, match=r"toys.py:Detached returned scores that do not .* \(prompt 'a "):
        train(config, tmp_path / "out", device="cpu")


def test_a_selection_reward_without_scores_is_refused(
    config_for: Callable[..., TrainConfig], tmp_path: Path, toys: Path
) -> None:
    (tmp_path / "dogs.txt").write_text("a dog\n")
    config = config_for(selection_reward=f"{toys}:Broken", validation_prompts=str(tmp_path / "dogs.txt"))
    with pytest.raises(ConfigError, match=r"train-broken has no finite score for any .* such as 'a dog'"):
        train(config, tmp_path / "out", device="cpu")


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"mix": "world-oracle=1"}, WrongRole, "world-oracle has the role 'judge'"),
        ({"mix": "jpeg-compressibility=1"}, ConfigError, "jpeg-compressibility has no gradient"),
        ({"mix": ""}, ConfigError, "no rewards to maximise"),
        ({"selection_reward": "world-oracle"}, Problems, "role 'judge'"),
        ({"parts": ("text_encoder_2",)}, ConfigError, "has no text_encoder_2"),
        ({"parts": ("unet",), "prefix_cache": "cache"}, ConfigError, "requires a frozen prefix"),
        ({"calibration": "none.json"}, ValueError, "is not a calibration file"),
    ],
)
def test_impossible_settings_are_refused_with_one_line(
    config_for: Callable[..., TrainConfig],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    changes: dict[str, Any],
    error: type[Exception],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(error, match=message):
        train(config_for(every=0, **changes), tmp_path / "out", device="cpu")


def test_trained_reward_cannot_select_checkpoints(
    config_for: Callable[..., TrainConfig], tmp_path: Path, toys: Path
) -> None:
    with pytest.raises(ConfigError, match="is trained on"):
        train(config_for(selection_reward=f"{toys}:Red"), tmp_path / "out", device="cpu")


def test_folder_of_another_run_is_not_overwritten(
    config_for: Callable[..., TrainConfig], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    train(config_for(updates=1), out, device="cpu")
    before = weights(out)
    with pytest.raises(ConfigError, match=r"another training run \(optimiser.lr was 0.001, is now 0.1\)"):
        train(config_for(updates=1, lr=0.1), out, device="cpu")
    assert all(torch.equal(value, before[name]) for name, value in weights(out).items())
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "photo.png").write_bytes(b"")
    with pytest.raises(ConfigError, match="is not empty and is not a training run"):
        train(config_for(), tmp_path / "other", device="cpu")


def test_out_of_memory_error_names_settings_that_help(
    config_for: Callable[..., TrainConfig], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")

    monkeypatch.setattr("textcraftor.algorithms.gradient.GradientAlgorithm.step", fail)
    with pytest.raises(
        ConfigError, match=r"lower memory.micro_batch.*checkpointing = true.*the last checkpoint is intact"
    ):
        train(config_for(every=0), tmp_path / "out", device="cpu")


def test_damaged_checkpoint_is_reported(config_for: Callable[..., TrainConfig], tmp_path: Path) -> None:
    out = tmp_path / "out"
    train(config_for(updates=2), out, device="cpu")
    (out / "checkpoints" / "000002" / "checkpoint.json").write_text("{")
    with pytest.raises(ConfigError, match="000002 is not a checkpoint"):
        train(config_for(updates=3), out, device="cpu")


def test_resume_after_sigkill_gives_identical_weights(
    config_for: Callable[..., TrainConfig], tmp_path: Path
) -> None:
    """In two processes, of which one is killed."""
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    script = (
        "import json, sys; from textcraftor.training import TrainConfig, train;"
        "train(TrainConfig.from_record(json.loads(sys.argv[1])), sys.argv[2], device='cpu')"
    )
    record = json.dumps(asdict(config_for(updates=6)))
    plain = [sys.executable, "-W", "ignore", "-c", script, record]
    environment = os.environ | ONE_CORE
    subprocess.run([*plain, str(whole)], env=environment, check=True, capture_output=True)
    command = [*plain, str(killed)]
    for updates in (1, 4):
        process = subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + 120
        while len(TrainFolder(killed).rows(LOG)) < updates and time.monotonic() < deadline:
            assert process.poll() is None, "the run ended before it could be killed"
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
        process.wait()
    subprocess.run(command, env=environment, check=True, capture_output=True)
    assert same(whole, killed)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["SIGINT", "SIGTERM"])
def test_an_interrupted_run_saves_its_last_update_and_resumes_identically(
    config_for: Callable[..., TrainConfig],
    tmp_path: Path,
    number: signal.Signals,
    make_notes: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config = config_for(save_every=50)
    ended: list[bool] = []
    monkeypatch.setattr("accelerate.Accelerator.end_training", lambda accelerator: ended.append(True))

    def interrupt(done: int) -> None:
        if done == 1:  # at the end of an update that is not saved, the next is validated
            signal.raise_signal(number)

    train(config, tmp_path / "whole", device="cpu")
    before = signal.getsignal(number)
    with pytest.raises(KeyboardInterrupt):
        train(config, tmp_path / "parts", device="cpu", progress=make_notes(interrupt))
    assert len(ended) == 2  # trackers write what they hold
    assert signal.getsignal(number) is before
    newest = TrainFolder(tmp_path / "parts").newest()
    assert newest is not None
    assert newest.update == 2  # the update that was under way is finished; its validation comes later
    assert [row["update"] for row in TrainFolder(tmp_path / "parts").rows(VALIDATION)] == [0]
    train(config, tmp_path / "parts", device="cpu")
    assert same(tmp_path / "whole", tmp_path / "parts")
    for log in (LOG, VALIDATION):
        whole, parts = (
            [strip_time(row) for row in TrainFolder(tmp_path / n).rows(log)] for n in ("whole", "parts")
        )
        assert whole == parts


def strip_time(row: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in row.items() if name not in ("seconds", "peak_mib")}


def test_a_second_interruption_ends_a_run_at_once(
    config_for: Callable[..., TrainConfig], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted_twice(*_: Any) -> None:
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)
        pytest.fail("the second signal has no effect")

    monkeypatch.setattr("textcraftor.algorithms.gradient.GradientAlgorithm.step", interrupted_twice)
    with pytest.raises(KeyboardInterrupt):
        train(config_for(every=0), tmp_path / "out", device="cpu")
    assert TrainFolder(tmp_path / "out").newest() is None


def test_a_dry_run_makes_the_checks_of_a_run_and_writes_nothing(
    config_for: Callable[..., TrainConfig], tmp_path: Path
) -> None:
    out, cache = tmp_path / "out", tmp_path / "cache"
    done = train(config_for(prefix_cache=str(cache)), out, device="cpu", dry_run=True)
    assert done.updates == 0
    assert not out.exists()
    assert not cache.exists()
    train(config_for(updates=1, every=0), out, device="cpu")
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*")}
    assert train(config_for(updates=2, every=0), out, device="cpu", dry_run=True).updates == 1
    with pytest.raises(ConfigError, match=r"another training run \(optimiser.lr was 0.001"):
        train(config_for(lr=0.1, every=0), out, device="cpu", dry_run=True)
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*")} == before


def test_everything_that_is_missing_is_reported_together(
    config_for: Callable[..., TrainConfig], tmp_path: Path, toys: Path
) -> None:
    config = config_for(
        mix=f"{toys}:Red=1,world-oracle=1,jpeg-compressibility=1", selection_reward=f"{toys}:Red",
        model="nobody/nothing", prompts="missing.txt", validation_prompts="none.txt", start="nowhere",
        calibration="none.json",
    )  # fmt: skip
    with pytest.raises(Problems) as caught:
        train(config, tmp_path / "out", device="cpu", dry_run=True)
    lines = str(caught.value).splitlines()
    for part in (
        "world-oracle has the role 'judge'", "jpeg-compressibility has no gradient", "none.json is not a",
        "nobody/nothing", "nowhere holds no text encoder", "missing.txt", "none.txt",
    ):  # fmt: skip
        assert sum(part in line for line in lines) == 1, (part, lines)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("dry_run", [False, True])
def test_mistakes_are_reported_before_downloads(
    config_for: Callable[..., TrainConfig], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dry_run: bool
) -> None:
    def snapshot(*_: object, local_files_only: bool, **__: object) -> None:
        assert local_files_only, "nothing may be downloaded"
        raise FileNotFoundError("not in the cache")

    def suite(name: str, fetch: bool) -> PromptSource:
        assert not fetch, "nothing may be downloaded"
        raise MissingFiles(name, download=True)

    for name in ("snapshot_download", "hf_hub_download"):
        monkeypatch.setattr(f"huggingface_hub.{name}", snapshot)
    monkeypatch.setattr("rewards.weights.hub.offline_reason", lambda url="": "")
    (tmp_path / "file").touch()
    config = config_for(
        mix="pickscore=1,world-oracle=1,jpeg-compressibility=1", selection_reward="mps",
        model="nobody/nothing", prompts="suite:parti", validation_prompts="none.txt",
        calibration="none.json", prefix_cache=str(tmp_path / "file"),
    )  # fmt: skip
    with pytest.raises(Problems) as caught:
        train(config, tmp_path / "file", device="cpu", dry_run=dry_run, suites=suite)
    lines = str(caught.value).splitlines()
    mistakes = (
        "give memory.prefix_cache a folder", "give --out a folder", "has the role 'judge'",
        "has no gradient", "none.json", "none.txt",
    )  # fmt: skip
    assert [sum(part in line for line in lines) for part in mistakes] == [1] * len(mistakes), lines
    missing = ["pickscore", "mps", "nobody/nothing", "suite:parti"] if dry_run else []
    assert len(lines) == len(mistakes) + len(missing), lines
    for part in missing:
        assert any(part in line for line in lines[len(mistakes) :]), (part, lines)


def test_missing_pairs_are_reported_with_other_problems(
    config_for: Callable[..., TrainConfig], tmp_path: Path
) -> None:
    config = config_for(algorithm="direct", pairs="nowhere", prompts="", validation_prompts="none.txt")
    with pytest.raises(Problems) as caught:
        train(config, tmp_path / "out", device="cpu", dry_run=True)
    lines = str(caught.value).splitlines()
    for part in ("cannot read nowhere/metadata.jsonl", "none.txt"):
        assert sum(part in line for line in lines) == 1, (part, lines)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"steps": 2000}, "schedule.steps = 2000; the model has 1000 timesteps"),
        ({"steps": 2000, "sampler": "euler"}, "schedule.steps = 2000; the model has 1000 timesteps"),
        ({"size": (9, 16)}, "size = 9x16"),
        ({"trackers": ("nothing",)}, "nothing"),
        ({"vocab_size": 9, "hidden_size": 8}, "another .*: hidden_size 8, not 16, vocab_size 9, not 190;"),
        ({"max_position_embeddings": 9}, "another architecture .*: max_position_embeddings 9, not 16"),
        ({"intermediate_size": 9}, "another architecture .*: intermediate_size 9, not 16"),
        ({"num_attention_heads": 1}, "another architecture .*: num_attention_heads 1, not 2"),
        ({"hidden_act": "gelu"}, "another architecture .*: hidden_act gelu, not quick_gelu"),
    ],
    ids=str,
)
def test_a_dry_run_refuses_what_a_run_would(
    config_for: Callable[..., TrainConfig],
    tmp_path: Path,
    tiny_pipeline: Path,
    changes: dict[str, Any],
    message: str,
) -> None:
    from transformers import CLIPTextConfig, CLIPTextModel

    if changes.keys() <= {"steps", "sampler", "size", "trackers"}:
        config = config_for(**changes)
    else:
        its = CLIPTextConfig.from_pretrained(tiny_pipeline / "text_encoder", **changes)
        CLIPTextModel(its).save_pretrained(tmp_path / "start" / "text_encoder")
        config = config_for(start=str(tmp_path / "start"))
    with pytest.raises(ValueError, match=message):
        train(config, tmp_path / "out", device="cpu", dry_run=True)


def test_a_start_may_differ_in_what_its_text_encoder_does_not_have(
    config_for: Callable[..., TrainConfig], tmp_path: Path, tiny_pipeline: Path
) -> None:
    """Projections belong to other classes, whose configuration is often saved with the weights."""
    from transformers import CLIPTextConfig, CLIPTextModel

    its = CLIPTextConfig.from_pretrained(tiny_pipeline / "text_encoder", projection_dim=9)
    CLIPTextModel(its).save_pretrained(tmp_path / "start" / "text_encoder")
    train(config_for(start=str(tmp_path / "start")), tmp_path / "out", device="cpu", dry_run=True)


def test_default_profile_of_micro_has_a_selection_reward() -> None:
    config = make_config("micro")
    assert config.validation.selection_reward == "world-siglip"
    assert rewards.info(config.validation.selection_reward).role == "selection"


def test_start_from_another_architecture_is_refused(
    config_for: Callable[..., TrainConfig], tmp_path: Path
) -> None:
    from textcraftor.diffusion.pipeline import MICRO

    with pytest.raises(
        ValueError, match=r"another architecture than the pipeline's .* hidden_size 128, not 16"
    ):
        train(config_for(start=str(MICRO)), tmp_path / "out", device="cpu")


def test_trackers_log_every_update(config_for: Callable[..., TrainConfig], tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    train(config_for(trackers=("tensorboard",), every=0), tmp_path / "out", device="cpu")
    events = EventAccumulator(str(tmp_path / "out" / "tcbench"))
    events.Reload()
    assert [event.step for event in events.Scalars("grad_norm")] == [1, 2, 3, 4]
    logged = [row["grad_norm"] for row in TrainFolder(tmp_path / "out").rows(LOG)]
    assert [event.value for event in events.Scalars("grad_norm")] == pytest.approx(logged)


def test_alarm_stops_a_run_permanently(
    config_for: Callable[..., TrainConfig], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "textcraftor.validation.Validation.over_optimisation_alarm",
        lambda now, earlier, name: "too far" if earlier else "",
    )
    config = config_for(selection_reward="world-siglip", stop_on_alarm=True, updates=6)
    done = train(config, tmp_path / "out", device="cpu")
    assert (done.updates, done.alarm) == (2, "too far")
    again = train(config, tmp_path / "out", device="cpu")
    assert (again.updates, again.alarm) == (2, "too far")
    without = train(config_for(selection_reward="world-siglip", updates=6), tmp_path / "free", device="cpu")
    assert without.updates == 6


def test_an_alarm_stops_a_run_permanently_after_an_interruption(
    config_for: Callable[..., TrainConfig],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    make_notes: Callable[..., Any],
) -> None:
    """The validation that raises the alarm is made in the second start, which does not save."""
    monkeypatch.setattr(
        "textcraftor.validation.Validation.over_optimisation_alarm",
        lambda now, earlier, name: "too far" if earlier else "",
    )

    def interrupt(done: int) -> None:
        if done == 1:
            signal.raise_signal(signal.SIGINT)

    config = config_for(selection_reward="world-siglip", stop_on_alarm=True, updates=6)
    with pytest.raises(KeyboardInterrupt):
        train(config, tmp_path / "out", device="cpu", progress=make_notes(interrupt))
    for _ in range(2):
        done = train(config, tmp_path / "out", device="cpu")
        assert (done.updates, done.best, done.alarm) == (2, 2, "too far")
    newest = TrainFolder(tmp_path / "out").newest()
    assert newest is not None
    assert "alarm" not in newest.record


def test_best_is_the_selected_checkpoint(config_for: Callable[..., TrainConfig], tmp_path: Path) -> None:
    done = train(config_for(selection_reward="world-siglip", updates=6), tmp_path / "out", device="cpu")
    rows = TrainFolder(tmp_path / "out").rows(VALIDATION)
    tuned = [Validation.from_row(row) for row in rows if row["update"]]
    assert done.best == Validation.select(tuned, "world-siglip").update
    kept = json.loads((tmp_path / "out" / "best" / "checkpoint.json").read_text())
    assert kept["update"] == done.best
    assert not (tmp_path / "out" / "best" / "state.safetensors").exists()
    assert len(list((tmp_path / "out" / "checkpoints").iterdir())) == 2  # `keep`
