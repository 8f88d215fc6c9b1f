"""`tcbench verify`: do the rewards compute what their authors' code computes?"""

from __future__ import annotations

import json as json_
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated, Any

import typer

from benchmarks.cli import options

if TYPE_CHECKING:
    from rewards.info import RewardInfo
    from rewards.verification.parity import Parity
    from rewards.verification.published import Checked

COUNT = 6
"""Pictures that are compared on."""
FULL_COUNT, FULL_PROMPTS = 3, 2
"""With architectures of the published size."""

Names = Annotated[list[str] | None, typer.Argument(help="Rewards; all of them without.", show_default=False)]
Images = Annotated[
    Path | None,
    typer.Option(
        help="Photographs to compare on; without, pictures of the embedded world.", show_default=False
    ),
]


def verify(
    names: Names = None,
    official: Annotated[
        bool,
        typer.Option("--official", help="Run the official packages too, in an environment of their own."),
    ] = False,
    full: Annotated[
        bool, typer.Option("--full", help="Official packages at the published sizes: 8 GB, some minutes.")
    ] = False,
    images: Images = None,
    report: Annotated[
        Path | None,
        typer.Option(help="Write values, hashes, versions and machine as JSON.", show_default=False),
    ] = None,
    docs: Annotated[
        Path | None, typer.Option(help="Write the page of the documentation.", show_default=False)
    ] = None,
    json: options.Json = False,
) -> None:
    """Compare rewards with a second computation of their recipes, and with published scores.

    Exit code 4 if one differs, or if the comparison does not notice a reward that is broken on purpose.
    """
    from rewards import registry
    from rewards.verification import published
    from rewards.verification.pictures import reference_data
    from tcbench.quiet import quiet
    from textcraftor.io.provenance import environment

    records = [registry.info(name) for name in names or registry.list_rewards()]
    rows = []
    with TemporaryDirectory() as scratch, quiet("transformers"):
        for row in _rows(records, images, Path(scratch), official=official or full, full=full):
            print(f"{row.reward}: {_verdict(row)}", file=sys.stderr)
            rows.append(row)
    checked = [
        published.check_published(record.name, reference_data())
        for record in records
        if record.name in published.PUBLISHED
    ]
    here = environment("cpu")
    found = {
        "environment": here,
        "parity": [{**vars(row), "error": row.error, "ok": row.ok} for row in rows],
        "published": [item.record() for item in checked],
    }
    _show(found, rows, checked, json)
    if report is not None:
        report.write_text(json_.dumps(found, indent=1) + "\n", encoding="utf-8")
    if docs is not None:
        _write_docs(docs, rows, here)
    if not all([*(row.ok for row in rows), *(item.ok for item in checked)]):
        raise typer.Exit(4)


def _rows(
    records: Sequence[RewardInfo], images: Path | None, scratch: Path, *, official: bool, full: bool
) -> Iterator[Parity]:
    from rewards.verification.official.compare import OFFICIAL
    from rewards.verification.parity import compare, compare_official
    from rewards.verification.pictures import PROMPTS, photographs, pictures

    folder = images or photographs(scratch, COUNT)
    shown = pictures(folder, COUNT)
    for record in records:
        place = scratch / record.name
        place.mkdir()
        if official and record.entry in OFFICIAL and not record.name.startswith("world-"):
            count, texts = (FULL_COUNT, PROMPTS[:FULL_PROMPTS]) if full else (COUNT, PROMPTS)
            yield compare_official(record, folder, list(shown)[:count], texts, place, full=full)
        else:
            yield compare(record, shown, PROMPTS, place)


def _verdict(row: Parity) -> str:
    if not row.pairs:
        return row.reference
    missed = f", does not notice: {', '.join(row.missed)}" if row.missed else ""
    return f"{'ok' if row.ok else 'DIFFERS'}, error {row.error:.1e} of the spread{missed}"


def _show(found: dict[str, Any], rows: Sequence[Parity], checked: Sequence[Checked], json: bool) -> None:
    from benchmarks.cli.tables import text_table
    from rewards.verification.table import HEAD, cells

    if json:
        print(json_.dumps(found, indent=1))
        return
    print(text_table([dict(zip(HEAD[:-1], cells(row, ""), strict=False)) for row in rows]))
    for item in checked:
        values = " ".join(f"{value:.4f}" for value in item.found)
        verdict = f"{'met' if item.ok else 'NOT MET'}: {values}" if item.found else item.status
        print(f"published scores of {item.reward}: {verdict}")


def _write_docs(path: Path, rows: Sequence[Parity], environment: dict[str, Any]) -> None:
    from rewards.verification.table import page

    reports = [
        json_.loads(file.read_text(encoding="utf-8")) for file in sorted(path.parent.glob("reports/*.json"))
    ]
    machine = {"python": environment["python"], "device": environment["device_name"]}
    path.write_text(page(rows, reports, {**environment["versions"], **machine}), encoding="utf-8")
