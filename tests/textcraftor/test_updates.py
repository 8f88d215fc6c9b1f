"""When training notes that a reward gives no learning signal, and when it ends a run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rewards.combine.terms import MixTerm
from tcbench.errors import ConfigError, TcbenchError
from textcraftor.sources import PromptSource, SampleOrder
from textcraftor.updates import LearningWatch, UpdateTotals, _RewardTotals, _WorkCounts

BATCH = 10
Range = tuple[float, float]


class Run:
    """A run of updates made by hand, of a method with gradients unless ``pull`` is None."""

    def __init__(self, notes: Any, folder: Path, **terms: MixTerm) -> None:
        order = SampleOrder(PromptSource.from_texts("", ["a cat", "a dog"]), 0)
        self.notes = notes
        self.watch = LearningWatch(terms, {name: name for name in terms}, order, folder, notes)
        self.done = 0

    def update(
        self,
        *,
        pull: float | None = 0.0,
        grad_norm: float = 0.0,
        batch: int = BATCH,
        last: bool = False,
        skipped: int = 0,
        bad: tuple[str, ...] = (),
        cap: float = float("inf"),
        **scores: Range,
    ) -> list[str]:
        """Check an update with these lowest and highest scores; return the notes so far."""
        first, self.done = self.done, self.done + batch
        rewards = {
            name: _RewardTotals(
                batch if name in bad else 0, 0, pull, (low, high), (min(low, cap), min(high, cap))
            )
            for name, (low, high) in scores.items()
        }
        counts = _WorkCounts(batch, skipped, batch, 0, 0, 0)
        first_skipped = first if skipped else None
        totals = UpdateTotals(counts, {}, rewards, grad_norm, False, first_skipped, first)
        self.watch.check(totals, skipped, last=last)
        lines: list[str] = self.notes.lines
        return lines


@pytest.fixture
def run(make_notes: Callable[..., Any], tmp_path: Path) -> Callable[..., Run]:
    """Makes a run with the given terms, by default one reward a."""
    return lambda **terms: Run(make_notes(), tmp_path, **(terms or {"a": MixTerm(1.0)}))


def test_a_run_ends_when_all_gradients_are_0_from_its_beginning(run: Callable[..., Run]) -> None:
    both = run(a=MixTerm(1.0), b=MixTerm(1.0, cap=0.5))
    assert both.update(a=(0.2, 0.2), b=(0.6, 0.7)) == []
    with pytest.raises(ConfigError) as caught:
        both.update(a=(0.2, 0.2), b=(0.6, 0.8))
    text = str(caught.value)
    assert "the gradient was 0 for all 20 samples so far, such as 'a " in text
    assert "a gives every image the score 0.2; b is above its cap 0.5 (0.6 to 0.8)" in text
    assert text.endswith("raise the cap if scores exceed it, or use other rewards")


def test_a_run_that_has_learned_is_not_ended(run: Callable[..., Run]) -> None:
    once = run()
    once.update(pull=1.0, grad_norm=1.0, a=(0.1, 0.2))
    for _ in range(5):
        lines = once.update(a=(0.2, 0.2))
    assert [line.split(",")[0] for line in lines] == [
        "no learning signal in the last 20 samples",
        "no learning signal in the last 40 samples",
    ]


def test_a_sparse_reward_without_gradients_does_not_end_a_run(run: Callable[..., Run]) -> None:
    sparse = run()
    for _ in range(8):
        lines = sparse.update(pull=None, a=(0.0, 0.0))
    assert [line.split(",")[0] for line in lines] == [
        f"no learning signal in the last {count} samples" for count in (20, 40, 80)
    ]
    assert all("such as 'a " in line and line.endswith("a gives every image the score 0") for line in lines)
    sparse.update(pull=None, grad_norm=1.0, a=(0.0, 1.0))
    assert sparse.update(pull=None, a=(0.0, 0.0)) == lines


def test_without_gradients_differences_between_updates_are_a_signal(run: Callable[..., Run]) -> None:
    other = run()
    for number in range(6):
        lines = other.update(pull=None, grad_norm=1.0, a=(number % 2, number % 2))
    assert lines == []


def test_without_gradients_scores_above_the_cap_give_no_signal(run: Callable[..., Run]) -> None:
    capped = run(a=MixTerm(1.0, cap=0.5))
    for high in (0.6, 0.9):
        lines = capped.update(pull=None, cap=0.5, a=(0.6, high))
    assert [line.split(": ")[1] for line in lines] == ["a is above its cap 0.5 (0.6 to 0.9)"]


def test_scores_that_differ_between_updates_of_one_sample_are_not_called_constant(
    run: Callable[..., Run],
) -> None:
    single = run()
    for number in range(19):
        single.update(batch=1, a=(number / 10, number / 10))
    with pytest.raises(ConfigError, match=r"the gradient of a is 0 \(scores 0 to 1\.9\)"):
        single.update(batch=1, a=(1.9, 1.9))


def test_rewards_that_vary_beside_a_gradient_of_0_are_noted(run: Callable[..., Run]) -> None:
    varying = run()
    for _ in range(2):
        lines = varying.update(pull=1.0, grad_norm=0.0, a=(0.1, 0.9))
    (line,) = lines
    assert line.startswith("no learning signal in the last 20 samples, such as 'a ")
    assert line.endswith("the rewards vary, but the gradient of what is trained is 0")


def test_a_short_run_is_judged_at_its_last_update(run: Callable[..., Run]) -> None:
    with pytest.raises(ConfigError, match="for all 10 samples so far"):
        run().update(last=True, a=(0.5, 0.5))
    assert run().update(a=(0.5, 0.5)) == []
    assert run().update(last=True, batch=1, a=(0.5, 0.5)) == []  # of one sample nothing can be said
    learned = run()
    learned.update(pull=1.0, grad_norm=1.0, a=(0.1, 0.9))
    assert learned.update(last=True, a=(0.5, 0.5)) == []


def test_a_run_ends_when_no_sample_is_finite(run: Callable[..., Run]) -> None:
    broken = run(a=MixTerm(1.0), b=MixTerm(1.0))
    given: dict[str, Any] = {"skipped": BATCH, "bad": ("a", "b"), "a": (1, 0), "b": (1, 0)}
    (line,) = broken.update(**given)
    assert line.startswith("skipped 'a ")
    assert line.endswith("; not finite: the score of a, the score of b (10 so far)")
    with pytest.raises(TcbenchError) as caught:
        broken.update(**given)
    assert "the last 20 samples were skipped, such as 'a " in str(caught.value)
    assert "; not finite: the score of a, the score of b; use other prompts, or fix" in str(caught.value)
