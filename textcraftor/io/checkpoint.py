"""The folder of a training run: its record, its logs, its checkpoints, each whole or not there at all.

train.json          configuration, what it was trained on, environments
log.jsonl           a line an update
validation.jsonl    a line a validation
samples/            pictures of validation prompts
checkpoints/000050/ state.safetensors (to go on from), text_encoder/ ... (to draw with), checkpoint.json
best/               the checkpoint that was chosen
system.toml         what `tcbench run --model FOLDER` draws with
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tcbench.errors import ConfigError
from tcbench.files import LOCK_FILE, append_lines, new_folder, read_lines, restore_folder, write_atomically
from textcraftor.config import TrainConfig

if TYPE_CHECKING:
    from torch import Tensor

RECORD, STATE, CHECKPOINT = "train.json", "state.safetensors", "checkpoint.json"
DECIDE = ("pipeline_sha256", "prompts_sha256", "start_sha256", "rewards")
"""Entries of the record in which a run that is gone on with must be as it was, beside its configuration."""

LOG, VALIDATION = "log.jsonl", "validation.jsonl"


@dataclass(frozen=True)
class Checkpoint:
    """A complete checkpoint."""

    path: Path
    update: int
    """Updates that were made."""
    record: Mapping[str, Any]

    def tensors(self, device: str) -> dict[str, Tensor]:
        """What training goes on from."""
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            return load_file(self.path / STATE, device=device)
        except (SafetensorError, OSError) as error:
            raise ConfigError(
                f"{self.path / STATE} is damaged ({error}); remove {self.path} to go on from an earlier one"
            ) from error


class TrainFolder:
    """A training run on disk. One process writes it."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def begin(self, record: Mapping[str, Any]) -> None:
        """Write what is trained, or check that the folder is of the very same.

        ``record`` has the "config", and an "environment" that is added to those of earlier starts. Raises
        ConfigError for a folder of another run.
        """
        restore_folder(self.path / "best")
        file = self.path / RECORD
        known = json.loads(file.read_text(encoding="utf-8")) if file.exists() else None
        if known is None and self.path.is_dir() and {file.name for file in self.path.iterdir()} - {LOCK_FILE}:
            raise ConfigError(f"{self.path} holds other things than a training run: choose another --out")
        if known is not None and (differences := _differences(known, record)):
            raise ConfigError(
                f"{self.path} is of another training run ({'; '.join(differences[:3])}): choose another "
                "--out, or remove it"
            )
        environments = list(known["environments"]) if known else []
        if record["environment"] not in environments:
            environments.append(record["environment"])
        merged = {k: v for k, v in record.items() if k != "environment"} | {"environments": environments}
        self.path.mkdir(parents=True, exist_ok=True)
        write_atomically(file, (json.dumps(merged, indent=1) + "\n").encode())

    def newest(self) -> Checkpoint | None:
        """The checkpoint to go on from."""
        found = sorted((self.path / "checkpoints").glob("[0-9]*"))
        return read_checkpoint(found[-1]) if found else None

    def save(
        self,
        update: int,
        tensors: Mapping[str, Tensor],
        record: Mapping[str, Any],
        write: Callable[[Path], None],
        keep: int,
    ) -> Path:
        """A checkpoint after ``update`` updates; ``write`` adds what is drawn with. Keeps the newest few."""
        path = self.path / "checkpoints" / f"{update:06d}"
        with new_folder(path) as temporary:
            from safetensors import SafetensorError
            from safetensors.torch import save_file

            try:
                save_file({name: value.contiguous() for name, value in tensors.items()}, temporary / STATE)
                write(temporary)
            except SafetensorError as error:  # no OSError, also where the disk is full
                raise ConfigError(f"cannot write {path} ({error}); earlier checkpoints are whole") from error
            (temporary / CHECKPOINT).write_text(
                json.dumps({"update": update, **record}, indent=1) + "\n", encoding="utf-8"
            )
        for old in sorted(path.parent.glob("[0-9]*"))[:-keep]:
            shutil.rmtree(old)
        return path

    def choose(self, checkpoint: Path) -> None:
        """Make a checkpoint the run's best, without what only going on needs."""
        with new_folder(self.path / "best") as temporary:
            shutil.copytree(checkpoint, temporary, dirs_exist_ok=True, ignore=shutil.ignore_patterns(STATE))

    def append(self, name: str, rows: Iterable[Mapping[str, Any]]) -> None:
        """Add lines to a log."""
        append_lines(self.path / name, rows)

    def rows(self, name: str) -> list[dict[str, Any]]:
        """The lines of a log."""
        return list(read_lines(self.path / name))

    def forget_after(self, update: int) -> None:
        """Drop the lines of what comes after ``update`` updates: it is lost and done again."""
        for name, last in ((LOG, update - 1), (VALIDATION, update)):
            rows = self.rows(name)
            kept = [row for row in rows if row["update"] <= last]
            if len(kept) < len(rows):
                content = "".join(json.dumps(row) + "\n" for row in kept)
                write_atomically(self.path / name, content.encode())


def read_checkpoint(path: Path) -> Checkpoint:
    """The checkpoint in a folder. Raises ConfigError for a damaged one."""
    try:
        record = json.loads((path / CHECKPOINT).read_text(encoding="utf-8"))
        return Checkpoint(path, int(record["update"]), record)
    except (OSError, ValueError, KeyError) as error:
        raise ConfigError(
            f"{path} is no checkpoint ({error}); remove it to go on from an earlier one"
        ) from error


def _differences(known: Mapping[str, Any], record: Mapping[str, Any]) -> list[str]:
    """The settings in which two runs differ, as words; fields that an older version lacked are at their
    default in it.
    """
    was, now = _decisive(known["config"]), _decisive(record["config"])
    found = [
        f"{name} {was.get(name)!r}, now {now.get(name)!r}"
        for name in {**was, **now}
        if was.get(name) != now.get(name)
    ]
    other = [name for name in DECIDE if known.get(name) != record.get(name)]
    return [*found, *(f"another {name.removesuffix('_sha256')}" for name in other)]


def _decisive(config: Mapping[str, Any]) -> dict[str, Any]:
    """What decides the weights, of a configuration as JSON has it; what no field knows any more stays."""
    names = {field.name for field in fields(TrainConfig)}
    values: dict[str, Any] = {n: tuple(v) if isinstance(v, list) else v for n, v in config.items()}
    gone = {name: value for name, value in config.items() if name not in names}
    return TrainConfig(**{name: value for name, value in values.items() if name in names}).decisive() | gone
