"""`tcbench weights` and the column "here" of `tcbench ls rewards`, on a local copy of a hub repository."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import torch

from benchmarks.cli import main
from rewards import registry
from rewards.info import RewardInfo, WeightsFile
from rewards.weights.lock import WeightsLock

Fill = Callable[[Mapping[str, bytes], str], Path]
Command = Callable[..., tuple[int, str, str]]

COMMIT = "abc1" * 10
HEAD = WeightsFile("head", file="head.pth", hub="someone/something", revision=COMMIT, megabytes=4)
PINNED = WeightsFile(
    "eyes", file="eyes.pth", hub="someone/something", sha256=hashlib.sha256(b"eyes").hexdigest()
)
TOY = RewardInfo("toy", entry="nowhere:Toy", weights=(HEAD,))
PAIR = RewardInfo("toy-pair", entry="nowhere:Pair", weights=(HEAD, PINNED))
CONSENTED = RewardInfo("toy-bound", entry="nowhere:Bound", weights=(HEAD,), consent="AGPL-3.0")


@pytest.fixture(autouse=True)
def _toys(monkeypatch: pytest.MonkeyPatch, fill_hub_cache: Fill, tmp_path: Path) -> None:
    """Register test rewards beside those of the world; nothing is downloaded yet."""
    world = {name: record for name, record in registry.BUILTIN.items() if name.startswith("world-")}
    monkeypatch.setattr(registry, "BUILTIN", {r.name: r for r in (TOY, PAIR, CONSENTED)} | world)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("TCBENCH_ACCEPT_LICENCES", raising=False)


@pytest.fixture
def weights(capsys: pytest.CaptureFixture[str]) -> Command:
    """Run `tcbench weights` and return exit code, stdout and stderr."""

    def call(*arguments: object) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as ended:
            main(["weights", *map(str, arguments)])
        out, err = capsys.readouterr()
        return int(ended.value.code or 0), out, err

    return call


def listed(weights: Command, reward: str) -> list[dict[str, str]]:
    code, out, _ = weights("list", "--json")
    assert code == 0
    return [row for row in json.loads(out) if row["reward"] == reward]


def test_list_shows_files_paths_and_checks(weights: Command, fill_hub_cache: Fill) -> None:
    head = {"reward": "toy", "key": "head", "file": "head.pth", "size": "4 MB"}
    head |= {"where": f"someone/something@{COMMIT}", "here": "no", "checked": "not yet"}
    assert listed(weights, "toy") == [head]
    folder = fill_hub_cache({"head.pth": b"head"}, COMMIT)
    head["here"] = str(folder / "head.pth")
    assert listed(weights, "toy") == [head]
    assert not WeightsLock().path.exists(), "listing records nothing"
    assert weights("pull", "toy")[0] == 0
    assert listed(weights, "toy") == [head | {"checked": "locked"}]
    eyes = listed(weights, "toy-pair")[1]
    assert (eyes["here"], eyes["checked"], eyes["size"]) == ("no", "shipped sha256", "")
    assert {row["checked"] for row in listed(weights, "world-clip")} == {"package"}
    lines = weights("list")[1].splitlines()
    assert lines[0].split() == ["reward", "key", "file", "size", "where", "here", "checked"]
    assert any(line.startswith("toy-pair ") for line in lines)


def test_list_uses_the_environment(weights: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "local.pth").write_bytes(b"local")
    monkeypatch.setenv("TCBENCH_WEIGHTS_TOY_HEAD", str(tmp_path / "local.pth"))
    assert listed(weights, "toy")[0]["here"] == str(tmp_path / "local.pth")


def test_pull_prints_paths_and_missing_files(
    weights: Command, fill_hub_cache: Fill, monkeypatch: pytest.MonkeyPatch
) -> None:
    code, out, err = weights("pull", "toy", "world-clip")
    assert code == 1
    assert err.count("\n") == 1
    assert "hf download someone/something head.pth" in err
    assert "world-clip  backbone" in out
    fetched = []

    def download(*_: object, local_files_only: bool, **__: object) -> str:
        fetched.append(local_files_only)
        return str(fill_hub_cache({"head.pth": b"head"}, COMMIT) / "head.pth")

    with monkeypatch.context() as patch:
        patch.setattr("rewards.weights.hub.offline_reason", lambda _: "")
        patch.setattr("huggingface_hub.hf_hub_download", download)
        code, out, err = weights("pull", "toy")
    assert (code, err, fetched[0]) == (0, "", False)
    assert out.startswith("toy  head  ")


def test_pull_all_skips_licences_that_were_not_accepted(weights: Command, fill_hub_cache: Fill) -> None:
    fill_hub_cache({"head.pth": b"head"}, COMMIT)
    fill_hub_cache({"eyes.pth": b"eyes"}, "main")
    code, out, err = weights("pull", "--all")
    assert code == 0
    assert "toy-pair  eyes" in out
    assert "world-blip  checkpoint" in out
    assert err.count("\n") == 1
    assert "toy-bound is under the AGPL-3.0 licence" in err
    assert weights("pull", "toy-bound")[0] == 1
    fill_hub_cache({"eyes.pth": b"wrong"}, "main")
    code, out, err = weights("pull", "--all")
    assert code == 4
    assert "world-blip  checkpoint" in out


def test_missing_weights_are_not_verified(weights: Command, fill_hub_cache: Fill) -> None:
    code, out, err = weights("verify")
    assert code == 0
    assert "0 ok, 0 WRONG" in err
    code, out, err = weights("verify", "toy", "world-clip")
    assert code == 3
    assert "not checked: weights missing" in out
    assert "not checked: part of the package" in out
    fill_hub_cache({"head.pth": b"head"}, COMMIT)
    code, out, err = weights("verify", "toy-pair")
    assert code == 3
    assert "1 ok, 0 WRONG, 1 not checked" in err


def test_verify_hashes_again_and_exits_with_4_on_a_change(
    weights: Command, fill_hub_cache: Fill, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = fill_hub_cache({"head.pth": b"head"}, COMMIT)
    fill_hub_cache({"eyes.pth": b"eyes"}, "main")
    code, out, _ = weights("verify", "toy-pair")
    assert code == 0
    assert "no sha256 was known, recorded now" in out
    assert "ok: as published" in out
    assert "ok: as at first use" in weights("verify", "toy")[1]
    with monkeypatch.context() as patch:  # size and modification time are unchanged
        patch.setattr("rewards.weights.lock._hashes", dict.fromkeys(_stamps(folder), "0" * 64))
        assert "ok: as at first use" in weights("verify", "toy")[1]
    fill_hub_cache({"head.pth": b"tampered"}, COMMIT)
    fill_hub_cache({"eyes.pth": b"wrong"}, "main")
    code, out, err = weights("verify")
    assert code == 4
    assert out.count("WRONG") == 4  # three rewards share the head
    assert f"recorded is {hashlib.sha256(b'head').hexdigest()}" in err
    assert "is not the published eyes.pth" in err


def _stamps(folder: Path) -> list[tuple[Path, int, int]]:
    files = [path.resolve() for path in folder.iterdir()]
    return [(path, path.stat().st_size, path.stat().st_mtime_ns) for path in files]


def test_accept_records_a_change_except_for_published_files(weights: Command, fill_hub_cache: Fill) -> None:
    fill_hub_cache({"head.pth": b"head"}, COMMIT)
    fill_hub_cache({"eyes.pth": b"wrong"}, "main")
    weights("verify", "toy")
    fill_hub_cache({"head.pth": b"new"}, COMMIT)
    assert weights("verify", "toy")[0] == 4
    assert weights("verify", "--accept")[0] == 2
    code, out, _ = weights("verify", "--accept", "toy")
    assert code == 0
    assert f"accepted {hashlib.sha256(b'new').hexdigest()}" in out
    assert weights("verify", "toy")[0] == 0
    assert weights("verify", "--accept", "toy-pair")[0] == 4


def test_run_exits_with_4_on_changed_weights(weights: Command, fill_hub_cache: Fill) -> None:
    fill_hub_cache({"head.pth": b"head"}, COMMIT)
    weights("verify", "toy")
    fill_hub_cache({"head.pth": b"new"}, COMMIT)
    with pytest.raises(SystemExit) as ended:
        main(["run", "--model", "micro", "--rewards", "toy", "--dry-run"])
    assert ended.value.code == 4


def test_invalid_lock_file_is_a_one_line_error(weights: Command, fill_hub_cache: Fill) -> None:
    WeightsLock().path.write_text("{", encoding="utf-8")
    fill_hub_cache({"head.pth": b"head"}, COMMIT)
    for arguments in (["list"], ["verify"], ["pull", "toy"]):
        code, out, err = weights(*arguments)
        assert (code, out, err.count("\n")) == (1, "", 1)
        assert f"error: {WeightsLock().path} is not a lock file" in err


@pytest.mark.parametrize("arguments", [["pull"], ["pull", "toy", "--all"], ["verify", "tiy"], ["convert"]])
def test_bad_usage_exits_with_2(weights: Command, arguments: list[str]) -> None:
    code, out, _ = weights(*arguments)
    assert (code, out) == (2, "")


def test_convert_prints_the_file_and_left_out_keys(weights: Command, tmp_path: Path) -> None:
    torch.save({"state_dict": {"a": torch.ones(2)}, "epoch": 3}, tmp_path / "weights.pt")
    code, out, err = weights("convert", tmp_path / "weights.pt")
    assert (code, out) == (0, f"{tmp_path / 'weights.safetensors'}  1 tensors\n")
    assert "left out keys without tensors: epoch" in err
    code, _, err = weights("convert", tmp_path / "weights.pt")
    assert (code, err.count("\n")) == (1, 1)
    (tmp_path / "torn.pt").write_bytes(b"torn")
    code, _, err = weights("convert", tmp_path / "torn.pt", "--out", tmp_path / "other.safetensors")
    assert (code, err.count("\n")) == (4, 1)
    assert sorted(path.name for path in tmp_path.glob("*.safetensors")) == ["weights.safetensors"]


def test_ls_shows_present_weights_without_reading_them(
    capsys: pytest.CaptureFixture[str], fill_hub_cache: Fill, monkeypatch: pytest.MonkeyPatch
) -> None:
    def here() -> dict[str, str]:
        with pytest.raises(SystemExit):
            main(["ls", "rewards", "--json"])
        return {row["reward"]: row["here"] for row in json.loads(capsys.readouterr().out)}

    monkeypatch.setattr("rewards.weights.lock.WeightsLock.sha256", None)  # nothing is hashed
    assert {here()[name] for name in ("toy", "toy-pair")} == {"no"}
    fill_hub_cache({"head.pth": b"head"}, COMMIT)
    result = here()
    assert (result["toy"], result["toy-pair"], result["world-clip"]) == ("yes", "no", "shipped")
