"""A board as pictures: a forest plot of the paired differences, and images of all systems side by side."""

from __future__ import annotations

import io
import math
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain, islice, zip_longest
from pathlib import Path
from typing import TYPE_CHECKING

from leaderboards.board import Board, Column, Section
from leaderboards.records import Key
from leaderboards.render import title, watermarks
from leaderboards.run_state import RunState
from leaderboards.stats import CLAIM_PROMPTS

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, SubFigure
    from PIL.Image import Image

PANELS = 4
"""Rewards beside each other in the forest plot."""

PROMPTS = 6
"""Prompts shown for each suite."""

DPI = 130

COLOURS: Mapping[str | None, str] = {"better": "#2a7f62", "worse": "#c0504d", "undecided": "#5b6572"}
NO_CLAIM = "#b3bac2"
KEY = f"green: better, red: worse, dark: undecided, pale: fewer than {CLAIM_PROMPTS} prompts, so no claim"


def draw_differences(board: Board) -> Figure | None:
    """Forest plot, one panel a reward: each system's difference to the baseline with its interval.

    Every panel has its own scale; the dashed line is no difference. None where there is none to show.
    """
    sections = [(section, columns) for section in board.sections if (columns := _compared(section))]
    if not sections:
        return None
    rows = [math.ceil(len(columns) / PANELS) for _, columns in sections]
    heights = [
        0.5 + count * (0.75 + 0.28 * len(section.entries))
        for count, (section, _) in zip(rows, sections, strict=True)
    ]
    parts, figure = _parts(2.9 * PANELS, heights)
    for part, count, (section, columns) in zip(parts, rows, sections, strict=True):
        part.suptitle(_heading(section, f"difference to {section.baseline}"), fontsize=10)
        axes = part.subplots(count, PANELS, squeeze=False, sharey=True)
        for axis, column in zip_longest(axes.flat, columns):
            if column is None:
                axis.set_axis_off()
            else:
                _forest(axis, section, column)
    parts[-1].supxlabel(KEY, fontsize=8)
    return figure


def draw_samples(board: Board) -> Figure | None:
    """A grid for each suite: one column a prompt, one row a system, all from the same noise.

    None where no images lie on disk that all systems of a suite have.
    """
    grids = [(s, keys) for s in board.sections if (keys := shown_keys([e.run for e in s.entries]))]
    if not grids:
        return None
    parts, figure = _parts(1.75 * PROMPTS + 1.4, [1.2 + 1.75 * len(s.entries) for s, _ in grids])
    for part, (section, keys) in zip(parts, grids, strict=True):
        part.suptitle(_heading(section, "same prompts, same seeds"), fontsize=10)
        axes = part.subplots(len(section.entries), PROMPTS, squeeze=False)
        for row, entry in zip(axes, section.entries, strict=True):
            own = entry.run.samples
            samples = [own[key] for key in keys]
            _image_row(row, entry.label, [entry.run.image_path(sample) for sample in samples])
        _captions(axes[0], [sample.prompt for sample in samples])
    return figure


def image_table(rows: Sequence[tuple[str, Sequence[Path]]], heads: Sequence[str]) -> Figure:
    """Labelled rows of images, one below a head each."""
    (part,), figure = _parts(1.4 * len(heads) + 1.4, [0.3 + 1.4 * len(rows)])
    axes = part.subplots(len(rows), len(heads), squeeze=False)
    for row, (label, images) in zip(axes, rows, strict=True):
        _image_row(row, label, images)
    _captions(axes[0], heads)
    return figure


def png(figure: Figure) -> bytes:
    """The picture's file, without dates or versions in it, so that the same board gives the same bytes."""
    out = io.BytesIO()
    figure.savefig(out, format="png", metadata={"Software": None})
    return out.getvalue()


def _compared(section: Section) -> list[Column]:
    """The columns that have a difference to show."""
    found = {cell.column for cell in section.cells.values() if cell.category is None and cell.comparison}
    return [column for column in section.columns if column.label in found]


def _forest(axis: Axes, section: Section, column: Column) -> None:
    """One panel: the systems from top to bottom, without the baseline."""
    systems = [entry.label for entry in reversed(section.entries) if entry.label != section.baseline]
    for height, system in enumerate(systems):
        cell = section.cells.get((system, column.label, None))
        if cell is None or cell.comparison is None:
            continue
        difference, colour = cell.comparison.difference, COLOURS.get(cell.claim, NO_CLAIM)
        axis.plot(difference.value, height, "o", color=colour, markersize=5)
        if not math.isnan(difference.low):
            axis.plot([difference.low, difference.high], [height, height], color=colour, linewidth=2)
    axis.axvline(0, color="black", linewidth=0.8, linestyle="--")
    axis.set_yticks(range(len(systems)), systems, fontsize=8)
    axis.set_ylim(-0.6, len(systems) - 0.4)
    axis.set_title(title(column), fontsize=9)
    axis.margins(x=0.1)
    axis.locator_params(axis="x", nbins=4)
    axis.tick_params(axis="x", labelsize=7)
    axis.tick_params(axis="y", length=0)
    axis.spines[["top", "right", "left"]].set_visible(False)


def shown_keys(runs: Sequence[RunState], limit: int = PROMPTS) -> list[Key]:
    """Up to `limit` samples that every run has an image of: one a prompt, the categories in turn."""
    drawn = [
        {
            key: sample
            for key, sample in run.samples.items()
            if sample.image is not None and key in run.header.planned
        }
        for run in runs
    ]
    first: dict[int, Key] = {}
    for key in sorted(set.intersection(*map(set, drawn))):
        first.setdefault(key[0], key)
    by_category: dict[str, list[Key]] = {}
    for key in first.values():
        by_category.setdefault(drawn[0][key].category, []).append(key)
    in_turn = (key for key in chain.from_iterable(zip_longest(*by_category.values())) if key is not None)
    shown = (
        key
        for key in in_turn
        if all(_opens(run.image_path(samples[key])) for run, samples in zip(runs, drawn, strict=True))
    )
    return list(islice(shown, limit))


def _opens(path: Path) -> bool:
    """Whether the image is there and can be decoded; what is wrong with it is told where it is scored."""
    try:
        _pixels(path)
    except OSError:
        return False
    return True


def _image_row(axes: Sequence[Axes], label: str, images: Sequence[Path]) -> None:
    """Images beside each other, as many as there are, with a label before them."""
    for axis, path in zip_longest(axes, images):
        axis.set_axis_off()
        if path is not None:
            axis.imshow(_pixels(path))
    axes[0].annotate(
        _caption(label, 18), (-0.06, 0.5), xycoords="axes fraction", ha="right", va="center", fontsize=8
    )


def _captions(axes: Sequence[Axes], texts: Sequence[str]) -> None:
    for axis, text in zip(axes, texts, strict=False):
        axis.set_title(_caption(text), fontsize=7, parse_math=False)


def _pixels(path: Path) -> Image:
    """The image for the grid; a big one is made smaller, a small one keeps its pixels."""
    from PIL import Image

    with Image.open(path) as image:
        shown = image.convert("RGB")
    shown.thumbnail((256, 256))
    return shown


def _caption(text: str, width: int = 27) -> str:
    """`text` wrapped to a few short lines, without characters that the font lacks."""
    return "\n".join(textwrap.wrap("".join(_drawable(text)), width, max_lines=4, placeholder=" …"))


def _drawable(text: str) -> Iterator[str]:
    from matplotlib.font_manager import findfont, get_font

    font = get_font(findfont("DejaVu Sans"))
    for character in text:
        yield character if character.isspace() or font.get_char_index(ord(character)) else "□"


def _heading(section: Section, text: str) -> str:
    marks = "; ".join(watermarks(section))
    return f"{section.suite}: {text}" + (f"   [{marks}]" if marks else "")


def _parts(width: float, heights: Sequence[float]) -> tuple[Sequence[SubFigure], Figure]:
    """A figure of that many inches, needing no display, and its parts from top to bottom."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, sum(heights)), layout="constrained", dpi=DPI)
    return list(figure.subfigures(len(heights), 1, height_ratios=heights, squeeze=False)[:, 0]), figure
