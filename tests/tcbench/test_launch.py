"""The console script runs its own packages, also beside a user's folders of the same names."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tcbench.launch import PACKAGES, ROOT, imported_from, shadowed

START = f"import sys; sys.path.append({str(ROOT)!r}); from tcbench.launch import main; main()"


@pytest.fixture
def users_folder(tmp_path: Path) -> Path:
    """A working directory with a package `benchmarks` of the user's own."""
    (tmp_path / "benchmarks").mkdir()
    (tmp_path / "benchmarks" / "__init__.py").write_text("raise SystemExit('this is mine')")
    return tmp_path


def test_all_four_packages_are_this_installation() -> None:
    assert shadowed() == {}
    assert all(imported_from(name) == ROOT / name for name in PACKAGES)
    assert imported_from("no_such_package") is None


def test_a_users_package_on_the_path_does_not_stop_the_command(users_folder: Path) -> None:
    environment = os.environ | {"PYTHONPATH": str(users_folder)}
    done = subprocess.run(
        [sys.executable, "-c", START, "ls", "models", "--json"],
        cwd=users_folder, env=environment, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)[0]["model"] == "micro"
