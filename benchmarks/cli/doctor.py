"""`tcbench doctor`: check the installation."""

from __future__ import annotations

import json as json_
from dataclasses import asdict
from typing import Annotated

import typer

from benchmarks.cli import options

app = typer.Typer(add_completion=False)

_MARKS = {"ok": "ok", "absent": "--", "warning": "!", "problem": "!!"}


@app.command()
def _doctor(
    verbose: Annotated[
        bool, typer.Option("--verbose", "-v", help="Also show how to get optional files and packages.")
    ] = False,
    json: options.Json = False,
) -> None:
    """Show imported packages, conflicts, versions, the device, and which weights and prompts are present.

    Exits with 1 if something prevents work; files that are not downloaded do not count.
    """
    from benchmarks.doctor import examine

    findings = list(examine())
    if json:
        print(json_.dumps([asdict(finding) for finding in findings], indent=1))
    else:
        for finding in findings:
            print(f"{_MARKS[finding.state]:<3} {finding.topic:<9} {finding.subject:<20} {finding.text}")
            if finding.fix and (verbose or finding.state != "absent"):
                print(f"{'':<35}fix: {finding.fix}")
        if not verbose and any(finding.state == "absent" for finding in findings):
            print("-- is optional; `tcbench doctor --verbose` shows how to get it")
    raise typer.Exit(int(any(finding.state == "problem" for finding in findings)))
