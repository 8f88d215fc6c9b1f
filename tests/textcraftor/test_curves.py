"""What the figure of a training run shows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from textcraftor.curves import save_curves
from textcraftor.io.checkpoint import LOG, VALIDATION, TrainFolder

LOG_ROWS = [
    {"update": 0, "trained": 1.0, "reward/red": 0.5, "grad_norm": 2.0},
    {"update": 1, "trained": None, "reward/red": None, "grad_norm": None},  # all samples were skipped
    {"update": 2, "trained": 3.0, "reward/red": 0.75, "grad_norm": 4.0},
]
VALIDATIONS = [
    {"update": 0, "scores": {"trained": [1.0], "judge": [5.0]}, "means": {"trained": 1.0, "judge": 5.0},
     "changes": {"trained": [0.0, 0.0, 0.0], "judge": [0.0, 0.0, 0.0]}, "drift": 0.0},
    {"update": 3, "scores": {"trained": [2.0], "judge": [None]}, "means": {"trained": 2.0, "judge": None},
     "changes": {"trained": [1.0, 0.5, 1.75], "judge": [None, None, None]}, "drift": 0.125},
]  # fmt: skip


def test_curves_show_the_rows_of_both_logs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from matplotlib.axes import Axes

    lines: dict[str, list[tuple[list[float], list[float]]]] = {}
    plot = Axes.plot

    def record(axis: Axes, x: Any, y: Any, **settings: Any) -> Any:
        lines.setdefault(axis.get_title(), []).append((list(x), list(y)))
        return plot(axis, x, y, **settings)

    monkeypatch.setattr(Axes, "plot", record)
    folder = TrainFolder(tmp_path)
    folder.append(LOG, LOG_ROWS)
    folder.append(VALIDATION, VALIDATIONS)
    save_curves(folder)

    batches: tuple[list[float], list[float]] = ([1, 3], [1.0, 3.0])  # x: updates made
    assert lines == {
        # batches, their running mean (of one update), validation, and its interval around the mean
        "reward mix": [batches, batches, ([0, 3], [1.0, 2.0]), ([3, 3], [1.5, 2.75])],
        "red": [([1, 3], [0.5, 0.75])] * 2,
        "judge (not trained on)": [([0], [5.0])],
        "gradient norm": [([1, 3], [2.0, 4.0])] * 2,
        "drift of the embeddings": [([0, 3], [0.0, 0.125])],
    }
    with Image.open(tmp_path / "curves.png") as picture:
        assert picture.width > 500


def test_the_running_mean_is_over_a_twentieth_of_the_updates(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from matplotlib.axes import Axes

    means: list[list[float]] = []
    plot = Axes.plot

    def record(axis: Axes, x: Any, y: Any, **settings: Any) -> Any:
        if axis.get_title() == "reward mix":
            means.append(list(y))
        return plot(axis, x, y, **settings)

    monkeypatch.setattr(Axes, "plot", record)
    folder = TrainFolder(tmp_path)
    folder.append(LOG, [{"update": n, "trained": float(n % 2), "grad_norm": 1.0} for n in range(40)])
    save_curves(folder)
    assert means == [[0.0, 1.0] * 20, [0.0] + [0.5] * 39]
