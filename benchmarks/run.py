"""The main job: plan a run, check that it can be done, draw its images, score them.

`plan` finds and checks everything (prompts, pipeline, weights of every reward) before any image is drawn;
`execute` does the work and may be repeated: what is on disk is never made again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.columns import Column, expanded, families, find_columns
from benchmarks.generate import Artist, generate, missing_images
from benchmarks.score import Scored, score, summarise
from benchmarks.suites import CUSTOM, prompt_set
from benchmarks.suites.base import PromptSet
from benchmarks.systems import System, find_system
from leaderboards.records import Header, Key, Planned, RunFolder, Sample, folder_name, short_id
from rewards.weights.lock import cached_sha256
from tcbench.errors import ProblemCollector
from tcbench.files import locked
from tcbench.progress import Progress
from textcraftor import rewriters
from textcraftor.diffusion import pipeline as pipelines
from textcraftor.diffusion.devices import batch_size_for, find_device, find_dtype
from textcraftor.diffusion.prompts import noise_seed, stratified_order
from textcraftor.diffusion.runner import Drawing
from textcraftor.io import provenance
from textcraftor.rewriters import Rewriter

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

NOISE = "cpu-sha256-1"
"""Version of the noise rule in textcraftor.diffusion.prompts; part of every generation id."""


@dataclass(frozen=True)
class Request:
    """What the command line asks for; None and "auto" leave the choice to the system."""

    model: str
    suite: str | None = None
    rewards: Sequence[str] | None = None
    prompts: Path | None = None
    limit: int | None = None
    seeds: int = 1
    base_seed: int = 0
    steps: int | None = None
    guidance: float | None = None
    switch_step: int | None = None
    """The last steps that the tuned encoder runs."""
    batch_size: int | None = None
    device: str = "auto"
    dtype: str = "auto"
    out: Path = Path("runs")

    def __post_init__(self) -> None:
        for name, lowest in (("limit", 1), ("seeds", 1), ("batch_size", 1)):
            value = getattr(self, name)
            if value is not None and not value >= lowest:
                raise ValueError(f"{name.replace('_', '-')} is {value}; expected at least {lowest}")


@dataclass(frozen=True)
class Plan:
    """A run that can be done: every file it needs is on this machine."""

    system: System
    prompts: PromptSet
    pipeline: Path
    columns: tuple[Column, ...]
    header: Header
    path: Path
    batch_size: int
    device: str
    dtype: str
    base_seed: int
    rewriter: tuple[Rewriter, Path] | None = None
    """Who rewrites prompts, and where its language model is."""


@dataclass(frozen=True)
class Outcome:
    """How a run stands: counts over what was planned. `made` counts what this start added."""

    path: Path
    planned: int
    images: int
    missing: Mapping[Key, str]
    truncated: int
    columns: tuple[Scored, ...]
    made: int
    watermarks: tuple[str, ...]

    @property
    def complete(self) -> bool:
        """Whether no planned image or score is missing; an abstention is a result."""
        return not self.missing and all(
            c.scored + c.abstained == self.planned and not c.failed for c in self.columns
        )


def plan(request: Request, *, with_rewards: bool = True, fetch: bool = True) -> Plan:
    """Resolve `request` against what is on this machine. Raises a ValueError that says what is missing or
    wrong.
    """
    system = _system(request)
    problems = ProblemCollector()
    prompts = problems.run(lambda: prompt_set(system.suite, request.prompts, fetch=fetch))
    columns = problems.run(lambda: find_columns(system.rewards if with_rewards else (), fetch=fetch))
    folder = problems.run(lambda: pipelines.find_pipeline(system.source, fetch=fetch))
    rewriter = problems.run(lambda: _rewriter(system, fetch))
    choosers = problems.run(lambda: find_columns(_choosers(system), fetch=fetch))
    problems.raise_any()
    assert prompts is not None
    assert columns is not None
    assert folder is not None
    device = find_device(request.device)
    dtype = find_dtype(request.dtype, system.dtype, device)
    settings = generation_settings(system, folder, prompts, dtype, request.base_seed)
    if rewriter:
        settings["rewriter"] = rewriters.settings(*rewriter)
    if choosers:
        settings["best_of"] = [system.best_of, system.chooser]
        settings["calibration_sha256"] = _calibration_sha256(system)
        settings["choosers"] = [column.record.score_id for column in choosers]
    details = system.describe()
    header = Header(
        suite=prompts.name,
        suite_sha256=prompts.sha256,
        system=system.name,
        generation_id=short_id(settings),
        generation=settings,
        planned=_planned(request, prompts),
        watermarks=_watermarks(request, system, prompts),
        details=details | {"trained_on_families": families(details["trained_on"] or ())},
        provenance=(provenance.environment(device),),
    )
    path = request.out / folder_name(prompts.name, system.name, header.generation_id)
    batch_size = request.batch_size or batch_size_for(folder, system.size, device)
    return Plan(
        system, prompts, folder, columns, header, path, batch_size, device, dtype, request.base_seed, rewriter
    )


def execute(plan: Plan, progress: Progress) -> Outcome:
    """Draw and score what is missing of `plan`, in its run folder, held for this process alone."""
    with locked(plan.path):
        run = RunFolder.create(plan.path, plan.header)
        _note_environment(run, plan.header.provenance[0], progress)
        load = partial(_load_artist, plan)
        describe = partial(_describe, plan, _rewritten(plan, progress))
        made = generate(run, describe, load, plan.batch_size, progress)
        return _score(run, plan.columns, plan.device, progress, made)


def score_run(run: RunFolder, columns: Sequence[Column], device: str, progress: Progress) -> Outcome:
    """Score the images that the run has with every column."""
    here = provenance.environment(device)
    with locked(run.path):
        run = RunFolder.create(run.path, replace(run.header, provenance=(here,)))
        _note_environment(run, here, progress)
        return _score(run, columns, device, progress, made=0)


def _note_environment(run: RunFolder, here: Mapping[str, Any], progress: Progress) -> None:
    for difference in provenance.differences(run.header.provenance, here):
        progress.note(f"this run was worked on in another environment before: {difference}")


def _score(run: RunFolder, columns: Sequence[Column], device: str, progress: Progress, made: int) -> Outcome:
    """Score with every column, one reward in memory at a time, and say how the run stands."""
    for column in columns:
        made += score(run, column.record, partial(column.load, device), progress)
    planned = run.header.planned
    samples = {key: sample for key, sample in run.samples().items() if key in planned}
    missing = missing_images(run)
    return Outcome(
        path=run.path,
        planned=planned.count,
        images=planned.count - len(missing),
        missing={key: _reason(samples.get(key)) for key in sorted(missing)},
        truncated=sum(sample.truncated for sample in samples.values()),
        columns=tuple(summarise(run, column.record) for column in columns),
        made=made,
        watermarks=run.header.watermarks,
    )


def generation_settings(
    system: System, folder: Path, prompts: PromptSet, dtype: str, base_seed: int
) -> dict[str, Any]:
    """What changes images, and nothing else: limit, seeds, batch size, device and names are left out."""
    hashes = {name: pipelines.component_sha256(place) for name, place in system.replaced.items()}
    settings: dict[str, Any] = {
        "pipeline_sha256": pipelines.pipeline_sha256(folder),
        "text_encoder_sha256": hashes.get("text_encoder"),
        "append": system.append,
        "sampler": system.sampler,
        "steps": system.steps,
        "guidance": float(system.guidance),
        "size": list(system.size) if system.size else None,
        "dtype": dtype,
        "prompts_sha256": prompts.sha256,
        "base_seed": base_seed,
        "noise": NOISE,
    }
    if system.spacing:
        settings["spacing"] = system.spacing
    if system.eta:
        settings["eta"] = float(system.eta)
    if "unet" in hashes:
        settings["unet_sha256"] = hashes["unet"]
    if system.windows:
        settings["windows"] = _windows(system)
    return settings


def _windows(system: System) -> list[list[Any]]:
    """Steps from the end, and the weight of each text encoder by the hash of its content."""
    known = {name: pipelines.encoders_sha256(folder) for name, folder in system.encoders.items()}
    return [
        [
            window.steps(system.steps),
            {known.get(name, name): weight for name, weight in window.weights.items()},
        ]
        for window in system.windows
    ]


def _system(request: Request) -> System:
    """The system, with what the user chose in place of its own defaults."""
    system = find_system(request.model)
    if request.prompts is not None and not request.prompts.exists():
        raise ValueError(f"nothing at {request.prompts}: give --prompts a prompt file, or a suite's folder")
    suite = request.suite or (CUSTOM if request.prompts and request.prompts.is_file() else system.suite)
    chosen: dict[str, Any] = {
        "suite": suite,
        "steps": request.steps,
        "guidance": request.guidance,
        "rewards": None if request.rewards is None else tuple(expanded(request.rewards, system.domain)),
    }
    system = replace(system, **{key: value for key, value in chosen.items() if value is not None})
    return system if request.switch_step is None else system.switched(request.switch_step)


def _planned(request: Request, prompts: PromptSet) -> Planned:
    """The first `limit` prompts in the seeded stratified order, whose prefixes nest."""
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
    found = rewriters.find_rewriter(system.rewriter)
    return found, rewriters.find_model(found, fetch=fetch)


def _calibration_sha256(system: System) -> str | None:
    """Of the scales that the chooser's weights are of. Raises ValueError for a file that is none."""
    if not system.calibration:
        return None
    from rewards.combine.calibration import Calibration, calibration_path

    Calibration.read(system.calibration)  # raises if the file is not a calibration
    return cached_sha256(calibration_path(system.calibration))


def _choosers(system: System) -> Sequence[str]:
    """Rewards that choose the best of several tries. Raises WrongRole for one that must not be optimised."""
    if not system.chooser:
        return ()
    from rewards.combine.terms import parse_mix
    from rewards.info import check_role
    from rewards.registry import info

    names = list(parse_mix(system.chooser))
    for name in names:
        check_role(info(name), "training")
    return names


def _rewritten(plan: Plan, progress: Progress) -> Mapping[int, str]:
    """What the language model makes of the planned prompts, by id; none without one."""
    if plan.rewriter is None:
        return {}
    planned = [plan.prompts.prompts[number] for number in plan.header.planned.prompt_ids]
    return rewriters.rewrite(
        *plan.rewriter,
        planned,
        plan.path / rewriters.KEPT,
        seed=plan.base_seed,
        device=plan.device,
        progress=progress,
    )


def _describe(plan: Plan, rewritten: Mapping[int, str], key: Key) -> Sample:
    prompt = plan.prompts.prompts[key[0]]
    return Sample(
        prompt_id=prompt.id,
        sample=key[1],
        prompt=prompt.text,
        text=rewritten.get(prompt.id, prompt.text) + plan.system.append,
        category=prompt.category,
        groups=[f"{name}: {prompt.tags[name]}" for name in plan.prompts.groups if prompt.tags.get(name)],
        noise_seed=noise_seed(plan.base_seed, *key),
    )


def _load_artist(plan: Plan) -> Artist:
    system = plan.system
    pipe = pipelines.load(
        plan.pipeline,
        device=plan.device,
        dtype=plan.dtype,
        sampler=system.sampler,
        spacing=system.spacing,
        replaced=system.replaced,
    )
    encoders = {name: pipelines.load_encoders(pipe, folder) for name, folder in system.encoders.items()}
    drawing = Drawing(pipe, system.schedule, encoders, system.windows)
    if not system.chooser:
        return Artist(drawing)
    import torch

    from rewards.combine.mix import load_mix

    mix = load_mix(system.chooser, calibration=system.calibration, device=plan.device)

    def judge(images: NDArray[np.float32], prompts: Sequence[str]) -> NDArray[np.float32]:
        pixels = torch.from_numpy(images).permute(0, 3, 1, 2).float().to(plan.device)
        with torch.inference_mode():
            found: NDArray[np.float32] = mix.score(pixels, prompts).total.float().cpu().numpy()
        return found

    return Artist(drawing, system.best_of, judge)


def _reason(sample: Sample | None) -> str:
    if sample is None:
        return "not drawn yet"
    return sample.reason or "its file is gone"
