"""Terms of a reward mix, and the text in which a mix is written. Free of torch."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rewards.registry import info
from tcbench.errors import ConfigError, ProblemCollector

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class MixTerm:
    """One reward of a mix. Its value is ``weight * (min(score, cap) - mean) / std``."""

    weight: float
    cap: float = math.inf
    """Score above which the reward adds nothing more and has no gradient; infinity is off."""
    mean: float = 0.0
    """Subtracted from the score; 0 keeps the reward's own scale."""
    std: float = 1.0
    """Divides the score; 1 keeps the reward's own scale."""

    def value(self, scores: Tensor) -> Tensor:
        """Return the term's values (B,) for scores (B,)."""
        # The cap applies to the official score, before the calibration, because that is the scale in
        # which papers and `tcbench ls rewards` state typical ranges.
        return self.weight * (scores.clamp(max=self.cap) - self.mean) / self.std


def parse_mix(text: str) -> dict[str, MixTerm]:
    """Parse a mix such as ``aesthetic-v2=1,hpsv2=100@0.3``.

    Args:
        text: Comma-separated terms ``name=weight`` or ``name=weight@cap``.

    Returns:
        Terms by reward name, in the order in which they are written.

    Raises:
        ConfigError: If a term is invalid, a weight is 0, a reward is named twice, or there is no term.
        UnknownName: If a reward does not exist.
        Problems: For several of these.
    """
    terms: dict[str, MixTerm] = {}
    names: dict[str, str] = {}  # as written, by the name in the record
    problems = ProblemCollector()
    for item in filter(None, (item.strip() for item in text.split(","))):
        with problems.catch():
            name, term = _parse_term(item)
            if name in terms:
                raise ConfigError(f"the reward mix names {name} twice; give it one weight")
            # Scores, logs and calibrations are kept by this name, so two rewards cannot share it.
            other = names.setdefault(info(name).name, name)
            if other != name:
                raise ConfigError(
                    f"{other} and {name} in the reward mix have the same name, {info(name).name}; give it "
                    "one weight, or register one of them under another name"
                )
            terms[name] = term
    problems.raise_any()
    if not terms:
        raise ConfigError("the reward mix is empty; give at least one term, such as pickscore=1,clip=100")
    return terms


def _parse_term(item: str) -> tuple[str, MixTerm]:
    # From the right, because a name may contain "=": a path, as in "my=rewards.py:Red=1".
    name, equals, amount = item.rpartition("=")
    weight, at, cap = amount.partition("@")
    try:
        term = MixTerm(float(weight), float(cap) if at else math.inf)
    except ValueError:
        equals = ""
    if not equals or not name or not math.isfinite(term.weight) or math.isnan(term.cap):
        raise ConfigError(f"invalid term {item!r} in the reward mix; expected name=weight or name=weight@cap")
    if term.weight == 0:
        raise ConfigError(
            f"{name} has the weight 0 in the reward mix, which changes nothing; give it another weight or "
            "leave it out"
        )
    return name, term
