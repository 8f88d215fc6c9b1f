"""The page of the documentation that says how each reward was verified, made from what was measured."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from textwrap import fill
from typing import Any

from rewards.registry import info
from rewards.verification.parity import BOUND, Parity

PARAGRAPHS = (
    "Made by `tcbench verify --official --docs docs/parity.md`; not typed. Each row compares the reward "
    "with a second computation of its recipe on photographs (square and not) and prompts (short, empty, "
    "longer than is read). *Difference* is the largest absolute one, *error* that as a share of the "
    "standard deviation of the reference's scores; the bound is {bound:g}. *Rank* is Spearman's "
    "correlation. *Speed* is the official code's time over ours for the same scores on small models, "
    "loading left out of both; docs/speed.md has those of the published sizes. *Mutants* are the reward "
    "broken on purpose ({mutants}): how many of those that can show in it were told from it by the same "
    "bound.",
    "*Weights* says what both sides loaded: the official packages and ours read ONE checkpoint of random "
    "weights in the official layout. Published weights are not on the machine that made this table; a "
    "user who has them runs `tcbench verify --report FILE` and can attach the file to an issue: *real "
    "weights* names such reports.",
)

HEAD = (
    "reward", "profile", "reference", "weights", "difference", "error", "rank", "mutants", "speed",
    "differentiable", "licence", "real weights",
)  # fmt: skip


def page(rows: Sequence[Parity], reports: Iterable[Mapping[str, Any]], environment: Mapping[str, str]) -> str:
    """Markdown of the whole page. ``environment`` are versions by library and what else names the machine."""
    confirmed = _confirmed(reports)
    met = dict.fromkeys(name for row in rows for name in row.mutants)
    lines = ["# How each reward was verified", ""]
    for paragraph in PARAGRAPHS:
        lines += [fill(paragraph.format(bound=BOUND, mutants=", ".join(met)), 120), ""]
    lines += ["| " + " | ".join(HEAD) + " |", "|" + "---|" * len(HEAD)]
    lines += ["| " + " | ".join(cells(row, confirmed.get(row.reward, ""))) + " |" for row in rows]
    lines += ["", "Checked on: " + ", ".join(f"{name} {value}" for name, value in environment.items()) + "."]
    return "\n".join(lines) + "\n"


def cells(row: Parity, confirmed: str) -> list[str]:
    """One row of the table."""
    record = info(row.reward)
    measured = bool(row.pairs)
    caught = f"{len(row.mutants) - len(row.missed)} of {len(row.mutants)}" if row.mutants else ""
    return [
        row.reward,
        row.profile,
        row.reference,
        row.weights if measured else "",
        f"{row.difference:.1e}" if measured else "",
        f"{row.error:.1e}" if measured else "",
        f"{row.rank:.4f}" if measured else "",
        caught,
        f"{row.speed:.2f}" if row.speed is not None else "",
        "yes" if record.differentiable else "no",
        record.licence,
        confirmed,
    ]


def _confirmed(reports: Iterable[Mapping[str, Any]]) -> dict[str, str]:
    """By reward, the machines on which published scores were met with the real weights."""
    found: dict[str, list[str]] = {}
    for report in reports:
        for checked in report["published"]:
            if checked["status"] == "checked":
                word = "" if checked["ok"] else " (not met)"
                found.setdefault(checked["reward"], []).append(
                    f"{report['environment']['device_name']}{word}"
                )
    return {reward: "; ".join(machines) for reward, machines in found.items()}
