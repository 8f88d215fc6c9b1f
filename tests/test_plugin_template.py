"""The template of a plug-in: built, installed beside tcbench, listed, and passing its own test."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
TEMPLATE = ROOT / "docs/plugin-template"

Run = Callable[..., str]


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The template as somebody has copied it."""
    return Path(shutil.copytree(TEMPLATE, tmp_path_factory.mktemp("plugin") / "mine"))


@pytest.fixture(scope="module")
def run(copy: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Runs Python where the template is installed, from a wheel and without a network; gives its output."""
    out, target = tmp_path_factory.mktemp("wheel"), tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(out), str(copy)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    (wheel,) = out.glob("*.whl")
    zipfile.ZipFile(wheel).extractall(target)  # an installer does no more with a pure Python wheel
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, (ROOT, target)))}

    def python(*arguments: str) -> str:
        ran = subprocess.run(
            [sys.executable, *arguments], capture_output=True, text=True, env=environment, cwd=copy / "tests"
        )
        assert ran.returncode == 0, ran.stdout + ran.stderr
        return ran.stdout

    return python


def test_it_is_listed_without_torch(run: Run) -> None:
    listed = run("-c", "from tcbench.launch import main; main()", "ls", "rewards")
    (line,) = [line for line in listed.splitlines() if line.startswith("warmth ")]
    assert {"trainable", "custom", "higher", "MIT"} <= set(line.split())
    run("-c", "import rewards, sys; rewards.info('warmth'); assert 'torch' not in sys.modules")


def test_it_passes_the_test_that_comes_with_it(run: Run) -> None:
    assert "2 passed" in run("-m", "pytest", "-q", "-p", "no:cacheprovider", ".")


def test_its_readme_and_its_files_name_the_same_things() -> None:
    texts = {file.name: file.read_text(encoding="utf-8") for file in TEMPLATE.rglob("*") if file.is_file()}
    assert set(texts) >= {"pyproject.toml", "README.md", "record.py", "reward.py", "test_warmth.py"}
    assert 'warmth = "tcbench_warmth.record:WARMTH"' in texts["pyproject.toml"]
    assert all(name in texts["README.md"] for name in ("tcbench_warmth", "record.py", "reward.py", "_build"))
