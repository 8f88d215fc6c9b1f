"""The comparison on the embedded world: its methods, their budget, and its cells.

Everything that decides the table is in this file, beside the model's default settings: the methods, their
compute, the learning rates that are tried, and the headline comparisons. It was written before the methods
were compared; docs/world-table/README.md says what was changed later, on validation prompts alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any

from benchmarks.reproduce.ceiling import NAME as CEILING
from benchmarks.reproduce.tasks import TASKS
from benchmarks.systems import STYLE_WORDS
from leaderboards.pictures import PROMPTS
from tcbench.cells import WorkCell
from textcraftor.diffusion.models import MODELS

BUDGET = 53_760
"""Compute of each method (`textcraftor.ledger.Ledger.compute`): TextCraftor's default."""

HEADLINE = ("textcraftor", "text-unet", "rl", "grpo", "rewriter", "direct")
"""Methods with several training seeds. Holm's correction covers two families, each by every column: all
headline systems against the base model, and the first method's seeds against the others' of the same number.
"""

HEADLINE_VARIANTS = ("style-words",)
"""Systems without training that stand in the headline too."""

BASELINE = "micro"
SUITE = "world-third"
"""Held-out prompts: the third set, as the others were seen when starts of the comparison were stopped."""

_EDITION = 2
"""Edition of the embedded world. It is part of each cell's key, so records of another edition are not mixed
with new ones.
"""
REWARDS = MODELS[BASELINE].summed_mix
"""The weighted sum of rewards, for methods that do not use their gradients and for variants that do not
balance them. Others balance them, with the weights of the model's default settings unless they say otherwise.
"""


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
    """Cells, or methods, whose results training starts from; of a method, those of the same seed, or of its
    first one.
    """


_STEPS = 25
_ALL_STEPS: Mapping[str, Any] = MappingProxyType(
    {"schedule.tuned_steps": _STEPS, "validation.eval_tuned_steps": _STEPS}
)
_CONSTANT: Mapping[str, Any] = MappingProxyType({"optimiser.lr_schedule": "constant", "optimiser.ema": 0.0})
_PLAIN: Mapping[str, Any] = MappingProxyType({"rewards.balance": False, "rewards.mix": REWARDS})


def _rl(name: str, updates: int, **changes: Any) -> dict[str, Any]:
    """Settings of reinforcement learning: ``policy_steps`` of 25 steps are trained on."""
    return {"algorithm.name": name, **_ALL_STEPS, **_CONSTANT, **_PLAIN, "optimiser.batch": 16,
            "data.group": 8, "optimiser.updates": updates, "algorithm.policy_steps": 8,
            **({} if name == "nft" else {"schedule.eta": 1.0}), **changes}  # fmt: skip


_LOW = (1e-5, 3e-5, 1e-4)

_METHODS: tuple[Method, ...] = (
    Method("textcraftor", "TextCraftor (text)", {}, (3e-5, 1e-4, 3e-4), 6),
    Method("rl", "RL, text encoder (DDPO)", _rl("ddpo", 38), _LOW, 6),
    Method("grpo", "RL, text encoder (GRPO)", _rl("grpo", 38), (3e-6, *_LOW), 6),
    Method(
        "rewriter", "prompt rewriter (Promptist)",
        {"algorithm.name": "rewriting", "trainable.parts": ("rewriter",),
         "trainable.rewriter": "world-extend", **_ALL_STEPS, **_CONSTANT, **_PLAIN, "optimiser.batch": 32,
         "data.group": 4, "optimiser.updates": 30, "algorithm.policy_updates": 2,
         "algorithm.ratio_clip": 0.2, "algorithm.drift_penalty": 0.05, "optimiser.weight_decay": 0.0},
        (1e-4, 3e-4, 1e-3, 3e-3), 5,
    ),
    Method(
        "direct", "direct fine-tuning",
        {"algorithm.name": "direct", "data.pairs": "renders", "data.prompts": "", "optimiser.updates": 746,
         "validation.eval_tuned_steps": _STEPS, "algorithm.bound_gradients": False},
        (3e-6, *_LOW), 9, needs=("renders",),
    ),
    Method("text-unet", "TextCraftor (text + UNet), twice the compute",
           {"trainable.parts": ("unet",), "optimiser.updates": 43, "trainable.start": "textcraftor"},
           (1e-5, 3e-5, 1e-4, 3e-4), 6, needs=("textcraftor",)),
    Method("nft", "RL, text encoder (DiffusionNFT)", _rl("nft", 42), _LOW, 6),
    Method("plain", "TextCraftor, weighted sum and unbounded gradients, as in the paper",
           {**_PLAIN, "algorithm.bound_gradients": False}, (), 6, "textcraftor"),
    Method("unbounded", "TextCraftor, unbounded gradients",
           {"algorithm.bound_gradients": False}, (), 6, "textcraftor"),
    Method("unbalanced", "TextCraftor, weighted sum", _PLAIN, (), 6, "textcraftor"),
    Method("constrained", "TextCraftor, constraint on world-clip",
           {"rewards.mix": REWARDS, "rewards.constraints": ("world-clip",)}, (), 6, "textcraftor"),
    Method("no-clip", "TextCraftor without CLIP",
           {"rewards.mix": "world-aesthetic=1,world-pick=1,world-hps=1"}, (), 5,
           "textcraftor"),
    Method("only-aesthetic", "TextCraftor, aesthetic only",
           {"rewards.mix": "world-aesthetic=1", "optimiser.updates": 66}, (), 5,
           "textcraftor"),
    Method("only-pick", "TextCraftor, PickScore only",
           {"rewards.mix": "world-pick=1", "optimiser.updates": 66}, (), 5,
           "textcraftor"),
    Method("only-hps", "TextCraftor, HPSv2 only",
           {"rewards.mix": "world-hps=1", "optimiser.updates": 66}, (), 5,
           "textcraftor"),
    Method("saturated", "TextCraftor, colourfulness",
           {"rewards.mix": "colourfulness=1,world-clip=1", "optimiser.updates": 65}, (), 2, "textcraftor"),
    Method("dark", "TextCraftor, darkness",
           {"rewards.mix": "darkness=1,world-clip=1", "optimiser.updates": 65}, (), 2, "textcraftor"),
    Method("k-5", "TextCraftor, K = 5, sampled with the last 15 steps",
           {"schedule.tuned_steps": 5, "validation.eval_tuned_steps": 15, "optimiser.updates": 103}, (), 6,
           "textcraftor"),
    Method("k-15", "TextCraftor, K = 15",
           {"schedule.tuned_steps": 15, "validation.eval_tuned_steps": 15, "optimiser.updates": 79}, (), 6,
           "textcraftor"),
    Method("unet", "TextCraftor (UNet)",
           {"trainable.parts": ("unet",), "optimiser.updates": 43}, (), 6, "text-unet"),
    Method("refl", "ReFL", {"algorithm.name": "one-step", "algorithm.bound_gradients": False,
                            "optimiser.updates": 197}, (), 5, "textcraftor"),
    Method("draft-lv", "DRaFT-LV", {"algorithm.name": "low-variance", "algorithm.bound_gradients": False,
                                    "optimiser.updates": 99}, (), 5, "textcraftor"),
    Method("alignprop", "AlignProp",
           {"algorithm.name": "truncation", "optimiser.updates": 84}, (), 6, "textcraftor"),
    Method("detached", "DRTune (detached chain)",
           {"algorithm.name": "detached-chain", "algorithm.bound_gradients": False}, (), 6, "textcraftor"),
    Method("raft", "supervised on best-of-4 (RAFT)",
           {"algorithm.name": "denoising", "data.pairs": "best", "data.prompts": "", **_PLAIN,
            "algorithm.bound_gradients": False, "optimiser.updates": 174,
            "validation.eval_tuned_steps": _STEPS}, (1e-4,), 2, needs=("best",)),
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
    prompts: int = 0
    """Held-out prompts, if fewer than the others'; 0: as many."""
    seeds: int = 0
    """Noises per prompt, if fewer than the others'; 0: as many."""

    @property
    def images(self) -> float:
        """Cost of one image, in images that are sampled as usual."""
        # an iteration runs all steps, again for their gradient, and their gradient
        iterations = self.changes.get("optimise_iterations", 0)
        return float(3 * iterations + 2 if iterations else self.changes.get("best_of", 1))


STYLES = (
    BASELINE, "saturated-0", "only-aesthetic-0", "dark-0", "saturated-dark", "saturated-shaded",
    "three-styles",
)  # fmt: skip
"""Systems in the picture of styles."""

STRENGTHS = ("strength-0.25", "strength-0.5", "strength-0.75")
"""Systems in the picture of strengths, beside the base model and the first method."""

PICTURES: Mapping[str, tuple[tuple[str, ...], int]] = MappingProxyType(
    {
        "methods.png": ((BASELINE, "style-words", "grpo-0", "textcraftor-0", "text-unet-0"), 10),
        "styles.png": (STYLES, PROMPTS),
        "strengths.png": ((BASELINE, *STRENGTHS, "textcraftor-0"), PROMPTS),
    }
)
"""Systems in the rows of each picture, and the number of its columns: ten are the first two prompts of each
category. Archives keep these images.
"""

SAMPLERS = ("euler", "dpm++2m")

_TEST_TIME: Mapping[str, Any] = MappingProxyType({"test_time_reward": REWARDS, "calibration": "world"})

VARIANTS: tuple[_Variant, ...] = (
    _Variant("style-words", "style words by rule", changes={"append": STYLE_WORDS}),
    _Variant("extend", "prompt rewriter, supervised only", changes={"rewriter": "world-extend"}),
    _Variant("best-of-4", "best of 4 images", changes={"best_of": 4, **_TEST_TIME}),
    _Variant("noise-10", "noise optimisation (ReNO), 10 iterations", prompts=100, seeds=1,
             changes={"optimise": "noise", "optimise_iterations": 10, **_TEST_TIME}),
    _Variant("embedding-10", "prompt-embedding optimisation, 10 iterations", prompts=100, seeds=1,
             changes={"optimise": "embedding", "optimise_iterations": 10, **_TEST_TIME}),
    _Variant("best-of-30", "best of 30 images, the compute of 10 iterations", prompts=100, seeds=1,
             changes={"best_of": 30, **_TEST_TIME}),
    _Variant("micro-eta-1", "base, eta 1", changes={"eta": 1.0}),
    _Variant("grpo-eta-1", "RL, text encoder (GRPO), eta 1", "grpo", {"eta": 1.0}),
    *(_Variant(f"last-{steps}", f"sampled with the last {steps} steps", "textcraftor",
              {"tuned_steps": steps}) for steps in (5, 15)),
    *(_Variant(f"{name}-{sampler}", f"{title}, {sampler}", of, {"sampler": sampler})
      for sampler in SAMPLERS
      for name, title, of in (("micro", "base", ""), ("textcraftor", "TextCraftor", "textcraftor"))),
    *(_Variant(f"strength-{share:g}", f"strength {share:g}",
              mix={"textcraftor": share, "original": round(1 - share, 2)}) for share in (0.25, 0.5, 0.75)),
    _Variant("saturated-dark", "half saturated, half dark", mix={"saturated": 0.5, "dark": 0.5}),
    _Variant("saturated-shaded", "half saturated, half shaded",
             mix={"saturated": 0.5, "only-aesthetic": 0.5}),
    _Variant("three-styles", "a third each: saturated, shaded, dark",
             mix=dict.fromkeys(("saturated", "only-aesthetic", "dark"), 1 / 3)),
)  # fmt: skip


@dataclass(frozen=True)
class Scale:
    """Amount of work."""

    prompts: int = 400
    """Held-out prompts of systems in the headline."""
    exploratory_prompts: int = 200
    """Held-out prompts of other systems, the first of them."""
    seeds: int = 2
    """Noises per prompt."""
    training_seeds: int = 3
    """Training seeds of a headline method."""
    trials: int = 5
    """Largest number of learning rates to try for a method."""
    updates: float = 1.0
    """Fraction of each method's updates to run."""
    renders: int = 2000
    """Rendered images for direct fine-tuning."""
    best_prompts: int = 200
    """Prompts whose best of four images are training data (RAFT)."""
    validation_prompts: int = 48
    batch: int = 0
    """Samples of an update; 0 leaves each method its own number."""
    validations: int = 3
    """Validations of a training run after the first."""
    run_minutes: float = 3.2
    """Core-minutes of sampling and scoring one system."""
    minutes: float = 1.0
    """Factor for the core-minutes of training."""

    def seeds_of(self, method: Method) -> range:
        """Return the training seeds of a method."""
        return range(self.training_seeds if method.name in HEADLINE else 1)


FULL = Scale()
QUICK = Scale(
    prompts=4, exploratory_prompts=4, training_seeds=2, trials=2, updates=0.0, renders=8, best_prompts=4,
    validation_prompts=2, batch=4, validations=1, run_minutes=0.1, minutes=0.02,
)  # fmt: skip
"""Checks that everything works; nothing is learned in so few updates."""


def plan_cells(scale: Scale, *, headline_only: bool = False) -> list[WorkCell]:
    """Return all cells, those of the headline first, or those of the headline alone."""
    headline = [METHODS[name] for name in METHODS if name in HEADLINE]
    shown = [variant for variant in VARIANTS if variant.name in HEADLINE_VARIANTS]
    cells = [
        _cell("renders", "renders", 1, {"count": scale.renders}),
        _run(BASELINE, scale),
        _cell(f"run-{CEILING}", "ceiling", scale.run_minutes / 2, {}, (f"run-{BASELINE}",)),
        *(cell for variant in shown for cell in _variant(variant, scale)),
        *(cell for method in headline for cell in _training(method, scale)),
    ]
    if headline_only:
        return cells
    others = [METHODS[name] for name in METHODS if name not in HEADLINE]
    return [
        *cells,
        _cell("best", "best", 3.5 * scale.minutes, {"prompts": scale.best_prompts, "reward": REWARDS}),
        *(cell for method in others for cell in _training(method, scale)),
        *(cell for variant in VARIANTS if variant not in shown for cell in _variant(variant, scale)),
        *(
            _cell(
                f"looks-{name}",
                "looks",
                0.1,
                {"name": name, "prompts": scale.exploratory_prompts},
                (f"run-{name}",),
            )
            for name in STYLES
        ),
    ]


def _cell(
    name: str, task: str, minutes: float, options: Mapping[str, Any], needs: tuple[str, ...] = (), **more: Any
) -> WorkCell:
    return WorkCell(name, f"{task}, edition {_EDITION}", TASKS[task], options, needs, minutes, **more)


def _settings(method: Method, scale: Scale) -> dict[str, Any]:
    """Settings of TrainConfig, except learning rate, seed and paths.

    The model's own are among them, so that a cell's key changes with them.
    """
    settings = {**MODELS[BASELINE].training, **method.settings, "logging.method": method.title}
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
    borrowed = _trials(method.rate_of, scale) if method.rate_of else []

    def needs(seed: int) -> list[str]:
        started = [_seed_cell(name, seed, scale) if name in METHODS else name for name in method.needs]
        return [*started, *borrowed]

    for name, rate in zip(trials, rates, strict=False):
        options: dict[str, Any] = {"name": method.name, "settings": settings, "rate": rate}
        yield _cell(name, "trial", minutes, options, tuple(needs(0)), light=True)
    for seed in scale.seeds_of(method):
        name = f"train-{method.name}-{seed}"
        options = {
            "name": method.name, "settings": settings, "seed": seed,
            "rates": list(rates or METHODS[method.rate_of].rates[: scale.trials]),
            "rates_of": method.rate_of or method.name,
        }  # fmt: skip
        is_trial = bool(trials) and seed == 0  # the first seed with the chosen rate has been trained already
        yield _cell(name, "train", 0.0 if is_trial else minutes, options, (*needs(seed), *trials))
        prompts = scale.prompts if method.name in HEADLINE else scale.exploratory_prompts
        yield _run(f"{method.name}-{seed}", scale, name, prompts=prompts)


def _seed_cell(name: str, seed: int, scale: Scale) -> str:
    """Name of the cell that trains a method with a seed, or with its first one."""
    return f"train-{name}-{seed if seed in scale.seeds_of(METHODS[name]) else 0}"


def _trials(name: str, scale: Scale) -> list[str]:
    """Names of the cells that a method's learning rate is chosen by."""
    rates = METHODS[name].rates[: scale.trials]
    return [f"try-{name}-{rate:g}" for rate in rates] if len(rates) > 1 else []


def _variant(variant: _Variant, scale: Scale) -> Iterator[WorkCell]:
    sources = [variant.of] if variant.of else [name for name in variant.mix if name != "original"]
    name = f"system-{variant.name}"
    options = {"name": variant.name, "of": variant.of, "changes": variant.changes, "mix": variant.mix}
    yield _cell(name, "system", 0.0, options, tuple(f"train-{source}-0" for source in sources))
    usual = scale.prompts if variant.name in HEADLINE_VARIANTS else scale.exploratory_prompts
    prompts = min(variant.prompts or usual, usual)
    seeds = min(variant.seeds or scale.seeds, scale.seeds)
    cell = _run(variant.name, scale, name, prompts=prompts, seeds=seeds)
    yield replace(cell, minutes=cell.minutes * variant.images)


def _kept_pictures(name: str) -> int:
    """Number of images of a system that its archive keeps: those that a page shows."""
    return max((columns for systems, columns in PICTURES.values() if name in systems), default=0)


def _run(name: str, scale: Scale, *needs: str, prompts: int = 0, seeds: int = 0) -> WorkCell:
    prompts, seeds = prompts or scale.prompts, seeds or scale.seeds
    options = {
        "name": name, "suite": SUITE, "prompts": prompts, "seeds": seeds,
        "pictures": _kept_pictures(name), "few_prompts": scale.exploratory_prompts,
    }  # fmt: skip
    minutes = scale.run_minutes * prompts * seeds / (scale.prompts * scale.seeds)
    return _cell(f"run-{name}", "run", minutes, options, needs)
