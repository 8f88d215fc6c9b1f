"""The command and `import tcbench` use the packages of this installation, whatever else is on the path."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import tcbench
from tcbench.aliases import ALIASED
from tcbench.launch import PACKAGES, ROOT, import_package, imported_from

START = "from tcbench.launch import main; main()"


@pytest.fixture
def users_folder(tmp_path: Path) -> Path:
    """A working directory with a user's package `benchmarks` and module `rewards`."""
    (tmp_path / "benchmarks").mkdir()
    (tmp_path / "benchmarks" / "__init__.py").write_text("raise SystemExit('this is the user's own')")
    (tmp_path / "rewards.py").write_text("mine = True\n")
    return tmp_path


def python(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": f"{folder}{os.pathsep}{ROOT}"}
    return subprocess.run(
        [sys.executable, *arguments], cwd=folder, env=environment, capture_output=True, text=True
    )


def test_all_packages_are_imported_from_this_installation() -> None:
    assert all(imported_from(name) == ROOT / name for name in PACKAGES)
    assert all(import_package(name) is sys.modules[name] for name in PACKAGES)
    assert imported_from("no_such_package") is None


def test_packages_are_attributes_of_tcbench() -> None:
    assert set(PACKAGES) == {"tcbench", *ALIASED}
    assert set(tcbench.__all__) == {"__version__", *ALIASED}
    for name in ALIASED:
        assert getattr(tcbench, name) is sys.modules[name]
        assert name in dir(tcbench)
    with pytest.raises(AttributeError, match="no attribute 'reward'"):
        _ = tcbench.reward
    assert tcbench.__version__.count(".") == 2


def test_users_code_on_the_path_does_not_stop_the_command(users_folder: Path) -> None:
    done = python(users_folder, "-c", START, "ls", "models", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)[0]["model"] == "micro"


def test_python_m_tcbench_is_the_command(users_folder: Path) -> None:
    done = python(users_folder, "-m", "tcbench", "--version")
    assert (done.returncode, done.stdout.strip()) == (0, tcbench.__version__), done.stderr


def test_the_module_of_accelerate_launch_runs_once(users_folder: Path) -> None:
    done = python(users_folder, "-W", "error::RuntimeWarning", "-m", "tcbench.launch", "--version")
    assert (done.returncode, done.stdout.strip(), done.stderr) == (0, tcbench.__version__, "")


def test_tcbench_rewards_is_ours_beside_a_users_rewards_module(users_folder: Path) -> None:
    code = "import sys, tcbench; print(tcbench.rewards.__file__, 'torch' in sys.modules)"
    done = python(users_folder, "-c", code)
    assert done.stdout.split() == [str(ROOT / "rewards" / "__init__.py"), "False"], done.stderr


@pytest.mark.parametrize("form", ["import tcbench.rewards", "from tcbench import rewards"])
def test_each_form_of_import_gives_ours_beside_files_of_the_same_names(users_folder: Path, form: str) -> None:
    for name in ("textcraftor", "leaderboards"):
        (users_folder / f"{name}.py").write_text("mine = True\n")
    code = f"""{form}
import tcbench, sys
from tcbench.rewards import load
from tcbench.rewards.info import RewardInfo
from tcbench.textcraftor import make_config
reward = load("world-rule")
assert isinstance(reward.info, RewardInfo) and sys.modules["rewards.info"].RewardInfo is RewardInfo
assert tcbench.rewards is sys.modules["rewards"] is sys.modules["tcbench.rewards"]
assert tcbench.rewards.__spec__.name == "rewards"
print(make_config("micro").model, tcbench.leaderboards.__name__)"""
    (users_folder / "script.py").write_text(code)
    done = python(users_folder, "script.py")
    assert done.stdout.split() == ["micro", "leaderboards"], done.stderr


def test_own_reward_in_a_file_called_rewards_is_scored(users_folder: Path) -> None:
    (users_folder / "rewards.py").write_text(
        "from rewards import Reward\n\nclass Red(Reward):\n"
        "    def _score(self, pixels, prompts):\n        return pixels[:, 0].mean((1, 2))\n"
    )
    code = "import torch, tcbench; r = tcbench.rewards.load('rewards.py:Red')"
    done = python(users_folder, "-c", f"{code}; print(r.score(torch.ones(1, 3, 4, 4), ['a']).item())")
    assert done.stdout.strip() == "1.0", done.stderr


def test_other_modules_of_the_user_are_not_hidden(users_folder: Path) -> None:
    (users_folder / "yaml.py").write_text("mine = True\n")  # the name of an installed package
    done = python(users_folder, "-c", "import tcbench; tcbench.rewards; import yaml; print(yaml.mine)")
    assert done.stdout.strip() == "True", done.stderr


def test_a_users_module_that_is_already_imported_is_named(users_folder: Path) -> None:
    done = python(users_folder, "-c", "import rewards, tcbench; tcbench.benchmarks")
    assert f"module 'rewards' was imported from {users_folder / 'rewards.py'}" in done.stderr.splitlines()[-1]
