"""Damaged or wrong weights of every layout are a one-line error that names the file or the key."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from safetensors.torch import load_file, save_file

import rewards
from rewards.base import Reward
from rewards.verification.tiny.checkpoints import tiny_record
from tcbench.errors import MismatchError, MissingFiles

State = dict[str, Any]


class Layout(NamedTuple):
    """A reward, the key of one of its weights, and for a folder the file that holds the tensors."""

    reward: str
    key: str
    inside: str = ""


LAYOUTS = {
    "open_clip": Layout("clip", "backbone", "open_clip_model.safetensors"),
    "transformers": Layout("pickscore", "model", "model.safetensors"),
    "half of a SigLIP": Layout("aesthetic-v2.5", "model", "model.safetensors"),
    "checkpoint": Layout("hpsv2", "checkpoint"),
    "flat checkpoint": Layout("imagereward", "checkpoint"),
    "head": Layout("aesthetic-v2", "head"),
    "linear head": Layout("aesthetic-v1", "head"),
    "SigLIP's head": Layout("aesthetic-v2.5", "head"),
}


class Harmful:
    """An object that runs code when it is unpickled."""

    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, ("touch ran-code",)


class Case:
    """Tiny weights of a layout, to be damaged and loaded."""

    def __init__(self, layout: Layout, files: dict[str, Path], folder: Path) -> None:
        self.layout, self.folder = layout, folder
        self.record = tiny_record(rewards.info(layout.reward))
        self.files = dict(files)
        self.given = self.files[layout.key] = folder / files[layout.key].name
        copy = shutil.copytree if layout.inside else shutil.copy
        copy(files[layout.key], self.given)
        self.path = self.given / layout.inside if layout.inside else self.given

    def load(self) -> Reward:
        return rewards.load(self.record, weights=self.files)

    def edit(self, change: Callable[[State, str], None]) -> str:
        """Apply ``change`` to the tensors and one needed key, and return that key."""
        safe = self.path.suffix == ".safetensors"
        content = load_file(self.path) if safe else torch.load(self.path, weights_only=True)
        state = content.get("state_dict", content)
        image_side = [key for key in state if "vis" in key and "_proj." not in key and "position" not in key]
        key = sorted(
            key for key in image_side or state if state[key].ndim and state[key].is_floating_point()
        )[0]
        change(state, key)
        if safe:
            save_file(content, self.path, {"format": "pt"})
        else:
            torch.save(content, self.path)
        return key

    def error(self, kind: type[Exception] = MismatchError) -> str:
        with pytest.raises(kind) as error:
            self.load()
        assert "\n" not in str(error.value)
        return str(error.value)


FOLDERS = [name for name, layout in LAYOUTS.items() if layout.inside]
FILES = [name for name, layout in LAYOUTS.items() if not layout.inside]


@pytest.fixture(params=LAYOUTS)
def case(
    request: pytest.FixtureRequest, tiny_files: Callable[[str], dict[str, Path]], tmp_path: Path
) -> Case:
    layout = LAYOUTS[request.param]
    return Case(layout, tiny_files(layout.reward), tmp_path)


def test_wrong_keys_and_shapes_are_named(case: Case) -> None:
    case.load()
    whole = case.path.read_bytes()

    def shape(state: State, key: str) -> None:
        state[key] = torch.cat([state[key], state[key]])

    damages: list[tuple[Callable[[State, str], Any], str]] = [
        (lambda state, key: state.pop(key), "{key}: missing"),
        (lambda state, key: state.update({f"{key}.more": torch.ones(2)}), "{key}.more: not expected"),
        (shape, "{key}: shape ("),
    ]
    for damage, expected in damages:
        case.path.write_bytes(whole)
        _remove_lock_file(case)
        key = case.edit(damage).removeprefix("vision_model.")  # transformers names the tower without it
        message = expected.format(key=key)
        error = case.error()
        assert message in error
        assert str(case.path if case.layout.inside else case.given) in error


@pytest.mark.parametrize("share", [0.0, 0.5, 0.99])
def test_damaged_file_is_named(case: Case, share: float) -> None:
    content = case.path.read_bytes()
    case.path.write_bytes(content[: int(len(content) * share)])
    assert str(case.path) in case.error()


def test_code_in_a_checkpoint_is_not_run(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(case.folder)
    torch.save({"state_dict": {"weight": Harmful()}, "weight": Harmful()}, case.path)
    message = case.error()
    assert str(case.path) in message
    assert case.layout.inside or "would run posix.system, which weights must not" in message
    assert not (case.folder / "ran-code").exists()


def test_wrong_sha256_names_both_hashes(case: Case) -> None:
    sha256 = "0" * 64
    files = [replace(f, sha256=sha256) if f.key == case.layout.key else f for f in case.record.weights]
    case.record = replace(case.record, weights=tuple(files))
    message = case.error()
    assert str(case.given) in message
    assert f"expected {sha256}" in message


def test_file_given_for_folder_and_folder_for_file_are_refused(case: Case) -> None:
    other = case.folder / "other"
    if case.layout.inside:
        other.write_bytes(case.path.read_bytes())
    else:
        other.mkdir()
    case.files[case.layout.key] = other
    assert f"{other} is not a {'folder' if case.layout.inside else 'file'}" in case.error(MissingFiles)


@pytest.mark.parametrize("case", FOLDERS, indirect=True)
def test_folder_without_valid_configuration_is_refused(case: Case) -> None:
    (configuration,) = case.given.glob("*config.json")
    for text in ("", "[]", '{"model_cfg": 3, "text_config": 3}', "{"):
        configuration.write_text(text, encoding="utf-8")
        _remove_lock_file(case)
        assert str(case.given) in case.error()
    configuration.unlink()
    assert f"{case.given} lacks {configuration.name}" in case.error(MissingFiles)


@pytest.mark.parametrize("case", FILES, indirect=True)
def test_checkpoint_without_tensors_by_name_is_refused(case: Case) -> None:
    torch.save([torch.ones(2)], case.path)
    assert f"{case.path} holds a list; expected tensors by name" in case.error()
    _remove_lock_file(case)
    torch.save({"state_dict": torch.ones(2)}, case.path)
    assert str(case.path) in case.error()


def test_non_tensor_value_is_named(tiny_files: Callable[[str], dict[str, Path]], tmp_path: Path) -> None:
    layout = LAYOUTS["linear head"]
    case = Case(layout, tiny_files(layout.reward), tmp_path)
    case.edit(lambda state, key: state.update({key: 3}))
    assert "bias: a int, not a tensor" in case.error()


def test_known_unused_keys_are_ignored(tiny_files: Callable[[str], dict[str, Path]], tmp_path: Path) -> None:
    """The text tower where only the image tower is built, and position numbers that old versions stored."""
    for name, keys in {
        "half of a SigLIP": ["text_model.more"],
        "transformers": [f"{half}_model.embeddings.position_ids" for half in ("text", "vision")],
    }.items():
        layout = LAYOUTS[name]
        case = Case(layout, tiny_files(layout.reward), tmp_path / layout.reward)
        case.edit(lambda state, _, keys=keys: state.update({key: torch.arange(2)[None] for key in keys}))
        case.load()


@pytest.mark.parametrize(
    ("reward", "key", "inside"),
    [
        ("pickscore", "tokenizer", "vocab.json"),
        ("pickscore", "tokenizer", "tokenizer_config.json"),
        ("imagereward", "vocabulary", ""),
        ("imagereward", "config", ""),
    ],
)
@pytest.mark.parametrize("content", [b"", b"\xff\xfe\x00"])
def test_damaged_tokenizer_or_configuration_is_named(
    tiny_files: Callable[[str], dict[str, Path]],
    tmp_path: Path,
    reward: str,
    key: str,
    inside: str,
    content: bytes,
) -> None:
    case = Case(Layout(reward, key, inside), tiny_files(reward), tmp_path)
    case.path.write_bytes(content)
    assert str(case.given) in case.error()


def _remove_lock_file(case: Case) -> None:
    from rewards.weights.lock import WeightsLock

    WeightsLock().path.unlink(missing_ok=True)
