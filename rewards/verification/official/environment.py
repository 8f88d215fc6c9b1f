"""Build an environment from a lock file on demand, and run a script in it."""

from __future__ import annotations

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
from tcbench.errors import TcbenchError
from tcbench.files import sha256

_HERE = Path(__file__).parent
_LOCK, _RUNNER = _HERE / "requirements.lock", _HERE / "runner.py"
_READY = ".ready"
"""Written last: an environment without it was interrupted while it was built."""


def run_official(job: Mapping[str, Any], runner: Path = _RUNNER, lock: Path = _LOCK) -> dict[str, Any]:
    """Run a script in a separate environment, and return its answer.

    The environment is built first if necessary, which takes a minute and 6 GB.

    Args:
        job: What the script reads as JSON (see `rewards.verification.official.runner`).
        runner: The script, called with the paths of the job and of the answer.
        lock: The environment's packages with their hashes; by default the official packages.

    Raises:
        TcbenchError: If the environment cannot be built or the script fails; the message ends with what they
            printed last.
    """
    with TemporaryDirectory() as folder:
        job_file, answer_file = Path(folder, "job.json"), Path(folder, "answer.json")
        job_file.write_text(json.dumps(job), encoding="utf-8")
        variables = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error", "PYTHONPATH": ""}
        if job.get("device", "cpu") == "cpu":
            # hpsv2 scores in half precision on any GPU that it sees.
            variables["CUDA_VISIBLE_DEVICES"] = ""
        _call(
            [str(_official_python(lock)), "-W", "ignore", str(runner), str(job_file), str(answer_file)],
            variables,
        )
        answer: dict[str, Any] = json.loads(answer_file.read_text(encoding="utf-8"))
        return answer


def _official_python(lock: Path = _LOCK) -> Path:
    """Return the interpreter of the lock file's environment; build the environment if necessary.

    Raises:
        TcbenchError: If it cannot be built.
    """
    folder = _environment_folder(lock)
    python = folder / "bin" / "python"
    if not _has_environment(lock):
        shutil.rmtree(folder, ignore_errors=True)  # left by an interrupted build
        _build(lock, folder, python)
    return python


def _has_environment(lock: Path = _LOCK) -> bool:
    """Return whether the lock file's environment has been built."""
    return (_environment_folder(lock) / _READY).is_file()


def _environment_folder(lock: Path) -> Path:
    # With the hash in its name, an old environment is never used for a new lock file.
    name = f"{sha256(lock)[:12]}-py3.{sys.version_info.minor}"
    return Path(os.environ.get("TCBENCH_ENVIRONMENTS") or cache_folder() / "environments") / name


def _build(lock: Path, folder: Path, python: Path) -> None:
    uv = shutil.which("uv") or _project_uv()
    print(f"building an environment from {lock.name} in {folder}", file=sys.stderr)
    if uv:
        _call([uv, "venv", "--quiet", "--python", sys.executable, str(folder)])
        sync = [uv, "pip", "sync", "--quiet", "--compile-bytecode", "--require-hashes"]
        _call([*sync, "--python", str(python), str(lock)])
    else:
        _call([sys.executable, "-m", "venv", str(folder)])
        _call([str(python), "-m", "pip", "install", "--quiet", "--require-hashes", "-r", str(lock)])
    if lock == _LOCK:
        _add_vocabulary(python)
    (folder / _READY).touch()


def _project_uv() -> str | None:
    """Return the uv that `make setup` installs into a checkout."""
    uv = _HERE.parents[2] / ".tools" / "uv" / "bin" / "uv"
    return str(uv) if uv.is_file() else None


def _add_vocabulary(python: Path) -> None:
    """Copy the file of CLIP's vocabulary from open_clip: hpsv2's wheel lacks it."""
    ours = find_spec("open_clip")
    assert ours is not None, "open_clip is a dependency"
    assert ours.origin is not None, "open_clip is a package on disk"
    where = "from importlib.util import find_spec; print(find_spec('hpsv2').origin)"
    theirs = Path(_call([str(python), "-c", where]).strip()).parent / "src" / "open_clip"
    name = "bpe_simple_vocab_16e6.txt.gz"
    shutil.copyfile(Path(ours.origin).parent / name, theirs / name)


def _call(command: list[str], variables: Mapping[str, str] | None = None) -> str:
    """Run a command and return its standard output."""
    done = subprocess.run(
        command, capture_output=True, encoding="utf-8", env={**os.environ, **(variables or {})}, check=False
    )
    if done.returncode:
        lines = (done.stderr or done.stdout).strip().splitlines() or ["no output"]
        raise TcbenchError(f"{' '.join(command[:4])} ... failed: {' | '.join(lines[-3:])}")
    return done.stdout


if __name__ == "__main__":
    print(_official_python())
