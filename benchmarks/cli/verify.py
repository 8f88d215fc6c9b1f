"""`tcbench verify`: compare rewards with their authors' code."""

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
    from rewards.verification.published import PublishedCheck

app = typer.Typer(add_completion=False)

_IMAGES = 6
"""Number of images to compare on."""
_FULL_IMAGES, _FULL_PROMPTS = 3, 2
"""Number of images with ``--full``, where each score takes seconds."""
_EXIT_DIFFERENT = 4

_Names = Annotated[list[str] | None, typer.Argument(help="Rewards; default: all.", show_default=False)]
_Images = Annotated[
    Path | None,
    typer.Option(
        help="Folder of photographs to compare on; default: the test data or, without it, rendered images.",
        show_default=False,
    ),
]


@app.command()
def _verify(
    names: _Names = None,
    official: Annotated[
        bool,
        typer.Option("--official", help="Also run the official packages, in a separate environment."),
    ] = False,
    full: Annotated[
        bool,
        typer.Option("--full", help="Run the official packages at the published sizes (8 GB, minutes)."),
    ] = False,
    images: _Images = None,
    report: Annotated[
        Path | None,
        typer.Option(
            help="Write results, weight hashes, versions and machine to a JSON file.", show_default=False
        ),
    ] = None,
    docs: Annotated[
        Path | None, typer.Option(help="Write the results as a documentation page.", show_default=False)
    ] = None,
    json: options.Json = False,
) -> None:
    """Compare rewards with a second implementation and with published scores.

    Exits with 4 if a reward differs, or if the comparison does not detect a deliberate bug.
    """
    from rewards import registry
    from rewards.verification.pictures import reference_data
    from rewards.verification.published import PUBLISHED, check_published
    from tcbench.quiet import quiet
    from textcraftor.io.provenance import environment

    records = [registry.info(name) for name in names or registry.list_rewards()]
    rows = []
    with TemporaryDirectory() as scratch, quiet("transformers"):
        for row in _compare(records, images, Path(scratch), official=official or full, full=full):
            print(f"{row.reward}: {_verdict(row)}", file=sys.stderr)
            rows.append(row)
    published = [
        check_published(record.name, reference_data()) for record in records if record.name in PUBLISHED
    ]
    machine = environment("cpu")
    results = {
        "environment": machine,
        "parity": [{**vars(row), "error": row.error, "checked": row.checked, "ok": row.ok} for row in rows],
        "published": [item.to_json() for item in published],
    }
    if json:
        print(json_.dumps(results, indent=1))
    else:
        _print_results(rows, published)
    if report is not None:
        report.write_text(json_.dumps(results, indent=1) + "\n", encoding="utf-8")
    if docs is not None:
        _write_docs(docs, rows, machine)
    if not all([*(row.ok for row in rows if row.checked), *(item.ok for item in published)]):
        raise typer.Exit(_EXIT_DIFFERENT)


def _compare(
    records: Sequence[RewardInfo], images: Path | None, scratch: Path, *, official: bool, full: bool
) -> Iterator[Parity]:
    """Yield one comparison per reward, with the official package if requested and possible."""
    from rewards.verification.official.compare import OFFICIAL
    from rewards.verification.parity import compare_with_official, compare_with_reference
    from rewards.verification.pictures import PROMPTS, load_photos, photo_folder

    folder = images or photo_folder(scratch, _IMAGES)
    photos = load_photos(folder, _IMAGES)
    for record in records:
        weights = scratch / record.name
        weights.mkdir()
        # The embedded world's rewards share classes with published ones, but no package can load their
        # weights.
        if official and record.entry in OFFICIAL and not record.name.startswith("world-"):
            count, texts = (_FULL_IMAGES, PROMPTS[:_FULL_PROMPTS]) if full else (_IMAGES, PROMPTS)
            names = list(photos)[:count]
            yield compare_with_official(record, folder, names, texts, weights, full=full)
        else:
            yield compare_with_reference(record, photos, PROMPTS, weights)


def _verdict(row: Parity) -> str:
    if row.disagreements:
        return f"DIFFERS from the published facts: {'; '.join(row.disagreements)}"
    if not row.checked:
        return f"not compared, {row.reference}"
    if not row.pairs:
        return row.reference
    missed = f", bugs not detected: {', '.join(row.missed)}" if row.missed else ""
    return f"{'ok' if row.ok else 'DIFFERS'}, error {row.error:.1e} of the spread{missed}"


def _print_results(rows: Sequence[Parity], published: Sequence[PublishedCheck]) -> None:
    from benchmarks.cli.tables import text_table
    from rewards.verification.table import HEAD, parity_cells

    columns = HEAD[:-1]  # "real weights" comes from users' reports
    print(text_table([dict(zip(columns, parity_cells(row), strict=False)) for row in rows]))
    for item in published:
        values = " ".join(f"{score:.4f}" for score in item.scores)
        verdict = f"{'reproduced' if item.ok else 'NOT REPRODUCED'}: {values}" if item.scores else item.status
        print(f"published scores of {item.reward}: {verdict}")


def _write_docs(path: Path, rows: Sequence[Parity], environment: dict[str, Any]) -> None:
    from rewards.verification.table import parity_page

    reports = [
        json_.loads(file.read_text(encoding="utf-8")) for file in sorted(path.parent.glob("reports/*.json"))
    ]
    machine = {"python": environment["python"], "device": environment["device_name"]}
    page = parity_page(rows, reports, {**environment["versions"], **machine})
    path.write_text(page, encoding="utf-8")
