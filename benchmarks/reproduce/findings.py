"""The paper's findings, each with what the comparison says of it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

from benchmarks.reproduce.results import FIRST, Results
from benchmarks.reproduce.world import BASELINE, SAMPLERS, STRENGTHS
from leaderboards.board import Cell, SeedAgreement

TRAINED_QUALITY = ("world-aesthetic", "world-pick", "world-hps")
JUDGED_QUALITY = ("world-rule", "world-blip")
TRAINED_ALIGNMENT = ("world-clip",)
JUDGED_ALIGNMENT = ("world-oracle", "world-vqa")

COLUMN_GROUPS = {
    "quality, trained": TRAINED_QUALITY,
    "quality, judges": JUDGED_QUALITY,
    "alignment, trained": TRAINED_ALIGNMENT,
    "alignment, judges": JUDGED_ALIGNMENT,
}
"""Rewards by what they measure, and whether methods are trained on them."""

_MARGIN = 0.01
"""Largest fall of a judge of alignment, whose scores are shares, that still counts as no fall: one point."""

RULES = f"""\
A finding **holds** if every column that its figures name is claimed better in every training seed, **does
not hold** if one of them is claimed worse, and is **undecided** otherwise; where the finding says lower or
lost, it is the other way round. That alignment is not lost, or not worse, holds if the lower end of every
interval is above -{_MARGIN:g}, and does not if the upper end of one is below it; it is undecided where an
interval of a single seed has both sides. Quality rises with the strength if it does from each strength to
the next. A mix of styles lies between them if its pictures do in colourfulness and darkness. Figures are
differences: the mean of the seeds with the smallest and the largest, or of one system with its 95 %
interval."""


@dataclass(frozen=True)
class _Finding:
    """A finding of the paper, whether it holds here, and the figures."""

    claim: str
    verdict: str
    figures: str

    @property
    def row(self) -> dict[str, str]:
        """The finding as a row of the table."""
        return {"finding of the paper": self.claim, "here": f"**{self.verdict}**", "figures": self.figures}


def findings(results: Results) -> Iterator[_Finding]:
    """Yield all findings; those of systems outside the headline only if these were run."""
    base = results.against_base

    def cells_to_base(name: str, columns: Sequence[str]) -> list[list[Cell]]:
        return [[base.cells[system, c, None] for system in results.seeds(name)] for c in columns]

    def cells_to_other(other: str, columns: Sequence[str]) -> list[list[Cell]]:
        return [list(results.against_first[other, column]) for column in columns]

    quality = (*TRAINED_QUALITY, *JUDGED_QUALITY)
    yield _better("TextCraftor is better than the base, by the rewards it is trained on",
                  cells_to_base(FIRST, (*TRAINED_QUALITY, *TRAINED_ALIGNMENT)))  # fmt: skip
    yield _better("... by judges of quality", cells_to_base(FIRST, JUDGED_QUALITY))
    yield _not_below("... and does not lose alignment", cells_to_base(FIRST, JUDGED_ALIGNMENT))
    for other in results.headline:
        if other not in (FIRST, "text-unet"):
            yield _better(
                f"TextCraftor has better quality than {Results.title(other)}", cells_to_other(other, quality)
            )
            yield _not_below("... and does not align worse", cells_to_other(other, JUDGED_ALIGNMENT))
    yield _worse(
        "text + UNet is better still: TextCraftor (text) has lower quality",
        cells_to_other("text-unet", quality),
    )
    if not results.headline_only:
        yield from _exploratory(results)


def _exploratory(results: Results) -> Iterator[_Finding]:
    tuned = f"{FIRST}-0"

    def cells(name: str, columns: Sequence[str], baseline: str) -> list[list[Cell]]:
        section = results.section([name], baseline)
        return [[section.cells[name, column, None]] for column in columns]

    for name, own in zip(("only-aesthetic-0", "only-pick-0", "only-hps-0"), TRAINED_QUALITY, strict=True):
        yield _better(f"A single reward raises itself: {Results.title(name)}", cells(name, [own], BASELINE))
        yield _worse(
            "... and lowers alignment", cells(name, (*TRAINED_ALIGNMENT, *JUDGED_ALIGNMENT), BASELINE)
        )
    yield _better("Without the CLIP reward the other rewards explode",
                  cells("no-clip-0", TRAINED_QUALITY, tuned))  # fmt: skip
    yield _worse("... and alignment is lost", cells("no-clip-0", JUDGED_ALIGNMENT, tuned))
    yield _better("K = 5 with the last 15 steps is better than all 25 steps",
                  cells("k-5-0", (*TRAINED_QUALITY, *JUDGED_ALIGNMENT), tuned))  # fmt: skip
    for sampler in SAMPLERS:
        yield _better(f"A tuned encoder works with another sampler: {sampler}",
                      cells(f"{FIRST}-{sampler}", TRAINED_QUALITY, f"{BASELINE}-{sampler}"))  # fmt: skip
    yield _rising(results)
    yield _between(results)


def _better(claim: str, columns: Sequence[Sequence[Cell]]) -> _Finding:
    claims = [_agreed(cells).claim for cells in columns]
    verdict = "holds" if set(claims) == {"better"} else "does not hold" if "worse" in claims else "undecided"
    return _Finding(claim, verdict, _figures(columns))


def _worse(claim: str, columns: Sequence[Sequence[Cell]]) -> _Finding:
    """A finding that is stated from the side of what is worse."""
    claims = [_agreed(cells).claim for cells in columns]
    verdict = "holds" if set(claims) == {"worse"} else "does not hold" if "better" in claims else "undecided"
    return _Finding(claim, verdict, _figures(columns))


def _not_below(claim: str, columns: Sequence[Sequence[Cell]]) -> _Finding:
    differences = [cell.comparison.difference for cells in columns for cell in cells if cell.comparison]
    if differences and all(difference.low > -_MARGIN for difference in differences):
        verdict = "holds"
    else:
        verdict = "does not hold" if any(d.high < -_MARGIN for d in differences) else "undecided"
    return _Finding(claim, verdict, _figures(columns))


def _rising(results: Results) -> _Finding:
    """Whether quality rises with the strength of the tuned encoder, from each strength to the next."""
    steps = pairwise([BASELINE, *STRENGTHS, f"{FIRST}-0"])
    column = JUDGED_QUALITY[0]
    cells = [results.section([higher], lower).cells[higher, column, None] for lower, higher in steps]
    finding = _better("Quality rises with the strength of the encoder", [[cell] for cell in cells])
    return replace(finding, figures=f"from each of 0, 0.25, 0.5, 0.75, 1 to the next: {finding.figures}")


def _between(results: Results) -> _Finding:
    """Whether a mix of two styles looks like something between them."""
    saturated, dark, mixed = (results.looks(n) for n in ("saturated-0", "dark-0", "saturated-dark"))
    inside = [
        min(getattr(saturated, axis), getattr(dark, axis))
        < getattr(mixed, axis)
        < max(getattr(saturated, axis), getattr(dark, axis))
        for axis in ("colourfulness", "darkness")
    ]
    figures = "; ".join(
        f"{name}: colourfulness {looks.colourfulness:.1f}, darkness {looks.darkness:.1f}"
        for name, looks in (("saturated", saturated), ("half and half", mixed), ("dark", dark))
    )
    return _Finding(
        "A mix of two styles lies between them", "holds" if all(inside) else "does not hold", figures
    )


def _agreed(cells: Sequence[Cell]) -> SeedAgreement:
    agreed = SeedAgreement.of_cells(cells)
    assert agreed is not None
    return agreed


def _figures(columns: Sequence[Sequence[Cell]]) -> str:
    return "; ".join(f"{cells[0].column} {Results.text(cells, 1)}" for cells in columns)
