"""Which models a start loads: those with something left to do, and the large ones one after the other."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from benchmarks import execution
from benchmarks.execution import execute_plan, prepare_run
from benchmarks.generate import Sampler
from benchmarks.planning import Plan, Request, plan_run
from benchmarks.resolve import ResolvedReward
from rewards.base import Reward
from tcbench.progress import Silent
from textcraftor import rewriters

Requests = Callable[..., Request]


@pytest.fixture
def loads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Records the rewards, language models and pipelines that are loaded to check or to use them."""
    loaded: list[str] = []
    load_reward, load_sampler = ResolvedReward.load, execution._load_sampler
    load_rewriter = rewriters.RewriterModel.__init__

    def reward(resolved: ResolvedReward, device: str) -> Reward:
        loaded.append(resolved.info.name)
        return load_reward(resolved, device)

    def rewriter(model: rewriters.RewriterModel, *arguments: Any) -> None:
        loaded.append("rewriter")
        load_rewriter(model, *arguments)

    def sampler(plan: Plan) -> Sampler:
        loaded.append("pipeline")
        return load_sampler(plan)

    monkeypatch.setattr(ResolvedReward, "load", reward)
    monkeypatch.setattr(rewriters.RewriterModel, "__init__", rewriter)
    monkeypatch.setattr(execution, "_load_sampler", sampler)
    return loaded


def run(request: Request) -> None:
    assert execute_plan(plan_run(request), Silent()).complete


@pytest.fixture
def rewriting(request_for: Requests, tiny_pipeline: Path, tmp_path: Path) -> Requests:
    """Makes requests for runs whose prompts a language model rewrites."""
    system = tmp_path / "rewriting.toml"
    system.write_text(f'pipeline = "{tiny_pipeline}"\nrewriter = "world-extend"\n')

    def make(**changes: Any) -> Request:
        return request_for(**{"model": str(system), "limit": 2} | changes)

    return make


def test_a_finished_run_loads_nothing_again(rewriting: Requests, loads: list[str]) -> None:
    run(rewriting())
    assert sorted(set(loads)) == ["pipeline", "rewriter", "toy-brightness"]
    loads.clear()
    run(rewriting())
    prepare_run(plan_run(rewriting()))  # a dry run
    assert loads == []


def test_only_rewards_that_lack_a_score_are_loaded(
    request_for: Requests, toy_rewards: Path, loads: list[str]
) -> None:
    run(request_for(limit=2))
    loads.clear()
    both = [f"{toy_rewards}:Brightness", f"{toy_rewards}:Picky"]
    run(request_for(limit=2, rewards=both))
    assert loads == ["toy-picky"]
    loads.clear()
    run(request_for(limit=3, rewards=both))  # another prompt needs an image and all scores
    assert loads == ["toy-brightness", "toy-picky", "pipeline"]


def test_a_wider_run_loads_the_rewriter_for_its_new_prompts(rewriting: Requests, loads: list[str]) -> None:
    run(rewriting())
    loads.clear()
    run(rewriting(seeds=2))  # the same prompts
    assert loads.count("rewriter") == 0
    assert loads.count("pipeline") == 1
    run(rewriting(limit=3))
    assert loads.count("rewriter") == 2  # checked, then used


def test_pipeline_and_language_model_are_not_in_memory_together(
    rewriting: Requests, monkeypatch: pytest.MonkeyPatch
) -> None:
    samplers: list[weakref.ref[Any]] = []
    load_sampler, rewrite = execution._load_sampler, rewriters.RewriterModel.rewrite
    alive: list[int] = []

    def watched(plan: Plan) -> Sampler:
        sampler = load_sampler(plan)
        samplers.append(weakref.ref(sampler.runner.pipe.unet))
        return sampler

    def counted(*arguments: Any) -> rewriters.Rewrites:
        alive.append(sum(sampler() is not None for sampler in samplers))
        return rewrite(*arguments)

    monkeypatch.setattr(execution, "_load_sampler", watched)
    monkeypatch.setattr(rewriters.RewriterModel, "rewrite", counted)
    run(rewriting())
    assert len(samplers) == 2  # checked before the first step, and loaded again to generate
    assert alive == [0]
