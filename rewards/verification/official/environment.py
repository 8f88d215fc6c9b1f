"""Builds an environment from a lock file on demand, and runs a script of the package in it."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from rewards.weights.hub import cache_folder

HERE = Path(__file__).parent
LOCK, RUNNER = HERE / "requirements.lock", HERE / "runner.py"
READY = ".ready"


class OfficialFailed(RuntimeError, ValueError):
    """The other packages could not be installed or did not run; the message ends with what they said."""


def run(job: Mapping[str, Any], runner: Path = RUNNER, lock: Path = LOCK) -> dict[str, Any]:
    """What ``runner`` answers to ``job`` in the environment of ``lock``: the official packages' by default.

    Builds the environment first if need be, which takes a minute and 6 GB. Raises `OfficialFailed`.
    """
    with TemporaryDirectory() as folder:
        ask, answer = Path(folder, "job.json"), Path(folder, "answer.json")
        ask.write_text(json.dumps(job), encoding="utf-8")
        offline = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error", "PYTHONPATH": ""}
        if job.get("device", "cpu") == "cpu":
            offline["CUDA_VISIBLE_DEVICES"] = ""  # where it sees one, hpsv2 scores on it in half precision
        _call([str(interpreter(lock)), "-W", "ignore", str(runner), str(ask), str(answer)], offline)
        found: dict[str, Any] = json.loads(answer.read_text(encoding="utf-8"))
        return found


def interpreter(lock: Path = LOCK) -> Path:
    """The python of the lock's environment, built if it is not there. Raises `OfficialFailed`."""
    home = home_of(lock)
    python = home / "bin" / "python"
    if not (home / READY).is_file():
        shutil.rmtree(home, ignore_errors=True)  # half of one, of a build that was interrupted
        _build(lock, home, python)
    return python


def home_of(lock: Path = LOCK) -> Path:
    """One folder for each lock file and Python, so that a new lock never meets an old environment."""
    name = f"{hashlib.sha256(lock.read_bytes()).hexdigest()[:12]}-py3.{sys.version_info.minor}"
    return Path(os.environ.get("TCBENCH_ENVIRONMENTS") or cache_folder() / "environments") / name


def _build(lock: Path, home: Path, python: Path) -> None:
    uv = shutil.which("uv") or _project_uv()
    print(f"building an environment from {lock.name} in {home}", file=sys.stderr)
    if uv:
        _call([uv, "venv", "--quiet", "--python", sys.executable, str(home)])
        _call([uv, "pip", "sync", "--quiet", "--require-hashes", "--python", str(python), str(lock)])
    else:
        _call([sys.executable, "-m", "venv", str(home)])
        _call([str(python), "-m", "pip", "install", "--quiet", "--require-hashes", "-r", str(lock)])
    if lock == LOCK:
        _add_vocabulary(python)
    (home / READY).touch()


def _project_uv() -> str | None:
    """The uv that `make setup` of a checkout leaves beside the package."""
    uv = HERE.parents[2] / ".tools" / "uv" / "bin" / "uv"
    return str(uv) if uv.is_file() else None


def _add_vocabulary(python: Path) -> None:
    """hpsv2's wheel lacks the file of CLIP's vocabulary, which open_clip's has."""
    ours = find_spec("open_clip")
    assert ours is not None, "open_clip is a dependency"
    assert ours.origin is not None, "open_clip is a package on disk"
    where = "from importlib.util import find_spec; print(find_spec('hpsv2').origin)"
    theirs = Path(_call([str(python), "-c", where]).strip()).parent / "src" / "open_clip"
    name = "bpe_simple_vocab_16e6.txt.gz"
    shutil.copyfile(Path(ours.origin).parent / name, theirs / name)


def _call(command: list[str], variables: Mapping[str, str] | None = None) -> str:
    done = subprocess.run(
        command, capture_output=True, text=True, env={**os.environ, **(variables or {})}, check=False
    )
    if done.returncode:
        said = (done.stderr or done.stdout).strip().splitlines() or ["nothing"]
        raise OfficialFailed(f"{' '.join(command[:4])} ... failed: {' | '.join(said[-3:])}")
    return done.stdout


if __name__ == "__main__":
    print(interpreter())
