"""docs/parity.md is generated from comparisons and from users' reports."""

from __future__ import annotations

from rewards.verification.parity import Parity
from rewards.verification.table import parity_page

ROW = Parity(
    "hpsv2", "hps-224", "hpsv2 1.2.0", "random, small", 24, spread=0.1, difference=1e-7, rank=1.0,
    mutants={"antialias": 0.02, "no L2 norm": 1e-9},
)  # fmt: skip


def test_row_has_error_mutants_licence_and_confirming_machines() -> None:
    report = {
        "environment": {"device_name": "NVIDIA A"},
        "published": [{"reward": "hpsv2", "status": "checked", "ok": True}],
    }
    missing = {
        "environment": {"device_name": "B"},
        "published": [{"reward": "hpsv2", "status": "not checked: weights missing", "ok": True}],
    }
    text = parity_page([ROW], [report, missing], {"torch": "2.13.0"})
    row = next(line for line in text.splitlines() if line.startswith("| hpsv2 |"))
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    assert cells[4:] == ["1.0e-07", "1.0e-06", "1.0000", "1 of 2", "yes", "Apache-2.0", "NVIDIA A"]
    assert "Checked on: torch 2.13.0." in text
