"""The built wheel: the five packages and nothing else at top level, with all their data."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = {"tcbench", "rewards", "textcraftor", "benchmarks", "leaderboards"}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    """Names of the files in a wheel built from this checkout, without a network."""
    out = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(out), str(ROOT)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    (file,) = out.glob("*.whl")
    return set(zipfile.ZipFile(file).namelist())


def test_top_level_is_the_five_packages(wheel: set[str]) -> None:
    top = {name.partition("/")[0] for name in wheel}
    assert {name for name in top if not name.endswith(".dist-info")} == PACKAGES
    assert len(top) == len(PACKAGES) + 1


def test_everything_tracked_in_the_packages_is_shipped(wheel: set[str]) -> None:
    listed = subprocess.run(
        ["git", "-C", str(ROOT), "ls-files", "-z", *sorted(PACKAGES)], capture_output=True, text=True
    )
    if listed.returncode:
        pytest.skip("not a git checkout: the files to ship are unknown")
    tracked = {name for name in listed.stdout.split("\0") if name and (ROOT / name).exists()}
    assert tracked
    assert tracked <= wheel


@pytest.mark.parametrize(
    "name",
    [
        "rewards/world/weights/world-clip/open_clip_model.safetensors",
        "rewards/world/weights/world-vqa/model.safetensors",
        "textcraftor/micro/pipeline/unet/diffusion_pytorch_model.safetensors",
        "benchmarks/suites/world.jsonl",
    ],
)
def test_embedded_world_is_shipped(wheel: set[str], name: str) -> None:
    assert name in wheel
