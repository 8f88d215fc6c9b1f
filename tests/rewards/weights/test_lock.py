"""Weights that changed since their first use are refused."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import pytest

import rewards
from rewards.info import RewardInfo, WeightsFile
from rewards.weights import lock
from rewards.weights.locate import content_id, locate_weights
from rewards.weights.lock import LOCK_VARIABLE, WeightsLock
from tcbench.errors import FileFormatError, MismatchError

Fill = Callable[[Mapping[str, bytes], str], Path]

HEAD = WeightsFile("head", file="head.pth", hub="someone/something")
FOLDER = WeightsFile("model", patterns=("config.json", "*.safetensors"), hub="someone/something")
INFO = RewardInfo("toy", weights=(HEAD,))


def sha(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def recorded() -> dict[str, str]:
    """Recorded sha256 by origin, read from the file."""
    if not WeightsLock().path.exists():
        return {}
    tables = json.loads(WeightsLock().path.read_text(encoding="utf-8"))
    return {origin: entry["sha256"] for origin, entry in tables["weights"].items()}


def change(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    os.utime(path, ns=(1, len(content)))


def test_change_after_first_use_is_refused_until_accepted(tmp_path: Path) -> None:
    path = tmp_path / "head.pth"
    change(path, b"first")
    for _ in range(2):
        assert locate_weights(INFO, {"head": path}) == {"head": path}
    assert recorded() == {str(path): sha(b"first")}
    change(path, b"second")
    with pytest.raises(MismatchError) as error:
        locate_weights(INFO, {"head": path})
    message = str(error.value)
    assert "\n" not in message
    for part in (
        path,
        sha(b"first"),
        sha(b"second"),
        "tcbench weights verify --accept toy",
        WeightsLock().path,
    ):
        assert str(part) in message
    assert recorded() == {str(path): sha(b"first")}
    WeightsLock().accept(str(path), sha(b"second"))
    locate_weights(INFO, {"head": path})


def test_removed_entry_is_recorded_again(tmp_path: Path) -> None:
    path = tmp_path / "head.pth"
    change(path, b"first")
    locate_weights(INFO, {"head": path})
    tables = json.loads(WeightsLock().path.read_text(encoding="utf-8"))
    del tables["weights"][str(path)]
    WeightsLock().path.write_text(json.dumps(tables), encoding="utf-8")
    change(path, b"second")
    locate_weights(INFO, {"head": path})
    assert recorded() == {str(path): sha(b"second")}


def test_local_copies_are_recorded_by_the_given_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("one.pth", "two.pth"):
        (tmp_path / name).write_text(name, encoding="utf-8")
    link = tmp_path / "head.pth"
    link.symlink_to("one.pth")
    monkeypatch.setenv("TCBENCH_WEIGHTS_TOY_HEAD", str(link))
    locate_weights(INFO)
    link.unlink()
    link.symlink_to("two.pth")
    with pytest.raises(MismatchError, match=r"head\.pth has changed since toy first used it"):
        locate_weights(INFO)


def test_moved_hub_branch_is_refused(fill_hub_cache: Fill) -> None:
    folder = fill_hub_cache({"head.pth": b"first"}, "main")
    located = locate_weights(INFO)
    assert recorded() == {"someone/something@main/head.pth": sha(b"first")}
    assert locate_weights(INFO, located) == located, "located paths that are given again keep their origin"
    assert len(recorded()) == 1
    fill_hub_cache({"head.pth": b"second"}, "main")
    with pytest.raises(MismatchError, match=r"someone/something@main/head\.pth"):
        locate_weights(INFO)
    assert folder.exists()


def test_folder_is_recorded_by_its_needed_files(fill_hub_cache: Fill) -> None:
    fill_hub_cache({"config.json": b"{}", "model.safetensors": b"one", "head.pth": b"head"}, "main")
    record = RewardInfo("toy", weights=(FOLDER, HEAD, replace(FOLDER, key="settings", patterns=("*.json",))))
    located = locate_weights(record)
    names = [f"someone/something@main{rest}" for rest in (" [config.json, *.safetensors]", "/head.pth")]
    assert list(recorded()) == [*names, "someone/something@main [*.json]"]
    assert recorded()[names[0]] == content_id(FOLDER, located["model"])
    fill_hub_cache({"README.md": b"hello"}, "main")
    locate_weights(record)
    fill_hub_cache({"config.json": b"{ }"}, "main")
    with pytest.raises(MismatchError, match="has changed since toy first used it"):
        locate_weights(record)


def test_published_and_packaged_weights_are_not_recorded(tmp_path: Path) -> None:
    path = tmp_path / "head.pth"
    path.write_bytes(b"head")
    locate_weights(replace(INFO, weights=(replace(HEAD, sha256=sha(b"head")),)), {"head": path})
    located = locate_weights(rewards.info("world-aesthetic"))
    locate_weights(rewards.info("world-aesthetic"), located)
    assert recorded() == {}


@pytest.mark.parametrize(
    "text",
    [
        "",
        '{"version": 1, "weights": {',
        "[]",
        '{"name": "some-package", "lockfileVersion": 3}',
        '{"version": 2, "weights": {}, "converted": {}, "files": {}}',
        '{"version": 1, "weights": {}, "converted": {}}',
        '{"version": 1, "weights": {"a": {"sha256": "1234"}}, "converted": {}, "files": {}}',
        '{"version": 1, "weights": {"a": "1234"}, "converted": {}, "files": {}}',
    ],
)
def test_invalid_lock_file_is_refused_and_kept(tmp_path: Path, text: str) -> None:
    (tmp_path / "head.pth").write_bytes(b"head")
    WeightsLock().path.write_text(text, encoding="utf-8")
    with pytest.raises(
        FileFormatError, match=r"is not a lock file of tcbench's weights: .*; remove it"
    ) as error:
        locate_weights(INFO, {"head": tmp_path / "head.pth"})
    assert str(WeightsLock().path) in str(error.value)
    assert "\n" not in str(error.value)
    assert WeightsLock().path.read_text(encoding="utf-8") == text


def test_folder_as_lock_file_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(LOCK_VARIABLE, str(tmp_path))
    with pytest.raises(FileFormatError, match=r"cannot be read .*set TCBENCH_WEIGHTS_LOCK to a file"):
        WeightsLock().recorded()


def test_default_lock_file_is_in_the_users_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(LOCK_VARIABLE)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert WeightsLock().path == tmp_path / "home/.cache/tcbench/weights.lock.json"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert WeightsLock().path == tmp_path / "cache/tcbench/weights.lock.json"
    WeightsLock().first_use("a", sha(b"a"))
    assert list(recorded()) == ["a"]


@pytest.mark.parametrize("where", ["read-only", "no folder"])
def test_unwritable_lock_file_is_noted_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], where: str
) -> None:
    path = tmp_path / "head.pth"
    path.write_bytes(b"head")
    WeightsLock().first_use("known", sha(b"known"))
    if where == "no folder":
        monkeypatch.setenv(LOCK_VARIABLE, str(path / "weights.lock.json"))
    else:

        def read_only(*_: object) -> None:
            raise OSError(errno.EROFS, os.strerror(errno.EROFS))

        monkeypatch.setattr("rewards.weights.lock.os.replace", read_only)
    for _ in range(2):
        locate_weights(INFO, {"head": path})
    line = capsys.readouterr().err
    assert line.count("\n") == 1
    assert f"note: {WeightsLock().path} cannot be written" in line
    assert LOCK_VARIABLE in line
    with pytest.raises(OSError, match=r"head|Read-only"):
        WeightsLock().accept(str(path), sha(b"head"))
    if where == "read-only":
        assert list(recorded()) == ["known"]
        assert WeightsLock().first_use("known", sha(b"other")) == sha(b"known")


WRITING = """
import sys
from rewards.weights.lock import WeightsLock
for number in range(20):
    WeightsLock().first_use(f"{sys.argv[1]} {number}", "0" * 64)
    WeightsLock().first_use("all", sys.argv[1] * 64)
"""


def test_concurrent_writers_lose_no_entries() -> None:
    root = Path(rewards.__file__).parent.parent
    running = [subprocess.Popen([sys.executable, "-c", WRITING, name], cwd=root) for name in "abc"]
    assert [process.wait() for process in running] == [0, 0, 0]
    entries = recorded()
    assert len(entries) == 61
    assert entries["all"] in {name * 64 for name in "abc"}
    assert WeightsLock().first_use("all", "d" * 64) == entries["all"]


@pytest.fixture
def large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file that counts as large and was not modified recently."""
    monkeypatch.setattr(lock, "_LARGE_BYTES", 4)
    change(tmp_path / "large", b"large")
    return tmp_path / "large"


@pytest.fixture
def new_process(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Clear this process's hashes."""
    return lambda: monkeypatch.setattr(lock, "_hashes", {})


def test_large_file_is_hashed_again_only_when_it_changes(
    large: Path, new_process: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    hashed = []
    digest = hashlib.file_digest
    monkeypatch.setattr(hashlib, "file_digest", lambda f, name: hashed.append(f.name) or digest(f, name))
    for _ in range(3):
        new_process()
        assert WeightsLock().sha256(large) == sha(b"large")
    assert hashed == [str(large)]
    change(large, b"larger")
    new_process()
    assert WeightsLock().sha256(large) == sha(b"larger")
    assert len(hashed) == 2


def test_fresh_hash_detects_change_with_equal_size_and_time(
    large: Path, new_process: Callable[[], None]
) -> None:
    WeightsLock().sha256(large)
    change(large, b"LARGE")
    new_process()
    assert WeightsLock().sha256(large) == sha(b"large")
    assert WeightsLock().sha256(large, fresh=True) == sha(b"LARGE")
    assert WeightsLock().sha256(large) == sha(b"LARGE")
    new_process()
    assert WeightsLock().sha256(large) == sha(b"LARGE")


def test_hashes_of_small_or_recent_files_are_not_kept(large: Path, tmp_path: Path) -> None:
    for path, content in ((tmp_path / "small", b"abc"), (tmp_path / "new", b"large")):
        path.write_bytes(content)
        assert WeightsLock().sha256(path) == sha(content)
    assert WeightsLock().cached_files() == {}
    WeightsLock().sha256(large)
    assert list(WeightsLock().cached_files()) == [str(large)]


def test_hashes_of_deleted_files_are_removed(large: Path, tmp_path: Path) -> None:
    WeightsLock().sha256(large)
    large.unlink()
    change(tmp_path / "another", b"another")
    WeightsLock().sha256(tmp_path / "another")
    assert list(WeightsLock().cached_files()) == [str(tmp_path / "another")]
