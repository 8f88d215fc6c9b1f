"""`tcbench doctor`: what runs here, from where, and what is missing."""

from __future__ import annotations

import json as json_
from dataclasses import asdict
from typing import Annotated

import typer

from benchmarks.cli import options

MARKS = {"ok": "ok", "absent": "--", "warning": "!", "problem": "!!"}


def doctor(
    verbose: Annotated[
        bool, typer.Option("--verbose", "-v", help="Say of everything how to get it.")
    ] = False,
    json: options.Json = False,
) -> None:
    """Say which packages are imported from where, what collides with them, versions, device and weights.

    Exits with 1 when something stands in the way of work; what is merely not downloaded does not.
    """
    from benchmarks.doctor import examine

    findings = list(examine())
    if json:
        print(json_.dumps([asdict(finding) for finding in findings], indent=1))
    else:
        for finding in findings:
            print(f"{MARKS[finding.state]:<3} {finding.topic:<9} {finding.subject:<20} {finding.text}")
            if finding.mend and (verbose or finding.state != "absent"):
                print(f"{'':<35}mend: {finding.mend}")
        if not verbose and any(finding.state == "absent" for finding in findings):
            print("-- is optional; `tcbench doctor --verbose` says how to get it")
    raise typer.Exit(int(any(finding.state == "problem" for finding in findings)))
