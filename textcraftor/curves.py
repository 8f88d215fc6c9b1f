"""Training curves: rewards, gradient norm and drift by update, in one figure."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from tcbench.files import write_atomically
from textcraftor.io.checkpoint import LOG, VALIDATION, TrainFolder

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_FILE = "curves.png"
"""File beside log.jsonl, written at each validation."""

_COLUMNS = 3
_BATCHES, _VALIDATION = "#5b6572", "#0072b2"
_SMOOTHED = 20
"""The running mean is over the number of updates divided by this."""


def save_curves(folder: TrainFolder) -> None:
    """Write curves.png from the lines of log.jsonl and validation.jsonl."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    from leaderboards.pictures import png

    log, validations = folder.rows(LOG), folder.rows(VALIDATION)
    trained = {name.removeprefix("reward/") for row in log for name in row if name.startswith("reward/")}
    measured = {name for row in validations for name in row["scores"]}
    names = ["trained", *sorted(trained | measured - {"trained"})]
    panels = [*names, "grad_norm", "drift"]
    rows = math.ceil(len(panels) / _COLUMNS)
    width, height = 3.5 * _COLUMNS, 2.3 * rows + 0.7
    figure = Figure(figsize=(width, height), dpi=110)
    # Fixed margins in inches: matplotlib's search for the tightest layout takes longer than all the drawing.
    grid = {"left": 0.55 / width, "right": 1 - 0.1 / width, "wspace": 0.22, "hspace": 0.35}
    grid |= {"bottom": 0.4 / height, "top": 1 - 0.6 / height}
    axes = figure.subplots(rows, _COLUMNS, squeeze=False, gridspec_kw=grid).flatten().tolist()
    for name, axis in zip(names, axes, strict=False):
        held_out = "" if name in trained or name == "trained" else " (not trained on)"
        axis.set_title("reward mix" if name == "trained" else f"{name}{held_out}", fontsize=9)
        key = name if name == "trained" else f"reward/{name}"
        _plot_batches(axis, _points((row["update"] + 1, row.get(key)) for row in log))
        _plot_validations(axis, validations, name)
    norm, drift = axes[len(names) : len(panels)]
    norm.set_title("gradient norm", fontsize=9)
    _plot_batches(norm, _points((row["update"] + 1, row.get("grad_norm")) for row in log))
    norm.set_ylim(bottom=0)
    drift.set_title("drift of the embeddings", fontsize=9)
    drifts = _points((row["update"], row["drift"]) for row in validations)
    drift.plot(*drifts, color=_VALIDATION, marker="o", ms=3)
    for axis in axes:
        axis.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        axis.tick_params(labelsize=7)
        axis.spines[["top", "right"]].set_visible(False)
    for axis in axes[len(panels) :]:
        axis.set_axis_off()
    for axis in axes[max(0, len(panels) - _COLUMNS) : len(panels)]:
        axis.set_xlabel("update", fontsize=8)
    figure.suptitle(
        "grey: training batches, with running mean    blue: validation, with 95 % interval of the change",
        fontsize=8, color="#333333", y=1 - 0.2 / height, va="center",
    )  # fmt: skip
    write_atomically(folder.path / _FILE, png(figure))


def _points(pairs: Iterable[tuple[int, float | None]]) -> tuple[list[int], list[float]]:
    """Return x and y of the pairs that have a y."""
    kept = [(x, y) for x, y in pairs if y is not None]
    return [x for x, _ in kept], [y for _, y in kept]


def _plot_batches(axis: Axes, points: tuple[Sequence[int], Sequence[float]]) -> None:
    updates, values = points
    if not updates:
        return
    axis.plot(updates, values, color=_BATCHES, lw=0.6, alpha=0.5)
    width = max(1, len(values) // _SMOOTHED)
    parts = [values[max(0, n - width) : n] for n in range(1, len(values) + 1)]
    axis.plot(updates, [math.fsum(part) / len(part) for part in parts], color=_BATCHES, lw=1.4)


def _plot_validations(axis: Axes, validations: Sequence[Mapping[str, Any]], name: str) -> None:
    """Plot means; the interval is that of the change since the first validation, paired by prompt."""
    updates, means = _points((row["update"], row["means"].get(name)) for row in validations)
    if not updates:
        return
    axis.plot(updates, means, color=_VALIDATION, lw=1.4, marker="o", ms=3)
    for row in validations[1:]:
        change = row["changes"].get(name) or [None]
        mean = row["means"].get(name)
        if mean is not None and None not in change:
            value, low, high = change
            ends = [mean + low - value, mean + high - value]
            axis.plot([row["update"]] * 2, ends, color=_VALIDATION, lw=1, alpha=0.6)
