"""`tcbench calibrate`: measure the scale of each reward on a run's images."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(add_completion=False)


@app.command()
def _calibrate(
    run: Annotated[Path, typer.Argument(help="A scored run folder.", show_default=False)],
    out: Annotated[Path, typer.Option(help="File for the calibration.")] = Path("calibration.json"),
) -> None:
    """Measure mean and standard deviation of each reward on a run's images.

    A reward mix divides each reward by its deviation, so that weights mean the same for all of them.
    """
    from benchmarks.calibrate import calibrate_run
    from benchmarks.cli.tables import text_table
    from leaderboards.run_state import RunState
    from tcbench.files import check_writable

    check_writable(out.parent)
    calibration = calibrate_run(RunState(run))
    calibration.write(out)
    rows = [
        {"reward": name, "mean": f"{m.mean:.4f}", "deviation": f"{m.std:.4f}", "images": m.count}
        for name, m in calibration.rewards.items()
    ]
    print(text_table(rows))
