"""`tcbench weights list|pull|verify|convert`: what rewards are made of, where it is, whether it changed."""

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

app = typer.Typer(no_args_is_help=True)

Row = dict[str, Any]
OK, WRONG, NOT_CHECKED = "ok", "WRONG", "not checked"
MISSING = f"{NOT_CHECKED}: weights missing"

Names = Annotated[list[str] | None, typer.Argument(metavar="NAME...", help="Rewards.", show_default=False)]


@app.command("list")
def list_(json: options.Json = False) -> None:
    """Every file that a reward needs: its size, whence, where it is here, and what it is checked against."""
    from rewards.weights.lock import WeightsLock

    recorded = WeightsLock().recorded()
    rows = [_row(record, file, recorded) for record in _records(None) for file in record.weights]
    print(json_.dumps(rows, indent=1) if json else text_table(rows))


@app.command()
def pull(
    names: Names = None,
    everything: Annotated[bool, typer.Option("--all", help="Those of all rewards.")] = False,
) -> None:
    """Download the weights of rewards, unless they are here; all are checked as if they were used."""
    from rewards.info import LicenceNotAccepted
    from rewards.weights.locate import locate_weights
    from tcbench.errors import MismatchError, MissingFiles

    if bool(names) == everything:
        raise typer.BadParameter("say which rewards, or --all")
    failed: list[Exception] = []
    for record in _records(names):
        try:
            for key, path in locate_weights(record).items():
                print(f"{record.name}  {key}  {path}")
        except (MissingFiles, MismatchError, LicenceNotAccepted) as error:
            print(f"error: {error}", file=sys.stderr)
            if not (everything and isinstance(error, LicenceNotAccepted)):
                failed.append(error)
    if failed:
        raise typer.Exit(4 if any(isinstance(error, MismatchError) for error in failed) else 1)


@app.command()
def verify(
    names: Names = None,
    accept: Annotated[
        bool, typer.Option("--accept", help="Record what is here now as the right one; needs names.")
    ] = False,
) -> None:
    """Hash weights anew, and compare with what is published and with what they were at their first use.

    Without names, all that are here. Exits with 4 if something differs, with 3 if weights of a reward that is
    named are missing.
    """
    if accept and not names:
        raise typer.BadParameter("--accept needs the names of the rewards whose weights changed on purpose")
    rows = list(_verify(_records(names), accept))
    print(text_table(rows))
    counts = {word: sum(row["result"].startswith(word) for row in rows) for word in (OK, WRONG, NOT_CHECKED)}
    print(", ".join(f"{count} {word}" for word, count in counts.items()), file=sys.stderr)
    if counts[WRONG]:
        raise typer.Exit(4)
    if names and any(row["result"] == MISSING for row in rows):
        raise typer.Exit(3)


@app.command()
def convert(
    file: Annotated[
        Path, typer.Argument(help="A torch checkpoint; no code in it is run.", show_default=False)
    ],
    out: Annotated[
        Path | None, typer.Option("--out", help="FILE.safetensors beside it by default; never overwritten.")
    ] = None,
) -> None:
    """Make a .safetensors file of a checkpoint, which loads wherever that did and gives the same scores."""
    from rewards.weights.convert import convert_checkpoint

    made = convert_checkpoint(file, out)
    if made.left_out:
        print(f"note: left out, as they hold no tensors: {', '.join(made.left_out)}", file=sys.stderr)
    print(f"{made.path}  {made.tensors} tensors")


def _records(names: Sequence[str] | None) -> list[RewardInfo]:
    from benchmarks.cli.ls import reward_records
    from rewards.registry import info

    return [info(name) for name in dict.fromkeys(names)] if names else reward_records()


def _row(record: RewardInfo, file: WeightsFile, recorded: Container[str]) -> Row:
    from rewards.weights.locate import locate_file, lock_key
    from tcbench.errors import MissingFiles

    try:
        found = locate_file(record, file)
        here, name = str(found.path), found.origin
    except MissingFiles:
        here, name = "no", lock_key(file)
    checked = "package" if not name else "locked" if name in recorded else "not yet"
    return {
        "reward": record.name,
        "key": file.key,
        "file": file.title,
        "size": f"{file.megabytes:g} MB" if file.megabytes else "",
        "where": f"{file.hub}@{file.revision}" if file.hub else file.url or "package",
        "here": here,
        "checked": "shipped sha256" if file.sha256 else checked,
    }


def _verify(records: Iterable[RewardInfo], accept: bool) -> Iterator[Row]:
    """A row a file; what several rewards share is hashed once."""
    from rewards.weights.locate import content_id, locate_file
    from tcbench.errors import MissingFiles

    hashes: dict[tuple[Path, tuple[tuple[str, ...], ...]], str] = {}
    for record in records:
        for file in record.weights:
            row = {"reward": record.name, "key": file.key}
            try:
                found = locate_file(record, file)
            except MissingFiles:
                yield row | {"result": MISSING}
                continue
            if not found.origin and not file.sha256:
                yield row | {"result": f"{NOT_CHECKED}: part of the package"}
                continue
            place = found.path.resolve(), file.sets
            if place not in hashes:
                hashes[place] = content_id(file, found.path, fresh=True)
            yield row | {"result": _result(record, file, found, hashes[place], accept)}


def _result(record: RewardInfo, file: WeightsFile, found: LocatedWeights, sha256: str, accept: bool) -> str:
    """How weights with the content ``sha256`` stand to what is published or recorded; both are hex."""
    from rewards.weights.locate import verify_sha256
    from rewards.weights.lock import WeightsLock
    from tcbench.errors import MismatchError

    lock = WeightsLock()
    before = lock.recorded().get(found.origin)
    if accept and not file.sha256 and before not in (None, sha256):
        lock.accept(found.origin, sha256)
        return f"{OK}: accepted {sha256}, recorded was {before}"
    try:
        verify_sha256(record, file, found, sha256)
    except MismatchError as error:
        print(f"error: {error}", file=sys.stderr)
        return WRONG
    if file.sha256:
        return f"{OK}: as published" if file.sha256 == sha256 else f"{OK}: converted from what is published"
    return f"{OK}: as at first use" if before else f"{OK}: no sha256 was known, recorded now"
