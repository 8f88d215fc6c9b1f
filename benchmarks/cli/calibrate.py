"""`tcbench calibrate`: the scale of each reward on a run's pictures, for mixing them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def calibrate(
    run: Annotated[Path, typer.Argument(help="A scored run folder.", show_default=False)],
    out: Annotated[Path, typer.Option(help="Where the calibration is written.")] = Path("calibration.json"),
) -> None:
    """Measure mean and deviation of each reward on a run's pictures, so that a mix can weigh them alike."""
    from benchmarks.calibrate import calibrate as measure
    from benchmarks.cli.tables import text_table
    from leaderboards.records import RunFolder

    found = measure(RunFolder(run))
    found.write(out)
    rows = [
        {"reward": name, "mean": f"{m.mean:.4f}", "deviation": f"{m.std:.4f}", "pictures": m.count}
        for name, m in found.rewards.items()
    ]
    print(text_table(rows))
