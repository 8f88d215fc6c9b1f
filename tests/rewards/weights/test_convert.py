"""A converted checkpoint has the same tensors and scores and is accepted in place of the original."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import rewards
from rewards.info import RewardInfo, WeightsFile
from rewards.verification.tiny.checkpoints import tiny_record
from rewards.weights.convert import convert_checkpoint
from rewards.weights.locate import _environment_variable, content_id, locate_weights
from rewards.weights.lock import WeightsLock
from rewards.weights.tensors import read_tensors
from tcbench.errors import MismatchError

FILE = WeightsFile("checkpoint", file="weights.pt", hub="someone/something")


@pytest.mark.parametrize(("name", "key"), [("hpsv2", "checkpoint"), ("imagereward", "checkpoint"),
                                           ("aesthetic-v2", "head")])  # fmt: skip
def test_converted_file_gives_identical_scores(
    tiny_files: Callable[[str], dict[str, Path]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    key: str,
) -> None:
    record, files = tiny_record(rewards.info(name)), tiny_files(name)
    images, prompts = torch.rand(2, 3, 48, 64), ["a red circle", "a blue square"]
    before = rewards.load(record, weights=files).score(images, prompts)
    converted = convert_checkpoint(files.pop(key), tmp_path / "converted.safetensors")
    assert converted.left_out == ()
    monkeypatch.setenv(_environment_variable(record.name, key), str(converted.path))
    assert torch.equal(rewards.load(record, weights=files).score(images, prompts), before)


def test_converted_file_reads_like_the_original(tmp_path: Path) -> None:
    whole = torch.arange(12.0).reshape(3, 4)
    content = {
        "state_dict": {"a.weight": whole, "again": whole, "row": whole[1], "turned": whole.T},
        "half": torch.nn.Parameter(torch.ones(2, dtype=torch.bfloat16)),
        "count": torch.tensor(7),
        "none": torch.zeros(0, 3),
    }
    torch.save(content, tmp_path / "weights.pt")
    converted = convert_checkpoint(tmp_path / "weights.pt")
    assert converted == (tmp_path / "weights.safetensors", 7, ())
    assert "state_dict.a.weight" in load_file(converted.path)
    old, new = (read_tensors(tmp_path / f"weights.{suffix}") for suffix in ("pt", "safetensors"))
    assert old.keys() == new.keys()
    for left, right in ((old, new), (old["state_dict"], new["state_dict"])):
        for key, tensor in left.items():
            if key != "state_dict":
                assert tensor.dtype == right[key].dtype
                assert torch.equal(tensor, right[key])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["weights.pt", "weights.safetensors"]


def test_keys_without_tensors_are_named(tmp_path: Path) -> None:
    content = {"state_dict": {"a": torch.ones(1), "version": 2}, "epoch": 3, "optimizer": {"state": {0: {}}}}
    torch.save(content, tmp_path / "weights.pt")
    converted = convert_checkpoint(tmp_path / "weights.pt")
    assert converted.left_out == ("state_dict.version", "epoch", "optimizer")
    assert read_tensors(converted.path).keys() == {"state_dict"}


def test_converted_file_is_accepted_where_it_was_made_and_forgery_is_not(tmp_path: Path) -> None:
    torch.save({"a": torch.ones(2)}, tmp_path / "weights.pt")
    record = RewardInfo("toy", weights=(replace(FILE, sha256=WeightsLock().sha256(tmp_path / "weights.pt")),))
    converted = convert_checkpoint(tmp_path / "weights.pt").path
    assert locate_weights(record, {"checkpoint": converted}) == {"checkpoint": converted}
    moved = converted.rename(tmp_path / "elsewhere.safetensors")
    assert locate_weights(record, {"checkpoint": moved}) == {"checkpoint": moved}
    assert content_id(FILE, moved) != record.weights[0].sha256, "a score's id names what was really used"
    claims = {"tcbench.source_sha256": record.weights[0].sha256}
    save_file({"a": torch.zeros(2)}, tmp_path / "forged.safetensors", claims)
    with pytest.raises(MismatchError, match="convert it on this machine: tcbench weights convert"):
        locate_weights(record, {"checkpoint": tmp_path / "forged.safetensors"})
    save_file({"a": torch.zeros(2)}, moved, claims)
    with pytest.raises(MismatchError, match=r"elsewhere\.safetensors is not the published weights\.pt"):
        locate_weights(record, {"checkpoint": moved})


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    torch.save({"a": torch.ones(2)}, tmp_path / "weights.pt")
    (tmp_path / "weights.safetensors").write_bytes(b"precious")
    with pytest.raises(ValueError, match=r"weights\.safetensors exists; remove it, or .* --out"):
        convert_checkpoint(tmp_path / "weights.pt")
    assert (tmp_path / "weights.safetensors").read_bytes() == b"precious"
    assert len(list(tmp_path.iterdir())) == 2


def test_failed_write_leaves_nothing(tmp_path: Path) -> None:
    torch.save({"a": torch.ones(2)}, tmp_path / "weights.pt")
    with pytest.raises(OSError, match=r"converted\.safetensors.* cannot be written"):
        convert_checkpoint(tmp_path / "weights.pt", tmp_path / "nowhere/converted.safetensors")
    assert [path.name for path in tmp_path.iterdir()] == ["weights.pt"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([torch.ones(1)], "holds a list"),
        ({"epoch": 3}, "holds no tensors by name"),
        ({"a.b": {"c": torch.ones(1)}}, r"would be ambiguous: a\.b"),
        ({"a": {"b": torch.ones(1)}, "a.b": torch.ones(1)}, r"would be ambiguous: a\.b"),
        ({"a": torch.eye(2).to_sparse()}, "a is sparse or quantized"),
    ],
)
@pytest.mark.filterwarnings("ignore:.*[Ss]parse.*:UserWarning")
def test_unconvertible_checkpoint_is_a_one_line_error(tmp_path: Path, content: object, message: str) -> None:
    torch.save(content, tmp_path / "weights.pt")
    with pytest.raises(MismatchError, match=message) as error:
        convert_checkpoint(tmp_path / "weights.pt")
    assert "\n" not in str(error.value)
    assert [path.name for path in tmp_path.iterdir()] == ["weights.pt"]


@pytest.mark.parametrize(
    ("source", "out"), [("a.safetensors", None), ("a.pt", "b.pt"), ("missing.pt", None), (".", None)]
)
def test_only_checkpoint_to_safetensors_is_supported(tmp_path: Path, source: str, out: str | None) -> None:
    for name in ("a.safetensors", "a.pt"):
        (tmp_path / name).write_bytes(b"")
    with pytest.raises(ValueError, match=r"is not a file|cannot convert|exists") as error:
        convert_checkpoint(tmp_path / source, tmp_path / out if out else None)
    assert "\n" not in str(error.value)
