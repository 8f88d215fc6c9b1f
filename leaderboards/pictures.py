"""A board as pictures: a forest plot of the differences, and images of all systems side by side."""

from __future__ import annotations

import io
import math
import textwrap
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from itertools import chain, groupby, islice, zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Any

from leaderboards.board import GROUPS, Board, Claim, Column, Group, Section, SeedAgreement, Standing
from leaderboards.records import Key
from leaderboards.run_state import RunState
from leaderboards.stats import CLAIM_PROMPTS
from tcbench.images import open_image, upright

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, SubFigure
    from PIL.Image import Image

PANELS = 5
"""Panels side by side."""

COLOURS: Mapping[Claim, str] = {
    "better": "#0072b2",
    "worse": "#d55e00",
    "undecided": "#5b6572",
    "too few prompts": "#b3bac2",
}
"""Colour of each claim; people with colour blindness can tell them apart."""

PROMPTS = 6
"""Prompts shown for each suite, at most."""

ROUNDING = 1e-12
"""Smaller differences are treated as zero."""

_FONT = "DejaVu Sans"
"""Font of all pictures; it comes with matplotlib. Other fonts are used for characters that it lacks."""

DPI = 130
"""Pixels per inch."""


def draw_differences(board: Board) -> Figure | None:
    """Plot differences to the baseline: systems as rows in rank order, rewards by group as panels.

    All training seeds of a method share a row, with a thin tick for each seed. The first panel of a group of
    several rewards is their mean gain in standard deviations; the others are in units of their reward. None
    if there is nothing to compare.
    """
    blocks = [
        (section, group, columns)
        for section in board.sections
        for group in GROUPS
        if (columns := _compared(section, group))
    ]
    if not blocks:
        return None
    heights = [_block_height(section, len(columns) + (len(columns) > 1)) for section, _, columns in blocks]
    figure, (*parts, legend) = _stacked(2.1 * PANELS + 2, [*heights, 0.4])
    for part, (section, group, columns) in zip(parts, blocks, strict=True):
        heading = _heading(section, f"{GROUPS[group].heading}, difference to {section.baseline}")
        part.suptitle(heading, x=0.01, ha="left", fontsize=10, **_text_style([heading]))
        _plot_group(part, section, group, columns)
    _add_legend(legend, [standing for section, _, _ in blocks for standing in _shown(section)])
    return figure


def draw_samples(board: Board) -> Figure | None:
    """Show a grid of images for each suite: a row for each run, a column for each prompt, all from the same
    noise.

    None if no suite has images on disk that all of its runs share.
    """
    grids = [(s, keys) for s in board.sections if (keys := shown_keys([e.run for e in s.entries]))]
    if not grids:
        return None
    figure, parts = _stacked(1.75 * PROMPTS + 1.4, [1.2 + 1.75 * len(s.entries) for s, _ in grids])
    for part, (section, keys) in zip(parts, grids, strict=True):
        heading = _heading(section, "same prompts, same noise")
        part.suptitle(heading, fontsize=10, **_text_style([heading]))
        axes = part.subplots(len(section.entries), PROMPTS, squeeze=False)
        for row, entry in zip(axes, section.entries, strict=True):
            samples = [entry.run.samples[key] for key in keys]
            images, planned = entry.run.images, entry.run.header.planned.count
            unfinished = f" [{images} of {planned} images, incomplete]" if images < planned else ""
            _image_row(row, entry.label + unfinished, [entry.run.image_path(sample) for sample in samples])
        _captions(axes[0], [sample.prompt for sample in samples])
    return figure


def image_table(rows: Sequence[tuple[str, Sequence[Path]]], heads: Sequence[str]) -> Figure:
    """Show labelled rows of images, with a heading above each column."""
    figure, (part,) = _stacked(1.4 * len(heads) + 1.4, [0.3 + 1.4 * len(rows)])
    axes = part.subplots(len(rows), len(heads), squeeze=False)
    for row, (name, images) in zip(axes, rows, strict=True):
        _image_row(row, name, images)
    _captions(axes[0], heads)
    return figure


def png(figure: Figure) -> bytes:
    """The figure as a PNG file without dates or versions, so that the same board gives the same bytes."""
    out = io.BytesIO()
    figure.savefig(out, format="png", metadata={"Software": None})
    return out.getvalue()


def _compared(section: Section, group: Group) -> list[Column]:
    """The columns of a group that have a difference to show."""
    return [
        column
        for column in section.columns
        if column.group == group
        and any(column.label in standing.differences for standing in section.standings)
    ]


def _shown(section: Section) -> list[Standing]:
    return [standing for standing in section.standings if standing.entries != (section.baseline,)]


def _block_height(section: Section, panels: int) -> float:
    """Height of a group in inches."""
    return 0.3 + math.ceil(panels / PANELS) * (0.6 + 0.27 * len(_shown(section)))


def _plot_group(part: SubFigure, section: Section, group: Group, columns: Sequence[Column]) -> None:
    rows = _shown(section)
    panels: list[tuple[str, list[SeedAgreement | None], list[bool]]] = []
    if len(columns) > 1 and any(group in row.gains for row in rows):
        gains = [row.gains.get(group) for row in rows]
        panels.append(("mean gain (standard deviations)", gains, [group == "trained-on"] * len(rows)))
    for column in columns:
        trained = [
            all(section.cells[label, column.label, None].exposure == "trained-on" for label in row.entries)
            if column.label in row.differences
            else False
            for row in rows
        ]
        panels.append((column.title, [row.differences.get(column.label) for row in rows], trained))
    lines = math.ceil(len(panels) / PANELS)
    axes = part.subplots(lines, PANELS, squeeze=False, sharey=True)
    for axis, (name, seeds, trained) in zip(axes.flat, panels, strict=False):
        _plot_panel(axis, name, rows, seeds, trained, section.prompts)
    for axis in axes.flat[len(panels) :]:
        axis.set_axis_off()


def _plot_panel(
    axis: Axes,
    name: str,
    rows: Sequence[Standing],
    seeds: Sequence[SeedAgreement | None],
    trained: Sequence[bool],
    prompts: int,
) -> None:
    for height, (difference, hollow) in enumerate(zip(seeds, trained, strict=True)):
        if difference is None or difference.estimate is None:
            continue
        colour, estimate = COLOURS[difference.claim], difference.estimate
        if not math.isnan(estimate.low):
            axis.plot([estimate.low, estimate.high], [height, height], color=colour, linewidth=2)
        if len(difference.seeds) > 1:
            heights = [height] * len(difference.seeds)
            axis.plot(difference.seeds, heights, "|", color=colour, markersize=10, markeredgewidth=0.8)
        face = "white" if hollow else colour
        axis.plot(estimate.value, height, "o", color=colour, markerfacecolor=face, markersize=5)
        if estimate.n < prompts:  # some scores are missing
            position = (estimate.value, height - 0.12)
            axis.annotate(f"n = {estimate.n} of {prompts}", position, ha="center", va="bottom", fontsize=5)
    axis.axvline(0, color="black", linewidth=0.8, linestyle="--")
    labels = [_row_label(row) for row in rows]
    axis.set_yticks(range(len(rows)), labels, fontsize=8, **_text_style(labels))
    axis.set_ylim(len(rows) - 0.4, -0.6)  # the first rank on top
    title = _label(name, 36, 2)
    axis.set_title(title, fontsize=8, **_text_style([title]))
    axis.margins(x=0.1)
    if max(map(abs, axis.dataLim.intervalx)) < ROUNDING:
        axis.set_xlim(-1, 1)  # zero, and no scale of rounding errors
    axis.locator_params(axis="x", nbins=4)
    axis.tick_params(axis="x", labelsize=7)
    axis.tick_params(axis="y", length=0)
    axis.spines[["top", "right", "left"]].set_visible(False)


def _row_label(standing: Standing) -> str:
    rank = "" if standing.rank is None else f"{standing.rank}. "
    incomplete = "" if standing.is_complete else " [incomplete]"
    return _label(f"{rank}{standing.label}{incomplete}", 30, lines=2)


def _add_legend(part: SubFigure, rows: Sequence[Standing]) -> None:
    """One legend for all panels, of what they show."""
    from matplotlib.lines import Line2D

    shown = [seeds for row in rows for seeds in (*row.gains.values(), *row.differences.values())]
    words: Mapping[Claim, str] = {"too few prompts": f"below {CLAIM_PROMPTS} prompts, no claim"}
    handles = [
        Line2D([], [], color=colour, marker="o", markersize=5, linewidth=2, label=words.get(claim, claim))
        for claim, colour in COLOURS.items()
        if any(seeds.claim == claim for seeds in shown)
    ]
    dark = COLOURS["undecided"]
    if any("trained-on" in row.gains for row in rows):
        hollow = Line2D([], [], color=dark, marker="o", markerfacecolor="white", linestyle="", markersize=5)
        hollow.set_label("trained on this reward")
        handles.append(hollow)
    if any(len(seeds.seeds) > 1 for seeds in shown):
        tick = Line2D([], [], color=dark, marker="|", linestyle="", markersize=10, label="one training seed")
        handles.append(tick)
    part.legend(handles=handles, loc="center", ncols=len(handles), frameon=False, fontsize=8)


def shown_keys(
    runs: Sequence[RunState], limit: int = PROMPTS, within: Sequence[int] | None = None
) -> list[Key]:
    """Up to `limit` samples that every run has an image of, one for each prompt, categories in turn.

    Args:
        runs: The runs.
        limit: Largest number of samples.
        within: Numbers of the prompts to choose from; None: all.
    """
    with_image = [
        {
            key: sample
            for key, sample in run.samples.items()
            if sample.image is not None and key in run.header.planned and (within is None or key[0] in within)
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
    except (OSError, ValueError):
        return False
    return True


def _image_row(axes: Sequence[Axes], name: str, images: Sequence[Path]) -> None:
    """Show images side by side, with a name in front."""
    for axis, path in zip_longest(axes, images):
        axis.set_axis_off()
        if path is not None:
            axis.imshow(_pixels(path))
    text = _label(name, 18, lines=5)
    axes[0].annotate(
        text,
        (-0.06, 0.5),
        xycoords="axes fraction",
        ha="right",
        va="center",
        fontsize=8,
        **_text_style([text]),
    )


def _captions(axes: Sequence[Axes], texts: Sequence[str]) -> None:
    for axis, text in zip(axes, map(_caption, texts), strict=False):
        axis.set_title(text, fontsize=7, **_text_style([text]))


def _pixels(path: Path) -> Image:
    """Read an image for a grid; large ones are scaled down."""
    shown = upright(open_image(path)).convert("RGB")
    shown.thumbnail((256, 256))
    return shown


def _caption(text: str, width: int = 27, lines: int = 4) -> str:
    """Wrap a prompt to a few short lines; the end of a long one is left out."""
    text = _drawable(text)
    return "\n".join(textwrap.wrap(text, _columns(text, width), max_lines=lines, placeholder=" …"))


def _label(text: str, width: int, lines: int) -> str:
    """Wrap a name to a few short lines.

    The middle of a long one is left out, because names often differ at the end, as in a seed or a number of
    steps.
    """
    text = _drawable(text)
    wrapped: list[str] = []
    for kept in range(len(text), 0, -1):
        middle = "" if kept == len(text) else " … "
        shown = text[: kept // 2] + middle + text[len(text) - (kept - kept // 2) :]
        wrapped = textwrap.wrap(shown, _columns(text, width))
        if len(wrapped) <= lines:
            break
    return "\n".join(wrapped)


def _text_style(texts: Iterable[str]) -> dict[str, Any]:
    """Keywords of matplotlib for these texts: fonts that have their characters, and no formulas in $."""
    families = {family: None for text in texts for character in text if (family := _family(character))}
    return {"fontfamily": [_FONT, *(family for family in families if family != _FONT)], "parse_math": False}


def _columns(text: str, width: int) -> int:
    """Characters in a line; those of East Asian scripts are twice as wide as others."""
    wide = sum(unicodedata.east_asian_width(character) in "WF" for character in text)
    return width // 2 if 3 * wide > len(text) else width


def _drawable(text: str) -> str:
    """Transliterate characters that no font has, in brackets."""
    return "".join(
        "".join(part) if has_font else _transliterated(part)
        for has_font, group in groupby(text, lambda c: c.isspace() or _family(c) is not None)
        if (part := list(group))
    )


def _transliterated(characters: Iterable[str]) -> str:
    """Readings from Unicode's names, such as [neko] for two Hiragana; the code points of ideographs."""
    readings = [reading for character in characters if (reading := _reading(character))]
    separate = any(" " in reading or reading.startswith("U+") for reading in readings)
    return f"[{(' ' if separate else '').join(readings)}]"


def _reading(character: str) -> str:
    name = unicodedata.name(character, "")
    if any(kind in name for kind in (" LETTER ", " SYLLABLE ", " VOWEL SIGN ")):
        return name.rpartition(" ")[2].lower()
    if unicodedata.combining(character):
        return ""  # a mark on the letter before it
    return f"U+{ord(character):04X}" if not name or "IDEOGRAPH" in name else name.lower()


@lru_cache(maxsize=4096)
def _family(character: str) -> str | None:
    """The font family that has a character: `_FONT` if it can, else the first installed one.

    None if no font has it.
    """
    from matplotlib.font_manager import findfont, get_font

    if get_font(findfont(_FONT)).get_char_index(ord(character)):
        return _FONT
    for name, path in _regular_fonts():
        if get_font(path).get_char_index(ord(character)):
            return name
    return None


@lru_cache(maxsize=1)
def _regular_fonts() -> list[tuple[str, str]]:
    """Family and file of each installed font of regular weight, sorted."""
    from matplotlib.font_manager import fontManager

    return sorted(
        (font.name, font.fname)
        for font in fontManager.ttflist
        if font.style == "normal"
        and str(font.weight) in ("400", "normal", "regular", "book")
        # the placeholder glyphs of a "last resort" font are not readable
        and "last resort" not in font.name.lower().replace("lastresort", "last resort")
    )


def _heading(section: Section, text: str) -> str:
    """The suite's name, `text`, and why the results are not full ones."""
    marks = "; ".join(section.watermarks)
    return _drawable(f"{section.suite}: {text}" + (f"   [{marks}]" if marks else ""))


def _stacked(width: float, heights: Sequence[float]) -> tuple[Figure, list[SubFigure]]:
    """A new figure and its parts from top to bottom; sizes are in inches. Needs no display."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, sum(heights)), layout="constrained", dpi=DPI)
    return figure, list(figure.subfigures(len(heights), 1, height_ratios=heights, squeeze=False)[:, 0])
