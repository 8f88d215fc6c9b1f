"""Plan a run: resolve a request against what is on this machine, before any image is generated."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.resolve import ResolvedReward, expand_presets, resolve_rewards
from benchmarks.suites import CUSTOM, prompt_set
from benchmarks.suites.base import PromptSet
from benchmarks.systems import System
from leaderboards.records import Header, Planned, folder_name, short_id
from rewards.registry import info
from tcbench.errors import ConfigError, MissingFiles, ProblemCollector
from tcbench.files import check_writable, sha256
from textcraftor.diffusion import pipeline as pipelines
from textcraftor.diffusion.devices import batch_size_for, find_device, find_dtype
from textcraftor.diffusion.prompts import stratified_order
from textcraftor.diffusion.weight_files import WeightFiles
from textcraftor.io import provenance
from textcraftor.ledger import Ledger
from textcraftor.rewriters import Rewriter

NOISE = "cpu-sha256-1"
"""Version of the noise rule in textcraftor.diffusion.prompts; part of every generation id."""


@dataclass(frozen=True)
class Request:
    """What to run. Fields that are None or "auto" take the system's value.

    Raises:
        ConfigError: If a number is out of range.
    """

    model: str
    """A named system, a TOML file, a diffusers folder or a hub id."""
    suite: str | None = None
    rewards: Sequence[str] | None = None
    """Names of rewards or presets, or ``file.py:Name``."""
    prompts: Path | None = None
    """A prompt file, or the folder that holds a suite's files."""
    limit: int | None = None
    """Number of prompts, at least 1: a seeded subset with every category in proportion."""
    seeds: int = 1
    """Images per prompt, at least 1."""
    base_seed: int = 0
    """Base seed for the initial noise."""
    steps: int | None = None
    guidance: float | None = None
    tuned_steps: int | None = None
    """Number of last sampling steps that use the tuned text encoder."""
    batch_size: int | None = None
    device: str = "auto"
    dtype: str = "auto"
    out: Path = Path("runs")
    """Folder that holds the run folders."""

    def __post_init__(self) -> None:
        for name in ("limit", "seeds", "batch_size"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigError(f"{name.replace('_', '-')} is {value}; expected at least 1")
        if self.base_seed < 0:
            raise ConfigError(f"base-seed is {self.base_seed}; expected at least 0")


@dataclass(frozen=True)
class Plan:
    """A run that can be executed: every file it needs is on this machine."""

    system: System
    prompts: PromptSet
    pipeline: Path
    rewards: tuple[ResolvedReward, ...]
    header: Header
    path: Path
    """Folder of the run."""
    batch_size: int
    device: str
    dtype: str
    base_seed: int
    rewriter: tuple[Rewriter, Path] | None = None
    """The language model that rewrites prompts, and its folder."""


def plan_run(request: Request, *, with_rewards: bool = True, fetch: bool = True) -> Plan:
    """Resolve ``request`` into a plan.

    Args:
        request: What to run.
        with_rewards: Whether the run is also scored.
        fetch: Download missing files if the hub can be reached.

    Raises:
        TcbenchError: If something is missing or invalid; `Problems` reports everything at once, mistakes
            before anything is downloaded.
    """
    system = _system(request)
    files = ProblemCollector.before_downloads(
        lambda problems, download: _find_files(request, system, with_rewards, problems, fetch=download),
        fetch=fetch,
    )
    prompts, rewards, pipeline, rewriter, optimised, device, dtype = files
    assert prompts is not None
    assert rewards is not None
    assert pipeline is not None
    assert device is not None
    assert dtype is not None
    settings = _generation_settings(system, pipeline, prompts, dtype, request.base_seed)
    if rewriter:
        settings["rewriter"] = rewriter[0].generation_settings(rewriter[1])
    if optimised:
        settings |= _test_time_settings(system, optimised)
    details = system.describe()
    compute = _compute_per_image(system, pipeline, len(optimised or ()))
    header = Header(
        suite=prompts.name,
        suite_sha256=prompts.sha256,
        system=system.name,
        generation_id=short_id(settings),
        generation=settings,
        planned=_planned(request, prompts),
        watermarks=_watermarks(request, system, prompts),
        details=details
        | System.reward_families(details["trained_on"] or ())
        | {"compute_per_image": compute},
        provenance=(provenance.environment(device),),
    )
    return Plan(
        system=system,
        prompts=prompts,
        pipeline=pipeline,
        rewards=rewards,
        header=header,
        path=request.out / folder_name(prompts.name, system.name, header.generation_id),
        batch_size=request.batch_size or _batch_size(system, pipeline, device),
        device=device,
        dtype=dtype,
        base_seed=request.base_seed,
        rewriter=rewriter,
    )


def _check_changes(system: System, pipeline: Path | None, problems: ProblemCollector) -> None:
    """Check the files that a system names, and that the pipeline has what the system changes."""
    for name in system.lora:
        problems.run(partial(WeightFiles.adapters, Path(name)))
    for folder in system.replaced.values():
        problems.run(partial(pipelines.component_sha256, folder))
    for folder in system.encoders.values():
        problems.run(partial(pipelines.encoders_sha256, folder))
    if pipeline is None:  # that is a problem of its own
        return
    for name in system.replaced:
        with problems.catch():
            if not (pipeline / name).is_dir():
                raise MissingFiles(f"{pipeline} has no {name} to replace; remove {name} from the system")
    if system.clip_skip:
        with problems.catch():
            _check_clip_skip(system, pipeline)


def _check_clip_skip(system: System, pipeline: Path) -> None:
    """Raise ConfigError if one of the text encoders in use has fewer layers than are skipped."""
    names = [name for name in pipelines.ENCODERS if (pipeline / name).is_dir()]
    for name in names:
        file = system.replaced.get(name, pipeline / name) / "config.json"
        if not file.is_file():  # that is a problem of its own
            continue
        layers = json.loads(file.read_text(encoding="utf-8"))["num_hidden_layers"]
        most = layers - (len(names) - 1)  # SDXL skips one layer itself
        if system.clip_skip > most:
            raise ConfigError(
                f"clip_skip = {system.clip_skip}; expected at most {most}: {name} has {layers} layers"
            )


class _Files(NamedTuple):
    """What a run needs on this machine; None where it could not be found."""

    prompts: PromptSet | None
    rewards: tuple[ResolvedReward, ...] | None
    pipeline: Path | None
    rewriter: tuple[Rewriter, Path] | None
    optimised: tuple[ResolvedReward, ...] | None
    device: str | None
    dtype: str | None


def _find_files(
    request: Request, system: System, with_rewards: bool, problems: ProblemCollector, *, fetch: bool
) -> _Files:
    """Look for everything before any error is raised, so that a user can fix everything in one go."""
    problems.run(lambda: check_writable(request.out))
    pipeline = problems.run(lambda: system.source.find(fetch=fetch))
    device = problems.run(lambda: find_device(request.device))
    _check_changes(system, pipeline, problems)
    optimised = problems.run(lambda: resolve_rewards(_test_time_rewards(system), fetch=fetch))
    problems.run(lambda: _calibration_sha256(system, optimised or ()))
    return _Files(
        pipeline=pipeline,
        device=device,
        dtype=problems.run(lambda: find_dtype(request.dtype, system.dtype, device or "cpu")),
        prompts=problems.run(lambda: _prompts(request, system, fetch)),
        rewards=problems.run(lambda: resolve_rewards(system.rewards if with_rewards else (), fetch=fetch)),
        rewriter=problems.run(lambda: _rewriter(system, fetch)),
        optimised=optimised,
    )


def _prompts(request: Request, system: System, fetch: bool) -> PromptSet:
    if request.prompts is not None and not request.prompts.exists():
        raise MissingFiles(
            f"prompts not found: {request.prompts}; give --prompts a prompt file, or a suite's folder"
        )
    return prompt_set(system.suite, request.prompts, fetch=fetch)


def _generation_settings(
    system: System, pipeline: Path, prompts: PromptSet, dtype: str, base_seed: int
) -> dict[str, Any]:
    """Return the settings that the generation id hashes: everything that changes images, and nothing else.

    Limit, seeds, batch size, device and names are left out. A setting that is at its default and was added
    after the first release of ids is left out too, so that older ids stay valid.
    """
    hashes = {name: pipelines.component_sha256(path) for name, path in system.replaced.items()}
    settings: dict[str, Any] = {
        "pipeline_sha256": pipelines.pipeline_sha256(pipeline),
        "text_encoder_sha256": hashes.get("text_encoder"),
        "append": system.append,
        "sampler": system.schedule.sampler,
        "steps": system.schedule.steps,
        "guidance": system.schedule.guidance,
        "size": list(system.schedule.size) if system.schedule.size else None,
        "dtype": dtype,
        "prompts_sha256": prompts.sha256,
        "base_seed": base_seed,
        "noise": NOISE,
    }
    if system.schedule.spacing:
        settings["spacing"] = system.schedule.spacing
    if system.schedule.eta:
        settings["eta"] = system.schedule.eta
    settings |= {f"{name}_sha256": hashes[name] for name in hashes if name != "text_encoder"}
    if system.lora:
        settings["lora"] = [[sha256(Path(name)), scale] for name, scale in system.lora.items()]
    options = ("negative_prompt", "clip_skip", "guidance_rescale")
    settings |= {name: getattr(system, name) for name in options if getattr(system, name)}
    if system.windows:
        settings["windows"] = _window_settings(system)
    return settings


def _window_settings(system: System) -> list[list[Any]]:
    """For each window, its number of last steps and the weights of text encoders by their content's hash."""
    hashes = {name: pipelines.encoders_sha256(folder) for name, folder in system.encoders.items()}
    return [
        [
            window.steps(system.schedule),
            {hashes.get(name, name): weight for name, weight in window.weights.items()},
        ]
        for window in system.windows
    ]


def _system(request: Request) -> System:
    """The requested system, with the request's values in place of its defaults."""
    system = System.find(request.model)
    suite = request.suite or (CUSTOM if request.prompts and request.prompts.is_file() else system.suite)
    overrides: dict[str, Any] = {
        "suite": suite,
        "rewards": None if request.rewards is None else expand_presets(request.rewards, system.domain),
    }
    system = replace(system, **{key: value for key, value in overrides.items() if value is not None})
    return system.with_schedule(
        steps=request.steps, guidance=request.guidance, tuned_steps=request.tuned_steps
    )


def _planned(request: Request, prompts: PromptSet) -> Planned:
    """The first ``limit`` prompts of the seeded stratified order, so that a larger limit adds prompts."""
    order = stratified_order(prompts.prompts)
    return Planned(tuple(order[: request.limit]), of=len(order), seeds=request.seeds)


def _watermarks(request: Request, system: System, prompts: PromptSet) -> tuple[str, ...]:
    marks = []
    if request.limit is not None and request.limit < len(prompts.prompts):
        marks.append(f"limit {request.limit} of {len(prompts.prompts)}")
    if system.domain not in ("open", prompts.domain):
        marks.append("out of domain")
    return tuple(marks)


def _rewriter(system: System, fetch: bool) -> tuple[Rewriter, Path] | None:
    if not system.rewriter:
        return None
    rewriter = Rewriter.find(system.rewriter)
    return rewriter, rewriter.find_model(fetch=fetch)


def _batch_size(system: System, pipeline: Path, device: str) -> int:
    images = batch_size_for(pipeline, system.schedule.size, device)
    return max(1, images // 4) if system.optimise else images  # graphs for gradients need memory


def _compute_per_image(system: System, pipeline: Path, rewards: int) -> int:
    """Return the cost of an image in the unit of `Ledger.compute`; prompt rewriters are not counted.

    Args:
        system: The system.
        pipeline: Folder of its pipeline.
        rewards: Number of rewards of its ``test_time_reward``.
    """
    unet = _config(system.replaced.get("unet", pipeline / "unet") / "config.json")
    scheduler = _config(pipeline / "scheduler" / "scheduler_config.json")
    # as PipelineRunner.guided
    guided = system.schedule.guidance > 1 and unet.get("time_cond_proj_dim") is None
    evaluations = system.schedule.evaluations(skip_prk_steps=scheduler.get("skip_prk_steps", False))
    return Ledger.of_image(
        evaluations * (2 if guided else 1),
        rewards=rewards,
        candidates=system.best_of,
        updates=system.optimise_iterations if system.optimise else 0,
        checkpointed=system.schedule.steps > 1,
    ).compute


def _config(file: Path) -> dict[str, Any]:
    """Return a component's configuration; a damaged one is empty, and is reported when it is loaded."""
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        config = {}
    return config if isinstance(config, dict) else {}


def _test_time_settings(system: System, rewards: Sequence[ResolvedReward]) -> dict[str, Any]:
    """Return the generation settings of best-of-N and of the optimisation."""
    if system.optimise:
        rate = system.optimise_rate
        method = [system.optimise, system.optimise_iterations, rate, system.test_time_reward]
        settings: dict[str, Any] = {"optimise": method}
    else:
        settings = {"best_of": [system.best_of, system.test_time_reward]}
    return settings | {
        "calibration_sha256": _calibration_sha256(system, rewards),
        "choosers": [reward.score_set.score_id for reward in rewards],
    }


def _calibration_sha256(system: System, rewards: Sequence[ResolvedReward]) -> str | None:
    """Hash of the calibration of ``test_time_reward``; one that lacks a reward raises an error."""
    if not (system.test_time_reward and system.calibration):
        return None
    from rewards.combine.calibration import Calibration

    calibration = Calibration.read(system.calibration)
    for reward in rewards:  # now, not after prompts were rewritten and models loaded
        calibration.statistics(reward.info.name, reward.score_set.score_id)
    return sha256(Calibration.path(system.calibration))


def _test_time_rewards(system: System) -> Sequence[str]:
    """The rewards that pick or optimise images.

    Raises:
        WrongRole: For a judge, which must not be optimised.
        ConfigError: If gradients are needed and a reward has none.
    """
    if not system.test_time_reward:
        return ()
    from rewards.combine.terms import parse_mix

    names = list(parse_mix(system.test_time_reward))
    for name in names:
        info(name).check_role("training")
    without = [name for name in names if not info(name).differentiable]
    if system.optimise and without:
        raise ConfigError(
            f"optimise = {system.optimise!r} with test_time_reward = {system.test_time_reward!r}: "
            f"{', '.join(without)} has no gradient; remove it, or set best_of instead of optimise"
        )
    return names
