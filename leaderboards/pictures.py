"""Grids of images, and what all pictures of a board share."""

from __future__ import annotations

import io
import textwrap
from collections.abc import Iterator, Sequence
from itertools import chain, islice, zip_longest
from pathlib import Path
from typing import TYPE_CHECKING

from leaderboards.board import Board, Entry, Section
from leaderboards.records import Key
from leaderboards.render import watermarks
from leaderboards.run_state import RunState

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, SubFigure
    from PIL.Image import Image

PROMPTS = 6
"""Prompts shown for each suite, at most."""

DPI = 130
"""Pixels per inch."""


def draw_samples(board: Board) -> Figure | None:
    """Show a grid of images for each suite: a row for each run, a column for each prompt, all from the same
    noise.

    None if no suite has images on disk that all of its runs share.
    """
    grids = [(s, keys) for s in board.sections if (keys := shown_keys([e.run for e in s.entries]))]
    if not grids:
        return None
    figure, parts = stacked(1.75 * PROMPTS + 1.4, [1.2 + 1.75 * len(s.entries) for s, _ in grids])
    for part, (section, keys) in zip(parts, grids, strict=True):
        part.suptitle(section_heading(section, "same prompts, same noise"), fontsize=10)
        axes = part.subplots(len(section.entries), PROMPTS, squeeze=False)
        for row, entry in zip(axes, _by_standing(section), strict=True):
            samples = [entry.run.samples[key] for key in keys]
            _image_row(row, entry.label, [entry.run.image_path(sample) for sample in samples])
        _captions(axes[0], [sample.prompt for sample in samples])
    return figure


def image_table(rows: Sequence[tuple[str, Sequence[Path]]], heads: Sequence[str]) -> Figure:
    """Show labelled rows of images, with a heading above each column."""
    figure, (part,) = stacked(1.4 * len(heads) + 1.4, [0.3 + 1.4 * len(rows)])
    axes = part.subplots(len(rows), len(heads), squeeze=False)
    for row, (label, images) in zip(axes, rows, strict=True):
        _image_row(row, label, images)
    _captions(axes[0], heads)
    return figure


def png(figure: Figure) -> bytes:
    """The figure as a PNG file without dates or versions, so that the same board gives the same bytes."""
    out = io.BytesIO()
    figure.savefig(out, format="png", metadata={"Software": None})
    return out.getvalue()


def shown_keys(runs: Sequence[RunState], limit: int = PROMPTS) -> list[Key]:
    """Up to `limit` samples that every run has an image of, one for each prompt, categories in turn."""
    with_image = [
        {
            key: sample
            for key, sample in run.samples.items()
            if sample.image is not None and key in run.header.planned
        }
        for run in runs
    ]
    first: dict[int, Key] = {}
    for key in sorted(set.intersection(*map(set, with_image))):
        first.setdefault(key[0], key)
    by_category: dict[str, list[Key]] = {}
    for key in first.values():
        by_category.setdefault(with_image[0][key].category, []).append(key)
    in_turn = (key for key in chain.from_iterable(zip_longest(*by_category.values())) if key is not None)
    shown = (
        key
        for key in in_turn
        if all(_opens(run.image_path(samples[key])) for run, samples in zip(runs, with_image, strict=True))
    )
    return list(islice(shown, limit))


def _opens(path: Path) -> bool:
    """Whether the image exists and can be decoded. Scoring reports what is wrong with it."""
    try:
        _pixels(path)
    except OSError:
        return False
    return True


def _image_row(axes: Sequence[Axes], label: str, images: Sequence[Path]) -> None:
    """Show images side by side, with a label in front."""
    for axis, path in zip_longest(axes, images):
        axis.set_axis_off()
        if path is not None:
            axis.imshow(_pixels(path))
    axes[0].annotate(
        caption(label, 18), (-0.06, 0.5), xycoords="axes fraction", ha="right", va="center", fontsize=8
    )


def _captions(axes: Sequence[Axes], texts: Sequence[str]) -> None:
    for axis, text in zip(axes, texts, strict=False):
        axis.set_title(caption(text), fontsize=7, parse_math=False)


def _pixels(path: Path) -> Image:
    """Read an image for a grid; large ones are scaled down."""
    from PIL import Image

    with Image.open(path) as image:
        shown = image.convert("RGB")
    shown.thumbnail((256, 256))
    return shown


def caption(text: str, width: int = 27, lines: int = 4) -> str:
    """Wrap `text` to a few short lines, and replace characters that the font lacks."""
    return "\n".join(textwrap.wrap("".join(_drawable(text)), width, max_lines=lines, placeholder=" …"))


def _drawable(text: str) -> Iterator[str]:
    from matplotlib.font_manager import findfont, get_font

    font = get_font(findfont("DejaVu Sans"))
    for character in text:
        yield character if character.isspace() or font.get_char_index(ord(character)) else "□"


def section_heading(section: Section, text: str) -> str:
    """The suite's name, `text`, and why the results are not full ones."""
    marks = "; ".join(watermarks(section))
    return f"{section.suite}: {text}" + (f"   [{marks}]" if marks else "")


def stacked(width: float, heights: Sequence[float]) -> tuple[Figure, list[SubFigure]]:
    """A new figure and its parts from top to bottom; sizes are in inches. Needs no display."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, sum(heights)), layout="constrained", dpi=DPI)
    return figure, list(figure.subfigures(len(heights), 1, height_ratios=heights, squeeze=False)[:, 0])


def _by_standing(section: Section) -> list[Entry]:
    """The section's runs in the order of the opening table."""
    entries = {entry.label: entry for entry in section.entries}
    return [entries[label] for standing in section.standings for label in standing.entries]
