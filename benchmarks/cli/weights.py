"""`tcbench weights list|pull|verify|convert`: list, download, verify and convert the weights of rewards."""

from __future__ import annotations

import json as json_
import sys
from collections.abc import Container, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from benchmarks.cli import options
from benchmarks.cli.tables import text_table

if TYPE_CHECKING:
    from rewards.info import RewardInfo, WeightsFile
    from rewards.weights.locate import LocatedWeights

app = typer.Typer(no_args_is_help=True, add_completion=False)

_Row = dict[str, Any]
_OK, _WRONG, _NOT_CHECKED = "ok", "WRONG", "not checked"
_MISSING = f"{_NOT_CHECKED}: weights missing"

_Names = Annotated[list[str] | None, typer.Argument(metavar="NAME...", help="Rewards.", show_default=False)]


@app.command("list")
def _list_weights(json: options.Json = False) -> None:
    """List the files of every reward: size, source, path, and what they are checked against."""
    from rewards.weights.lock import WeightsLock

    recorded = WeightsLock().recorded()
    rows = [_row(record, file, recorded) for record in _records(None) for file in record.weights]
    print(json_.dumps(rows, indent=1) if json else text_table(rows))


@app.command("pull")
def _pull_weights(
    names: _Names = None,
    everything: Annotated[bool, typer.Option("--all", help="All rewards.")] = False,
) -> None:
    """Download missing weights and verify all weights of the named rewards."""
    from rewards.info import LicenceNotAccepted
    from rewards.weights.locate import locate_weights
    from tcbench.errors import MismatchError, MissingFiles

    if bool(names) == everything:
        raise typer.BadParameter("give reward names, or --all")
    failed: list[Exception] = []
    for record in _records(names):
        try:
            for key, path in locate_weights(record).items():
                print(f"{record.name}  {key}  {path}")
        except (MissingFiles, MismatchError, LicenceNotAccepted) as error:
            print(f"error: {error}", file=sys.stderr)
            # With --all, a licence that was not accepted is no failure, because no reward was requested by
            # name.
            if not (everything and isinstance(error, LicenceNotAccepted)):
                failed.append(error)
    if failed:
        raise typer.Exit(4 if any(isinstance(error, MismatchError) for error in failed) else 1)


@app.command("verify")
def _verify_weights(
    names: _Names = None,
    accept: Annotated[
        bool, typer.Option("--accept", help="Record the changed weights as valid; requires reward names.")
    ] = False,
) -> None:
    """Hash weights again and compare them with the published sha256, or with the one recorded at first use.

    Without names, all weights on this machine. Exit code 4: weights differ. Exit code 3: weights of a named
    reward are missing.
    """
    if accept and not names:
        raise typer.BadParameter("--accept needs the names of rewards whose weights were changed on purpose")
    rows = list(_verify(_records(names), accept))
    print(text_table(rows))
    results = [row["result"] for row in rows]
    counts = {
        word: sum(result.startswith(word) for result in results) for word in (_OK, _WRONG, _NOT_CHECKED)
    }
    print(", ".join(f"{count} {word}" for word, count in counts.items()), file=sys.stderr)
    if counts[_WRONG]:
        raise typer.Exit(4)
    if names and _MISSING in results:
        raise typer.Exit(3)


@app.command("convert")
def _convert_weights(
    file: Annotated[
        Path, typer.Argument(help="A torch checkpoint; its code is not run.", show_default=False)
    ],
    out: Annotated[
        Path | None,
        typer.Option("--out", help="File to write, by default FILE.safetensors; never overwritten."),
    ] = None,
) -> None:
    """Convert a checkpoint to a .safetensors file that can replace it and gives the same scores."""
    from rewards.weights.convert import convert_checkpoint

    converted = convert_checkpoint(file, out)
    if converted.left_out:
        print(f"note: left out keys without tensors: {', '.join(converted.left_out)}", file=sys.stderr)
    print(f"{converted.path}  {converted.tensors} tensors")


def _records(names: Sequence[str] | None) -> list[RewardInfo]:
    from benchmarks.cli.ls import reward_records
    from rewards.registry import info

    return [info(name) for name in dict.fromkeys(names)] if names else reward_records()


def _row(record: RewardInfo, file: WeightsFile, recorded: Container[str]) -> _Row:
    from rewards.weights.locate import locate_file
    from tcbench.errors import MissingFiles

    try:
        located = locate_file(record, file)
        here, key = str(located.path), located.origin
    except MissingFiles:
        here, key = "no", file.lock_key()
    checked = "package" if not key else "locked" if key in recorded else "not yet"
    return {
        "reward": record.name,
        "key": file.key,
        "file": file.title,
        "size": f"{file.megabytes:g} MB" if file.megabytes else "",
        "where": f"{file.hub}@{file.revision}" if file.hub else file.url or "package",
        "here": here,
        "checked": "shipped sha256" if file.sha256 else checked,
    }


def _verify(records: Iterable[RewardInfo], accept: bool) -> Iterator[_Row]:
    """Yield one row per file; weights that several rewards share are hashed once."""
    from rewards.weights.locate import content_id, locate_file
    from tcbench.errors import MissingFiles

    hashes: dict[tuple[Path, tuple[tuple[str, ...], ...]], str] = {}
    for record in records:
        for file in record.weights:
            row = {"reward": record.name, "key": file.key}
            try:
                located = locate_file(record, file)
            except MissingFiles:
                yield row | {"result": _MISSING}
                continue
            if not located.origin and not file.sha256:
                yield row | {"result": f"{_NOT_CHECKED}: part of the package"}
                continue
            hashed = located.path.resolve(), file.sets
            if hashed not in hashes:
                hashes[hashed] = content_id(file, located.path, fresh=True)
            yield row | {"result": _result(record, file, located, hashes[hashed], accept)}


def _result(record: RewardInfo, file: WeightsFile, located: LocatedWeights, digest: str, accept: bool) -> str:
    """Return the result of comparing the sha256 ``digest`` with the published or recorded one."""
    from rewards.weights.lock import WeightsLock
    from tcbench.errors import MismatchError

    lock = WeightsLock()
    before = lock.recorded().get(located.origin)
    if accept and not file.sha256 and before not in (None, digest):
        lock.accept(located.origin, digest)
        return f"{_OK}: accepted {digest}, was {before}"
    try:
        located.verify(record, file, digest)
    except MismatchError as error:
        print(f"error: {error}", file=sys.stderr)
        return _WRONG
    if file.sha256:
        return (
            f"{_OK}: as published" if file.sha256 == digest else f"{_OK}: converted from the published file"
        )
    return f"{_OK}: as at first use" if before else f"{_OK}: no sha256 was known, recorded now"
