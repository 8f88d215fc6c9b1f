"""Forest plot of a board: differences to the baseline with their intervals, one panel for each reward."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from leaderboards.board import Board, Claim, Column, Group, Section, SeedAgreement, Standing
from leaderboards.pictures import caption, section_heading, stacked
from leaderboards.render import title
from leaderboards.stats import CLAIM_PROMPTS

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, SubFigure

PANELS = 5
"""Panels side by side."""

COLOURS: Mapping[Claim, str] = {
    "better": "#0072b2",
    "worse": "#d55e00",
    "undecided": "#5b6572",
    "too few prompts": "#b3bac2",
}
"""Colour of each claim; people with colour blindness can tell them apart."""

GROUP_TITLES: Mapping[Group, str] = {
    "trained-on": "Rewards trained on",
    "same-family": "Related to a reward trained on",
    "held-out": "Held-out rewards",
    "judge": "Judges",
    "human": "Human votes",
}


def draw_differences(board: Board) -> Figure | None:
    """Plot differences to the baseline: systems as rows in rank order, rewards by group as panels.

    All training seeds of a method share a row, with a thin tick for each seed. The first panel of a group of
    several rewards is their mean gain in standard deviations; the others are in units of their reward. None
    if there is nothing to compare.
    """
    blocks = [
        (section, group, columns)
        for section in board.sections
        for group in GROUP_TITLES
        if (columns := _compared(section, group))
    ]
    if not blocks:
        return None
    heights = [_block_height(section, len(columns) + (len(columns) > 1)) for section, _, columns in blocks]
    figure, (*parts, legend) = stacked(2.1 * PANELS + 2, [*heights, 0.4])
    for part, (section, group, columns) in zip(parts, blocks, strict=True):
        part.suptitle(
            section_heading(section, f"{GROUP_TITLES[group]}, difference to {section.baseline}"),
            x=0.01,
            ha="left",
            fontsize=10,
        )
        _plot_group(part, section, group, columns)
    _add_legend(legend, [standing for section, _, _ in blocks for standing in _shown(section)])
    return figure


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
        panels.append((title(column), [row.differences.get(column.label) for row in rows], trained))
    lines = math.ceil(len(panels) / PANELS)
    axes = part.subplots(lines, PANELS, squeeze=False, sharey=True)
    for axis, (name, seeds, trained) in zip(axes.flat, panels, strict=False):
        _plot_panel(axis, name, rows, seeds, trained)
    for axis in axes.flat[len(panels) :]:
        axis.set_axis_off()


def _plot_panel(
    axis: Axes,
    name: str,
    rows: Sequence[Standing],
    seeds: Sequence[SeedAgreement | None],
    trained: Sequence[bool],
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
    axis.axvline(0, color="black", linewidth=0.8, linestyle="--")
    axis.set_yticks(range(len(rows)), [_row_label(row) for row in rows], fontsize=8)
    axis.set_ylim(len(rows) - 0.4, -0.6)  # the first rank on top
    axis.set_title(name, fontsize=8)
    axis.margins(x=0.1)
    axis.locator_params(axis="x", nbins=4)
    axis.tick_params(axis="x", labelsize=7)
    axis.tick_params(axis="y", length=0)
    axis.spines[["top", "right", "left"]].set_visible(False)


def _row_label(standing: Standing) -> str:
    rank = "" if standing.rank is None else f"{standing.rank}. "
    return caption(f"{rank}{standing.label}", 30, lines=2)


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
