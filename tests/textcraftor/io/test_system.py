"""system.toml: it names the base model that a run was trained on."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from tcbench.settings import read_toml
from textcraftor.config import make_config
from textcraftor.diffusion.models import MODELS
from textcraftor.inputs import _trained_on
from textcraftor.io.system import SYSTEM_FILE, write_trained


@pytest.mark.parametrize(
    ("revision", "base"),
    [
        ("@" + str(MODELS["sd15"].source.revision), {"base": "sd15"}),
        ("@other", {"pipeline": MODELS["sd15"].source.location, "revision": "other"}),
        ("", {"pipeline": MODELS["sd15"].source.location}),
    ],
)
def test_a_named_model_is_the_base_at_its_own_revision_only(
    tmp_path: Path, revision: str, base: dict[str, str]
) -> None:
    config = make_config(MODELS["sd15"].source.location + revision)
    write_trained(tmp_path, tmp_path / "best", config, None)
    values = read_toml(tmp_path / SYSTEM_FILE)
    assert {key: values[key] for key in ("base", "pipeline", "revision") if key in values} == base


def test_text_outside_the_basic_plane_is_written_and_read(tmp_path: Path) -> None:
    config = make_config("micro", overrides={"logging.method": "TextCraftor 🎨 \x7f"})
    write_trained(tmp_path, tmp_path / "best 🎨", config, ["world-pick"])
    values = read_toml(tmp_path / SYSTEM_FILE)
    assert values["method"] == "TextCraftor 🎨 \x7f"
    assert values["windows"] == [{"weights": {"best 🎨": 1.0}}]
    later = make_config("micro", overrides={"rewards.mix": "world-hps=1", "trainable.start": str(tmp_path)})
    assert _trained_on(later) == ["world-hps", "world-pick"]


def test_an_own_reward_is_declared_with_the_hash_of_its_file(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text("from rewards import Reward\nclass Mine(Reward):\n    pass\n")
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    config = make_config("micro", overrides={"rewards.mix": f"{file}:Mine=1,world-hps=2"})
    assert _trained_on(config) == [f"custom:Mine@{digest}", "world-hps"]
