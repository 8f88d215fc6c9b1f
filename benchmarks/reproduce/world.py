"""The comparison on the embedded world: its methods, their budget, and its cells.

Everything that decides the table is in this file, and was here before the methods were compared: the
methods, their compute, the learning rates that are tried, and the headline comparisons.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any

from benchmarks.reproduce.tasks import TASKS
from benchmarks.systems import STYLE_WORDS
from tcbench.cells import WorkCell

BUDGET = 78_000
"""Compute of each method (`textcraftor.ledger.Ledger.compute`): TextCraftor's, 150 updates of 8 samples."""

HEADLINE = ("textcraftor", "rl", "rewriter", "direct")
"""Methods with several training seeds. Holm's correction covers two families, each by every column: all
headline systems against the base model, and the first method's seeds against the others' of the same number.
"""

BASELINE = "micro"
_EDITION = 2
"""Edition of the embedded world. It is part of each cell's key, so records of another edition are not mixed
with new ones.
"""
REWARDS = "world-aesthetic=1,world-pick=1,world-hps=1,world-clip=2.6"


@dataclass(frozen=True)
class Method:
    """A method that is trained."""

    name: str
    title: str
    settings: Mapping[str, Any]
    """Settings of `textcraftor.config.TrainConfig`, by dotted name, that differ from the model's defaults."""
    rates: tuple[float, ...]
    """Learning rates. Several are each tried with the first seed (`tasks.chosen_rate`)."""
    minutes: float
    """Core-minutes of one training run on a core that computes about 300 rows of the UNet a second."""
    rate_of: str = ""
    """Another method whose chosen learning rate is used."""
    needs: tuple[str, ...] = ()
    """Cells, or methods, whose results training starts from."""


def _ddpo(changes: Mapping[str, Any] = MappingProxyType({})) -> dict[str, Any]:
    return {"algorithm.name": "ddpo", "schedule.eta": 1.0, "schedule.tuned_steps": 25,
            "validation.eval_tuned_steps": 25, "optimiser.batch": 16, "data.group": 8,
            "optimiser.updates": 31, "optimiser.lr_schedule": "constant", "optimiser.ema": 0.0,
            **changes}  # fmt: skip


_METHODS: tuple[Method, ...] = (
    Method("textcraftor", "TextCraftor (text)", {"optimiser.updates": 150}, (2e-5, 5e-5, 1e-4), 5),
    Method("rl", "RL, text encoder (DDPO)", _ddpo(), (3e-5, 1e-4, 3e-4), 6),
    Method(
        "rewriter", "prompt rewriter (Promptist)",
        {"algorithm.name": "rewriting", "trainable.parts": ("rewriter",),
         "trainable.rewriter": "world-extend", "schedule.tuned_steps": 25,
         "validation.eval_tuned_steps": 25, "optimiser.batch": 32, "data.group": 4, "optimiser.updates": 44,
         "algorithm.policy_updates": 2, "algorithm.ratio_clip": 0.2, "algorithm.drift_penalty": 0.05,
         "optimiser.weight_decay": 0.0, "optimiser.lr_schedule": "constant", "optimiser.ema": 0.0},
        (1e-4, 3e-4, 1e-3), 5,
    ),
    Method(
        "direct", "direct fine-tuning",
        {"algorithm.name": "direct", "data.pairs": "renders", "data.prompts": "", "optimiser.updates": 1083,
         "validation.eval_tuned_steps": 25}, (1e-5, 2e-5, 5e-5), 9,
        needs=("renders",),
    ),
    Method("no-clip", "TextCraftor without CLIP",
           {"rewards.mix": "world-aesthetic=1,world-pick=1,world-hps=1", "optimiser.updates": 150}, (), 2.5,
           "textcraftor"),
    Method("only-aesthetic", "TextCraftor, aesthetic only",
           {"rewards.mix": "world-aesthetic=1", "optimiser.updates": 150}, (), 2.2, "textcraftor"),
    Method("only-pick", "TextCraftor, PickScore only",
           {"rewards.mix": "world-pick=1", "optimiser.updates": 150}, (), 2.2, "textcraftor"),
    Method("only-hps", "TextCraftor, HPSv2 only",
           {"rewards.mix": "world-hps=1", "optimiser.updates": 150}, (), 2.2, "textcraftor"),
    Method("k-10", "TextCraftor, K = 10", {"schedule.tuned_steps": 10, "optimiser.updates": 130}, (), 4.5,
           "textcraftor"),
    Method("k-15", "TextCraftor, K = 15", {"schedule.tuned_steps": 15, "optimiser.updates": 115}, (), 4,
           "textcraftor"),
    Method("unet", "TextCraftor (UNet)",
           {"trainable.parts": ("unet",), "optimiser.updates": 130, "optimiser.ema": 0.97}, (2e-5,), 4.5),
    Method("text-unet", "TextCraftor (text + UNet), twice the compute",
           {"trainable.parts": ("unet",), "optimiser.updates": 130, "trainable.start": "textcraftor"},
           (2e-5,), 4.5, needs=("textcraftor",)),
    Method("rl-last-5", "RL, text encoder, last 5 steps",
           _ddpo({"schedule.tuned_steps": 5, "validation.eval_tuned_steps": 15, "optimiser.updates": 65}),
           (), 4.2, "rl"),
    Method("rl-lora", "RL, text encoder, LoRA r16 (TexForce)",
           _ddpo({"trainable.lora_rank": 16}), (3e-4,), 5),
    Method("rl-unet", "RL, UNet, LoRA r4",
           _ddpo({"trainable.parts": ("unet",), "trainable.lora_rank": 4, "optimiser.updates": 24}),
           (3e-4,), 4.2),
    Method("rl-long", "RL, text encoder, twice the compute", _ddpo({"optimiser.updates": 62}), (), 10, "rl"),
    Method("refl", "ReFL", {"algorithm.name": "one-step", "optimiser.updates": 184}, (), 2.4, "textcraftor"),
    Method("draft-lv", "DRaFT-LV", {"algorithm.name": "low-variance", "optimiser.updates": 143}, (), 2.5,
           "textcraftor"),
    Method("alignprop", "AlignProp",
           {"algorithm.name": "truncation", "schedule.tuned_steps": 25, "validation.eval_tuned_steps": 25,
            "optimiser.updates": 120}, (), 4.5, "textcraftor"),
    Method("conditioning", "conditioning only, K = 15",
           {"algorithm.name": "conditioning", "schedule.tuned_steps": 15, "optimiser.updates": 85}, (), 4.2,
           "textcraftor"),
    Method("raft", "supervised on best-of-4 (RAFT)",
           {"algorithm.name": "denoising", "data.pairs": "best", "data.prompts": "", "optimiser.updates": 214,
            "validation.eval_tuned_steps": 25}, (2e-5,), 1.5, needs=("best",)),
)  # fmt: skip
METHODS: Mapping[str, Method] = {method.name: method for method in _METHODS}
"""Methods by name, in the order of the report."""


@dataclass(frozen=True)
class _Variant:
    """A system that is not trained itself: another system with changes, or a mix of encoders."""

    name: str
    title: str
    of: str = ""
    """The method whose first seed is changed; "" for the base model."""
    changes: Mapping[str, Any] = field(default_factory=dict)
    """Fields of `benchmarks.systems.System`, and "tuned_steps" for the steps with the tuned encoder."""
    mix: Mapping[str, float] = field(default_factory=dict)
    """Weights of methods' encoders (and of "original") in a mix; then ``of`` and ``changes`` are unused."""


SAMPLERS = ("euler", "dpm++2m")

VARIANTS: tuple[_Variant, ...] = (
    _Variant("style-words", "style words by rule", changes={"append": STYLE_WORDS}),
    _Variant("extend", "prompt rewriter, supervised only", changes={"rewriter": "world-extend"}),
    _Variant("best-of-4", "best of 4 images",
            changes={"best_of": 4, "best_of_reward": REWARDS, "calibration": "world"}),
    _Variant("micro-eta-1", "base, eta 1", changes={"eta": 1.0}),
    _Variant("rl-eta-1", "RL, text encoder, eta 1", "rl", {"eta": 1.0}),
    *(_Variant(f"last-{steps}", f"K = 5, sampled with the last {steps} steps", "textcraftor",
              {"tuned_steps": steps}) for steps in (5, 10, 25)),
    _Variant("k-10-last-10", "K = 10, sampled with the last 10 steps", "k-10", {"tuned_steps": 10}),
    *(_Variant(f"{name}-{sampler}", f"{title}, {sampler}", of, {"sampler": sampler})
      for sampler in SAMPLERS
      for name, title, of in (("micro", "base", ""), ("textcraftor", "TextCraftor", "textcraftor"))),
    *(_Variant(f"strength-{share:g}", f"strength {share:g}",
              mix={"textcraftor": share, "original": round(1 - share, 2)}) for share in (0.25, 0.5, 0.75)),
    _Variant("aesthetic-pick-0.5", "half aesthetic, half PickScore",
            mix={"only-aesthetic": 0.5, "only-pick": 0.5}),
    _Variant("three-styles", "a third each: aesthetic, PickScore, HPSv2",
            mix=dict.fromkeys(("only-aesthetic", "only-pick", "only-hps"), 1 / 3)),
)  # fmt: skip


@dataclass(frozen=True)
class Scale:
    """Amount of work."""

    prompts: int = 400
    """Held-out prompts."""
    seeds: int = 2
    """Noises per prompt."""
    training_seeds: int = 3
    """Training seeds of a headline method."""
    trials: int = 3
    """Largest number of learning rates to try for a method."""
    updates: float = 1.0
    """Fraction of each method's updates to run."""
    renders: int = 2000
    """Rendered images for direct fine-tuning."""
    best_prompts: int = 300
    """Prompts whose best of four images are training data (RAFT)."""
    validation_prompts: int = 32
    batch: int = 0
    """Samples of an update; 0 leaves each method its own number."""
    validations: int = 3
    """Validations of a training run after the first."""
    run_minutes: float = 2.0
    """Core-minutes of sampling and scoring one system."""
    minutes: float = 1.0
    """Factor for the core-minutes of training."""

    def seeds_of(self, method: Method) -> range:
        """Return the training seeds of a method."""
        return range(self.training_seeds if method.name in HEADLINE else 1)


FULL = Scale()
QUICK = Scale(
    prompts=4, training_seeds=2, trials=2, updates=0.0, renders=8, best_prompts=4, validation_prompts=2,
    batch=4, validations=1, run_minutes=0.1, minutes=0.02,
)  # fmt: skip
"""Checks that everything works; nothing is learned in so few updates."""


def plan_cells(scale: Scale, *, headline_only: bool = False) -> list[WorkCell]:
    """Return all cells, those of the headline first, or those of the headline alone."""
    headline = [METHODS[name] for name in METHODS if name in HEADLINE]
    cells = [
        _cell("renders", "renders", 1, {"count": scale.renders}),
        _run(BASELINE, scale),
        *(cell for method in headline for cell in _training(method, scale)),
    ]
    if headline_only:
        return cells
    others = [METHODS[name] for name in METHODS if name not in HEADLINE]
    return [
        *cells,
        _cell("best", "best", 3.5 * scale.minutes, {"prompts": scale.best_prompts, "reward": REWARDS}),
        *(cell for method in others for cell in _training(method, scale)),
        *(cell for variant in VARIANTS for cell in _variant(variant, scale)),
    ]


def _cell(
    name: str, task: str, minutes: float, options: Mapping[str, Any], needs: tuple[str, ...] = (), **more: Any
) -> WorkCell:
    return WorkCell(name, f"{task}, edition {_EDITION}", TASKS[task], options, needs, minutes, **more)


def _settings(method: Method, scale: Scale) -> dict[str, Any]:
    """Settings of TrainConfig, except learning rate, seed and paths."""
    settings = {"rewards.mix": REWARDS, **method.settings, "logging.method": method.title}
    updates = max(1, round(settings["optimiser.updates"] * scale.updates))
    if scale.batch:
        group = min(2, settings.get("data.group", 1))
        settings |= {"optimiser.batch": scale.batch, "data.group": group, "algorithm.policy_updates": 1}
    every = -(-updates // scale.validations)  # rounded up
    return settings | {
        "optimiser.updates": updates,
        "validation.every": every,
        "validation.prompt_count": scale.validation_prompts,
        "logging.save_every": every,
    }


def _training(method: Method, scale: Scale) -> Iterator[WorkCell]:
    """Yield the trials with the first seed, then for each seed its training and its run."""
    settings, minutes = _settings(method, scale), method.minutes * scale.minutes
    rates = method.rates[: scale.trials]
    trials = _trials(method.name, scale)
    needs = [f"train-{name}-0" if name in METHODS else name for name in method.needs]
    needs += _trials(method.rate_of, scale) if method.rate_of else []
    for name, rate in zip(trials, rates, strict=False):
        options: dict[str, Any] = {"name": method.name, "settings": settings, "rate": rate}
        yield _cell(name, "trial", minutes, options, tuple(needs), light=True)
    for seed in scale.seeds_of(method):
        name = f"train-{method.name}-{seed}"
        options = {
            "name": method.name, "settings": settings, "seed": seed,
            "rates": list(rates or METHODS[method.rate_of].rates[: scale.trials]),
            "rates_of": method.rate_of or method.name,
        }  # fmt: skip
        is_trial = bool(trials) and seed == 0  # the first seed with the chosen rate has been trained already
        yield _cell(name, "train", 0.0 if is_trial else minutes, options, (*needs, *trials))
        yield _run(f"{method.name}-{seed}", scale, name)


def _trials(name: str, scale: Scale) -> list[str]:
    """Names of the cells that a method's learning rate is chosen by."""
    rates = METHODS[name].rates[: scale.trials]
    return [f"try-{name}-{rate:g}" for rate in rates] if len(rates) > 1 else []


def _variant(variant: _Variant, scale: Scale) -> Iterator[WorkCell]:
    sources = [variant.of] if variant.of else [name for name in variant.mix if name != "original"]
    name = f"system-{variant.name}"
    options = {"name": variant.name, "of": variant.of, "changes": variant.changes, "mix": variant.mix}
    yield _cell(name, "system", 0.0, options, tuple(f"train-{source}-0" for source in sources))
    cell = _run(variant.name, scale, name)
    yield replace(cell, minutes=cell.minutes * variant.changes.get("best_of", 1))


def _run(name: str, scale: Scale, *needs: str) -> WorkCell:
    options = {"name": name, "prompts": scale.prompts, "seeds": scale.seeds}
    return _cell(f"run-{name}", "run", scale.run_minutes, options, needs)
