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
    prompts, rewards, pipeline, rewriter, selecting, device, dtype = files
    assert prompts is not None
    assert rewards is not None
    assert pipeline is not None
    assert device is not None
    assert dtype is not None
    settings = _generation_settings(system, pipeline, prompts, dtype, request.base_seed)
    if rewriter:
        settings["rewriter"] = rewriter[0].generation_settings(rewriter[1])
    if selecting:
        settings["best_of"] = [system.best_of, system.best_of_reward]
        settings["calibration_sha256"] = _calibration_sha256(system, selecting)
        settings["choosers"] = [reward.score_set.score_id for reward in selecting]
    details = system.describe()
    header = Header(
        suite=prompts.name,
        suite_sha256=prompts.sha256,
        system=system.name,
        generation_id=short_id(settings),
        generation=settings,
        planned=_planned(request, prompts),
        watermarks=_watermarks(request, system, prompts),
        details=details | System.reward_families(details["trained_on"] or ()),
        provenance=(provenance.environment(device),),
    )
    return Plan(
        system=system,
        prompts=prompts,
        pipeline=pipeline,
        rewards=rewards,
        header=header,
        path=request.out / folder_name(prompts.name, system.name, header.generation_id),
        batch_size=request.batch_size or batch_size_for(pipeline, system.schedule.size, device),
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
    selecting: tuple[ResolvedReward, ...] | None
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
    selecting = problems.run(lambda: resolve_rewards(_best_of_rewards(system), fetch=fetch))
    problems.run(lambda: _calibration_sha256(system, selecting or ()))
    return _Files(
        pipeline=pipeline,
        device=device,
        dtype=problems.run(lambda: find_dtype(request.dtype, system.dtype, device or "cpu")),
        prompts=problems.run(lambda: _prompts(request, system, fetch)),
        rewards=problems.run(lambda: resolve_rewards(system.rewards if with_rewards else (), fetch=fetch)),
        rewriter=problems.run(lambda: _rewriter(system, fetch)),
        selecting=selecting,
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


def _calibration_sha256(system: System, rewards: Sequence[ResolvedReward]) -> str | None:
    """Hash of the calibration that scales the best-of rewards; one that lacks a reward raises an error."""
    if not (system.best_of_reward and system.calibration):
        return None
    from rewards.combine.calibration import Calibration

    calibration = Calibration.read(system.calibration)
    for reward in rewards:  # now, not after prompts were rewritten and models loaded
        calibration.statistics(reward.info.name, reward.score_set.score_id)
    return sha256(Calibration.path(system.calibration))


def _best_of_rewards(system: System) -> Sequence[str]:
    """The rewards that pick the best of N images; a judge must not be optimised and raises an error."""
    if not system.best_of_reward:
        return ()
    from rewards.combine.terms import parse_mix

    names = list(parse_mix(system.best_of_reward))
    for name in names:
        info(name).check_role("training")
    return names
