"""The comparison on the embedded world: its methods, their budget, and the cells that it is made of.

Everything that decides the table stands here, and stood here before the methods were compared: what they are,
the compute they are given, the learning rates that are tried, and which comparisons are the headline.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from benchmarks.reproduce import steps
from benchmarks.reproduce.cells import Cell

BUDGET = 78_000
"""Compute of each method (`textcraftor.ledger.Ledger.compute`): TextCraftor's, 150 updates of 8 samples."""

HEADLINE = ("textcraftor", "rl", "rewriter", "direct")
"""The methods with several training seeds. Holm's correction is over two families: each of their systems
against the base, and the first method's seeds against the others' of the same number; by every column.
"""

BASELINE = "micro"
REWARDS = "world-aesthetic=1,world-pick=1,world-hps=1,world-clip=2.6"


@dataclass(frozen=True)
class Method:
    """Something that is trained: settings of TrainConfig beside the model's own."""

    name: str
    title: str
    settings: Mapping[str, Any]
    rates: tuple[float, ...]
    """Learning rates: with several, each is tried with the first seed (`steps.chosen_rate`)."""
    minutes: float
    """Core-minutes of one training run, where a core draws about 300 rows of the UNet a second, as those of
    2025 do; where it draws half as many, twice that.
    """
    rate_of: str = ""
    """Another method whose chosen learning rate is taken."""
    needs: tuple[str, ...] = ()
    """Cells, or trained methods, that it starts from."""


def _ddpo(**more: Any) -> dict[str, Any]:
    return {"estimator": "ddpo", "eta": 1.0, "tuned_steps": 25, "drawn_tuned_steps": 25, "batch": 16,
            "group": 8, "updates": 31, "lr_schedule": "constant", "ema": 0.0} | more  # fmt: skip


METHODS: tuple[Method, ...] = (
    Method("textcraftor", "TextCraftor (text)", {"updates": 150}, (2e-5, 5e-5, 1e-4), 5),
    Method("rl", "RL, text encoder (DDPO)", _ddpo(), (3e-5, 1e-4, 3e-4), 6),
    Method(
        "rewriter", "prompt rewriter (Promptist)",
        {"estimator": "rewriting", "trains": ("rewriter",), "rewriter": "world-extend", "tuned_steps": 25,
         "drawn_tuned_steps": 25, "batch": 32, "group": 4, "updates": 44, "policy_updates": 2,
         "ratio_clip": 0.2, "drift_penalty": 0.05, "weight_decay": 0.0, "lr_schedule": "constant",
         "ema": 0.0},
        (1e-4, 3e-4, 1e-3), 5,
    ),
    Method(
        "direct", "direct fine-tuning",
        {"estimator": "direct", "pairs": "renders", "prompts": "", "updates": 1083,
         "drawn_tuned_steps": 25}, (1e-5, 2e-5, 5e-5), 9,
        needs=("renders",),
    ),
    Method("no-clip", "TextCraftor without CLIP",
           {"rewards": "world-aesthetic=1,world-pick=1,world-hps=1", "updates": 150}, (), 2.5, "textcraftor"),
    Method("only-aesthetic", "TextCraftor, aesthetic only",
           {"rewards": "world-aesthetic=1", "updates": 150}, (), 2.2, "textcraftor"),
    Method("only-pick", "TextCraftor, PickScore only",
           {"rewards": "world-pick=1", "updates": 150}, (), 2.2, "textcraftor"),
    Method("only-hps", "TextCraftor, HPSv2 only",
           {"rewards": "world-hps=1", "updates": 150}, (), 2.2, "textcraftor"),
    Method("k-10", "TextCraftor, K = 10", {"tuned_steps": 10, "updates": 130}, (), 4.5, "textcraftor"),
    Method("k-15", "TextCraftor, K = 15", {"tuned_steps": 15, "updates": 115}, (), 4, "textcraftor"),
    Method("unet", "TextCraftor (UNet)", {"trains": ("unet",), "updates": 130, "ema": 0.97}, (2e-5,), 4.5),
    Method("text-unet", "TextCraftor (text + UNet), twice the compute",
           {"trains": ("unet",), "updates": 130, "start": "textcraftor"}, (2e-5,), 4.5,
           needs=("textcraftor",)),
    Method("rl-last-5", "RL, text encoder, last 5 steps",
           _ddpo(tuned_steps=5, drawn_tuned_steps=15, updates=65), (), 4.2, "rl"),
    Method("rl-lora", "RL, text encoder, LoRA r16 (TexForce)", _ddpo(lora_rank=16), (3e-4,), 5),
    Method("rl-unet", "RL, UNet, LoRA r4", _ddpo(trains=("unet",), lora_rank=4, updates=24), (3e-4,), 4.2),
    Method("rl-long", "RL, text encoder, twice the compute", _ddpo(updates=62), (), 10, "rl"),
    Method("refl", "ReFL", {"estimator": "one-step", "updates": 184}, (), 2.4, "textcraftor"),
    Method("draft-lv", "DRaFT-LV", {"estimator": "low-variance", "updates": 143}, (), 2.5, "textcraftor"),
    Method("alignprop", "AlignProp",
           {"estimator": "truncation", "tuned_steps": 25, "drawn_tuned_steps": 25, "updates": 120},
           (), 4.5, "textcraftor"),
    Method("conditioning", "conditioning only, K = 15",
           {"estimator": "conditioning", "tuned_steps": 15, "updates": 85}, (), 4.2, "textcraftor"),
    Method("raft", "supervised on best-of-4 (RAFT)",
           {"estimator": "denoising", "pairs": "best", "prompts": "", "updates": 214,
            "drawn_tuned_steps": 25}, (2e-5,), 1.5,
           needs=("best",)),
)  # fmt: skip


@dataclass(frozen=True)
class Variant:
    """A system that is drawn with and not trained: another one, changed."""

    name: str
    title: str
    of: str = ""
    """A method, or "" for the base model."""
    changes: Mapping[str, Any] = field(default_factory=dict)
    """Fields of `benchmarks.systems.System`; "last": the steps that the tuned encoder draws."""
    mix: Mapping[str, float] = field(default_factory=dict)
    """Or methods (and "original") that are mixed."""


SAMPLERS = ("euler", "dpm++2m")

VARIANTS: tuple[Variant, ...] = (
    Variant("style-words", "style words by rule", changes={"append": ", vivid, crisp, glowing, clean"}),
    Variant("extend", "prompt rewriter, supervised only", changes={"rewriter": "world-extend"}),
    Variant("best-of-4", "best of 4 images",
            changes={"best_of": 4, "chooser": REWARDS, "calibration": "world"}),
    Variant("micro-eta-1", "as it is, eta 1", changes={"eta": 1.0}),
    Variant("rl-eta-1", "RL, text encoder, eta 1", "rl", {"eta": 1.0}),
    *(Variant(f"last-{last}", f"K = 5, last {last} steps drawn", "textcraftor", {"last": last})
      for last in (5, 10, 25)),
    Variant("k-10-last-10", "K = 10, last 10 steps drawn", "k-10", {"last": 10}),
    *(Variant(f"{name}-{sampler}", f"{title}, {sampler}", of, {"sampler": sampler})
      for sampler in SAMPLERS
      for name, title, of in (("micro", "as it is", ""), ("textcraftor", "TextCraftor", "textcraftor"))),
    *(Variant(f"strength-{share:g}", f"strength {share:g}",
              mix={"textcraftor": share, "original": round(1 - share, 2)}) for share in (0.25, 0.5, 0.75)),
    Variant("aesthetic-pick-0.5", "half aesthetic, half PickScore",
            mix={"only-aesthetic": 0.5, "only-pick": 0.5}),
    Variant("three-styles", "a third each: aesthetic, PickScore, HPSv2",
            mix=dict.fromkeys(("only-aesthetic", "only-pick", "only-hps"), 1 / 3)),
)  # fmt: skip


@dataclass(frozen=True)
class Scale:
    """How much of everything is done."""

    prompts: int = 400
    seeds: int = 2
    training_seeds: int = 3
    trials: int = 3
    updates: float = 1.0
    """Share of a method's updates."""
    renders: int = 2000
    """Pictures for direct fine-tuning."""
    best: int = 300
    """Prompts whose best of four images are imitated (RAFT)."""
    validation_prompts: int = 32
    batch: int = 0
    """Most samples of an update; 0: as many as a method has."""
    validations: int = 3
    """In a training run, after the first."""
    run_minutes: float = 2.0
    """Core-minutes of drawing and scoring one system."""
    minutes: float = 1.0
    """Of a training run's."""


FULL = Scale()
QUICK = Scale(
    prompts=4, training_seeds=2, trials=2, updates=0.0, renders=8, best=4, validation_prompts=2,
    batch=4, validations=1, run_minutes=0.1, minutes=0.02,
)  # fmt: skip
"""To see that it works: nothing is learnt in so little."""


def cells(scale: Scale, *, headline_only: bool = False) -> list[Cell]:
    """All of them, the headline's first; or those alone."""
    first = [
        Cell("renders", 1, steps.renders, {"count": scale.renders}),
        _run(BASELINE, scale),
        *(cell for method in METHODS if method.name in HEADLINE for cell in _trained(method, scale)),
    ]
    if headline_only:
        return first
    return [
        *first,
        Cell("best", 3.5 * scale.minutes, steps.best, {"prompts": scale.best, "chooser": REWARDS}),
        *(cell for method in METHODS if method.name not in HEADLINE for cell in _trained(method, scale)),
        *(cell for variant in VARIANTS for cell in _variant(variant, scale)),
    ]


def seeds_of(method: Method, scale: Scale) -> range:
    """Training seeds of a method."""
    return range(scale.training_seeds if method.name in HEADLINE else 1)


def _settings(method: Method, scale: Scale) -> dict[str, Any]:
    """Of TrainConfig, all but learning rate, seed and places."""
    own = {**method.settings, "rewards": method.settings.get("rewards", REWARDS), "method": method.title}
    own["updates"] = max(1, round(own["updates"] * scale.updates))
    if scale.batch:
        own |= {"batch": scale.batch, "group": min(2, own.get("group", 1)), "policy_updates": 1}
    own["validate_every"] = own["save_every"] = -(-own["updates"] // scale.validations)
    return own | {"validation_prompts": scale.validation_prompts}


def _trained(method: Method, scale: Scale) -> Iterator[Cell]:
    """Trials of the first seed, then the other seeds, and a run of each."""
    own, minutes = _settings(method, scale), method.minutes * scale.minutes
    rates = method.rates[: scale.trials]
    trials = trial_names(method.name, scale)
    needs = [f"train-{name}-0" if name in {m.name for m in METHODS} else name for name in method.needs]
    needs += trial_names(method.rate_of, scale) if method.rate_of else []
    for name, rate in zip(trials, rates, strict=False):
        given: dict[str, Any] = {"name": method.name, "settings": own, "rate": rate}
        yield Cell(name, minutes, steps.trial, given, tuple(needs), light=True)
    for seed in seeds_of(method, scale):
        name = f"train-{method.name}-{seed}"
        given = {
            "name": method.name, "settings": own, "seed": seed,
            "rates": list(rates or by_name(method.rate_of).rates[: scale.trials]),
            "rates_of": method.rate_of or method.name,
        }  # fmt: skip
        tried = bool(trials) and seed == 0  # then it is one of the trials
        yield Cell(name, 0.0 if tried else minutes, steps.trained, given, (*needs, *trials))
        yield _run(f"{method.name}-{seed}", scale, name)


def trial_names(name: str, scale: Scale) -> list[str]:
    """Cells that a method's learning rate is chosen by."""
    rates = by_name(name).rates[: scale.trials]
    return [f"try-{name}-{rate:g}" for rate in rates] if len(rates) > 1 else []


def by_name(name: str) -> Method:
    """The method of that name."""
    return next(method for method in METHODS if method.name == name)


def _variant(variant: Variant, scale: Scale) -> Iterator[Cell]:
    of = [variant.of] if variant.of else [name for name in variant.mix if name != "original"]
    name = f"system-{variant.name}"
    given = {"name": variant.name, "of": variant.of, "changes": variant.changes, "mix": variant.mix}
    yield Cell(name, 0.0, steps.system, given, tuple(f"train-{one}-0" for one in of))
    cell = _run(variant.name, scale, name)
    yield replace(cell, minutes=cell.minutes * variant.changes.get("best_of", 1))


def _run(name: str, scale: Scale, *needs: str) -> Cell:
    given = {"name": name, "prompts": scale.prompts, "seeds": scale.seeds}
    return Cell(f"run-{name}", scale.run_minutes, steps.run, given, needs)
