"""Rewards that a calibration lacks are measured before training, once per run."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from rewards.combine.calibration import Calibration, RewardStatistics
from rewards.combine.mix import load_mix
from rewards.combine.terms import parse_mix
from rewards.registry import info, load
from tcbench.errors import ConfigError
from textcraftor.config import TrainConfig
from textcraftor.io.checkpoint import TrainFolder
from textcraftor.training import train

# inside diffusers
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

REWARDS = '''
from rewards import Reward, RewardInfo, register

@register(RewardInfo("measured-red", uses_prompt=False))
class Red(Reward):
    """How red an image is."""
    def _score(self, pixels, prompts):
        return pixels[:, 0].mean((1, 2)) - pixels[:, 1:].mean((1, 2, 3))

class Plain(Reward):
    """A reward without a record of its own."""
    def _score(self, pixels, prompts):
        return pixels.mean((1, 2, 3))

class Flat(Reward):
    def _score(self, pixels, prompts):
        return 0.25 + 0 * pixels.mean((1, 2, 3))

class Rare(Reward):
    """NaN for all prompts but one."""
    def _score(self, pixels, prompts):
        scores = pixels.mean((1, 2, 3))
        return scores * pixels.new_tensor([1.0 if "cat" in p else float("nan") for p in prompts])
'''
REWARD = "Red"
PROMPTS = ["a cat", "a dog", "a hen", "a cow", "a pig", "a fox"]
CONFIG = {
    "steps": 2, "tuned_steps": 1, "eval_tuned_steps": 2, "guidance": 3.0, "batch": 2, "updates": 2,
    "every": 0, "save_every": 1, "calibration": "world",
}  # fmt: skip


@pytest.fixture
def few_images(monkeypatch: pytest.MonkeyPatch) -> None:
    """Measure on ten images, to save time."""
    monkeypatch.setattr("textcraftor.calibration._IMAGES", 10, raising=False)


def recorded(folder: Path) -> Mapping[str, Any]:
    record: dict[str, Any] = json.loads((folder / "train.json").read_text(encoding="utf-8"))
    calibration: dict[str, Any] = record["calibration"]
    return calibration


@pytest.mark.parametrize("name", ["Red", "Plain"])
def test_calibration_of_a_run_fits_a_reward_of_ones_own(toys: Path, name: str) -> None:
    """`tcbench calibrate` writes the name of the record; the mix asks by the file."""
    reward = load(f"{toys}:{name}")
    statistics = {reward.info.name: RewardStatistics(0.5, 0.25, 100, reward.score_id)}
    mix = load_mix(f"{toys}:{name}=2", calibration=Calibration(statistics, "world", "5" * 64, "micro", "6"))
    term = mix.terms[f"{toys}:{name}"]
    assert (term.mean, term.std) == (0.5, 0.25)


@pytest.mark.usefixtures("few_images")
def test_own_reward_is_measured_on_training_prompts_and_said_so(
    config_for: Callable[..., TrainConfig], toys: Path, tmp_path: Path, make_notes: Callable[..., Any]
) -> None:
    progress = make_notes()
    config = config_for(mix=f"{toys}:Red=1,world-clip=0.5", updates=1)
    train(config, tmp_path / "out", device="cpu", progress=progress)
    text = "\n".join(progress.lines)
    assert f"calibration 'world' has no {toys}:Red: measuring on 10 images of training prompts" in text
    scale = recorded(tmp_path / "out")
    world = Calibration.read("world").rewards["world-clip"]
    assert scale["world-clip"] == {"mean": world.mean, "std": world.std}
    own = scale[f"{toys}:Red"]
    assert 0 < own["std"] < 1
    (row,) = TrainFolder(tmp_path / "out").rows("log.jsonl")
    expected = (row["reward/measured-red"] - own["mean"]) / own["std"]
    expected += 0.5 * (row["reward/world-clip"] - world.mean) / world.std
    assert row["trained"] == pytest.approx(expected, abs=1e-4)


@pytest.mark.usefixtures("few_images")
def test_resumed_run_uses_the_recorded_scale(
    config_for: Callable[..., TrainConfig],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    make_notes: Callable[..., Any],
) -> None:
    def stop(done: int) -> None:
        if done == 2:
            raise InterruptedError

    with pytest.raises(InterruptedError):
        train(config_for(), tmp_path / "out", device="cpu", progress=make_notes(stop))
    before = recorded(tmp_path / "out")
    monkeypatch.delattr("textcraftor.calibration.MissingCalibration._measure")
    train(config_for(), tmp_path / "out", device="cpu")
    assert recorded(tmp_path / "out") == before


@pytest.mark.usefixtures("few_images")
def test_a_dry_run_says_what_would_be_measured_and_samples_nothing(
    config_for: Callable[..., TrainConfig],
    toys: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    make_notes: Callable[..., Any],
) -> None:
    out = tmp_path / "out"
    train(config_for(updates=1), out, device="cpu")
    monkeypatch.delattr("textcraftor.calibration.MissingCalibration._measure")
    notes = make_notes()
    train(config_for(), tmp_path / "other", device="cpu", dry_run=True, progress=notes)
    assert [line for line in notes.lines if "measured" in line] == [
        f"the calibration 'world' has no {toys}:Red: would be measured on 10 images of training prompts by "
        "the untuned model"
    ]
    assert train(config_for(updates=2), out, device="cpu", dry_run=True).updates == 1
    record = json.loads((out / "train.json").read_text(encoding="utf-8"))
    record["rewards"] = {f"{toys}:Red": "0" * 12}  # another version of the reward, which is measured anew
    (out / "train.json").write_text(json.dumps(record), encoding="utf-8")
    with pytest.raises(ConfigError, match=r"another training run \(different rewards\)"):
        train(config_for(updates=2), out, device="cpu", dry_run=True)


def test_resume_with_a_changed_calibration_file_is_refused(
    config_for: Callable[..., TrainConfig], toys: Path, tmp_path: Path
) -> None:
    file, reward = tmp_path / "scale.json", load(f"{toys}:Red")
    for std in (0.25, 0.5):
        statistics = {reward.info.name: RewardStatistics(0.0, std, 100, reward.score_id)}
        Calibration(statistics, "world", "5" * 64, "micro", "6" * 12).write(file)
        if std == 0.25:
            train(config_for(calibration=str(file)), tmp_path / "out", device="cpu")
    with pytest.raises(ConfigError, match=r"another training run \(different calibration\)"):
        train(config_for(calibration=str(file)), tmp_path / "out", device="cpu")


@pytest.mark.usefixtures("few_images")
@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("Flat", "Flat gives the same score, 0.25, to all 10 images of the untuned model"),
        ("Rare", "Rare has a finite score for only .* of 10 images of training prompts"),
    ],
)
def test_reward_without_a_scale_is_refused(
    config_for: Callable[..., TrainConfig], toys: Path, tmp_path: Path, name: str, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        train(config_for(mix=f"{toys}:{name}=1"), tmp_path / "out", device="cpu")
    assert not (tmp_path / "out" / "train.json").exists()


def test_two_rewards_of_the_same_name_in_a_mix_are_refused(toys: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy.py"
    copy.write_text("from rewards import Reward\nclass Plain(Reward):\n    pass\n")
    assert info(f"{toys}:Plain").name == info(f"{copy}:Plain").name
    with pytest.raises(ConfigError, match="have the same name, Plain"):
        parse_mix(f"{toys}:Plain=1,{copy}:Plain=2")
