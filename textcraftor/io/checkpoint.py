"""The folder of a training run: its record, logs and checkpoints. A checkpoint is complete or absent.

train.json          configuration, hashes of everything that decides the weights, environments
log.jsonl           one line per update
validation.jsonl    one line per validation
samples/            images of validation prompts
curves.png          rewards, gradient norm and drift by update
checkpoints/000050/ state.safetensors (to resume from), text_encoder/ ... (to sample with), checkpoint.json
best/               the selected checkpoint
system.toml         description of the system for `tcbench run --model FOLDER`
"""

from __future__ import annotations

import json
import shutil
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tcbench.errors import ConfigError
from tcbench.files import (
    LOCK_FILE,
    append_lines,
    check_writable,
    new_folder,
    read_lines,
    write_atomically,
)
from tcbench.settings import build_settings
from textcraftor.config import TrainConfig
from textcraftor.old_names import current_layout, flatten_settings, nest_settings

if TYPE_CHECKING:
    from torch import Tensor

RECORD, STATE, CHECKPOINT = "train.json", "state.safetensors", "checkpoint.json"
LOG, VALIDATION = "log.jsonl", "validation.jsonl"

DECISIVE_ENTRIES = ("pipeline_sha256", "prompts_sha256", "start_sha256", "rewards", "calibration")
"""Entries of train.json, beside the configuration, that must be unchanged when a run is resumed. One that an
earlier version did not write, or a dry run does not measure, is not compared."""


NOT_DECISIVE = (
    "logging.method", "logging.save_every", "logging.keep", "logging.trackers", "optimiser.updates",
    "memory.prefix_cache", "memory.prefix_gigabytes", "memory.offload",
)  # fmt: skip
"""Fields that may change when a run is resumed: they do not change its weights."""


@dataclass(frozen=True)
class Checkpoint:
    """A complete checkpoint."""

    path: Path
    update: int
    """Number of updates before it."""
    record: Mapping[str, Any]
    """Content of checkpoint.json."""

    def tensors(self, device: str) -> dict[str, dict[str, Tensor]]:
        """Load the state that training resumes from.

        Returns:
            The groups that `TrainFolder.save` was given; one that was empty is empty.

        Raises:
            ConfigError: If the file is damaged.
        """
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        groups: dict[str, dict[str, Tensor]] = defaultdict(dict)
        try:
            for key, value in load_file(self.path / STATE, device=device).items():
                group, _, name = key.partition(".")
                groups[group][name] = value
            return groups
        except (SafetensorError, OSError) as error:
            raise ConfigError(
                f"{self.path / STATE} is damaged ({error}); remove {self.path} to resume from an earlier "
                "checkpoint"
            ) from error

    @staticmethod
    def read(path: Path) -> Checkpoint:
        """Read the checkpoint in a folder.

        Raises:
            ConfigError: If it is damaged.
        """
        try:
            record = json.loads((path / CHECKPOINT).read_text(encoding="utf-8"))
            return Checkpoint(path, int(record["update"]), record)
        except (OSError, ValueError, KeyError) as error:
            raise ConfigError(
                f"{path} is not a checkpoint ({error}); remove it to resume from an earlier one"
            ) from error


class TrainFolder:
    """A training run on disk. One process writes it."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def record(self) -> dict[str, Any]:
        """Return the content of train.json; empty if there is none."""
        file = self.path / RECORD
        return dict(json.loads(file.read_text(encoding="utf-8"))) if file.exists() else {}

    def check(self, record: Mapping[str, Any]) -> None:
        """Check that the folder can be written, and is new or holds the same run.

        Args:
            record: Entries of train.json; those that are not known yet may be left out.

        Raises:
            ConfigError: If not.
        """
        check_writable(self.path)
        known = self.record()
        if not known and _has_files(self.path):
            raise ConfigError(f"{self.path} is not empty and is not a training run; choose another --out")
        if known and (differences := _differences(known, record)):
            raise ConfigError(
                f"{self.path} holds another training run ({'; '.join(differences[:3])}); choose another "
                "--out, or remove the folder"
            )

    def begin(self, record: Mapping[str, Any], *, write: bool = True) -> None:
        """Write train.json, or check that the folder holds the same run.

        Args:
            record: Entries of train.json; its "environment" is added to those of earlier starts.
            write: Whether to write; otherwise the folder is only checked.

        Raises:
            ConfigError: If the folder holds another run or other files.
        """
        self.check(record)
        known = self.record()
        if not write:
            return
        environments = list(known["environments"]) if known else []
        if record["environment"] not in environments:
            environments.append(record["environment"])
        merged = {k: v for k, v in record.items() if k != "environment"} | {"environments": environments}
        self.path.mkdir(parents=True, exist_ok=True)
        write_atomically(self.path / RECORD, (json.dumps(merged, indent=1) + "\n").encode())

    def newest(self) -> Checkpoint | None:
        """Return the checkpoint to resume from; None if there is none."""
        folders = sorted((self.path / "checkpoints").glob("[0-9]*"))
        return Checkpoint.read(folders[-1]) if folders else None

    def save(
        self,
        update: int,
        tensors: Mapping[str, Mapping[str, Tensor]],
        record: Mapping[str, Any],
        write: Callable[[Path], None],
        keep: int,
    ) -> Path:
        """Write a checkpoint and remove old ones.

        Args:
            update: Number of updates before it.
            tensors: State to resume from, in named groups.
            record: Entries of checkpoint.json.
            write: Writes the weights to sample with into the given folder.
            keep: Number of checkpoints to keep.

        Returns:
            The checkpoint's folder.
        """
        path = self.path / "checkpoints" / f"{update:06d}"
        with new_folder(path) as temporary:
            from safetensors import SafetensorError
            from safetensors.torch import save_file

            try:
                flat = {f"{g}.{n}": v.contiguous() for g, group in tensors.items() for n, v in group.items()}
                save_file(flat, temporary / STATE)
                write(temporary)
            except SafetensorError as error:  # safetensors raises it for a full disk, instead of OSError
                raise ConfigError(f"cannot write {path} ({error}); earlier checkpoints are intact") from error
            (temporary / CHECKPOINT).write_text(
                json.dumps({"update": update, **record}, indent=1) + "\n", encoding="utf-8"
            )
        for old in sorted(path.parent.glob("[0-9]*"))[:-keep]:
            shutil.rmtree(old)
        return path

    def choose(self, checkpoint: Path) -> None:
        """Copy a checkpoint to ``best/``, without the state that only resuming needs."""
        with new_folder(self.path / "best") as temporary:
            shutil.copytree(checkpoint, temporary, dirs_exist_ok=True, ignore=shutil.ignore_patterns(STATE))

    def append(self, name: str, rows: Iterable[Mapping[str, Any]]) -> None:
        """Append lines to a log."""
        append_lines(self.path / name, rows)

    def rows(self, name: str) -> list[dict[str, Any]]:
        """Return the lines of a log."""
        return list(read_lines(self.path / name))

    def forget_after(self, update: int) -> None:
        """Drop the log lines of updates after ``update``: their weights are lost, so they are repeated."""
        for name, last in ((LOG, update - 1), (VALIDATION, update)):
            rows = self.rows(name)
            kept = [row for row in rows if row["update"] <= last]
            if len(kept) < len(rows):
                content = "".join(json.dumps(row) + "\n" for row in kept)
                write_atomically(self.path / name, content.encode())


def _has_files(folder: Path) -> bool:
    """Return whether a folder has files other than those that `locked` makes or removes."""
    own = (
        [file.name == LOCK_FILE or file.suffix == ".tmp" for file in folder.iterdir()]
        if folder.is_dir()
        else []
    )
    return not all(own)


def _differences(known: Mapping[str, Any], record: Mapping[str, Any]) -> list[str]:
    """Return the decisive settings and entries in which two runs differ, one phrase each."""
    entries = [n for n in DECISIVE_ENTRIES if n in known and n in record and known[n] != record[n]]
    return [
        *_config_differences(known["config"], record["config"]),
        *(f"different {name.removesuffix('_sha256')}" for name in entries),
    ]


def _config_differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """Compare the configurations of two train.json records in any layout.

    Returns:
        A phrase for each field that decides the weights and differs. A field that one of them lacks is at
        its default there, as it was before the field existed.
    """
    was, now = _decisive(old), _decisive(new)
    return [
        f"{name} was {was.get(name)!r}, is now {now.get(name)!r}"
        for name in {**was, **now}
        if was.get(name) != now.get(name)
    ]


def _decisive(record: Mapping[str, Any]) -> dict[str, Any]:
    """Return what decides the weights by dotted name; names that no longer exist are kept."""
    values = flatten_settings(current_layout(record))
    known = set(flatten_settings(asdict(TrainConfig(""))))
    config = build_settings(
        TrainConfig, nest_settings({k: v for k, v in values.items() if k in known}), source="train.json"
    )
    # a decaying learning rate ends at the last update, so that their number decides the weights too
    free = set(NOT_DECISIVE) - (
        set() if config.optimiser.lr_schedule == "constant" else {"optimiser.updates"}
    )
    gone = {name: value for name, value in values.items() if name not in known}
    decisive = {name: value for name, value in flatten_settings(asdict(config)).items() if name not in free}
    return dict(json.loads(json.dumps(decisive | gone)))
