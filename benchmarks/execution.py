"""Execute a plan: generate and score what is missing in the run folder. Finished work is never repeated."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.generate import Sampler, generate_images
from benchmarks.planning import Plan, Request, plan_run
from benchmarks.resolve import ResolvedReward
from benchmarks.score import RewardSummary, score_images
from leaderboards.records import Key, Sample
from leaderboards.run_state import HEADER, RunState
from rewards.builtin import BUILTIN
from tcbench.errors import ConfigError, ProblemCollector, TcbenchError, first_line
from tcbench.files import locked, read_lines
from tcbench.progress import Progress, Silent
from textcraftor import rewriters
from textcraftor.diffusion import loading
from textcraftor.diffusion.conditioning import replace_encoders
from textcraftor.diffusion.prompts import noise_seed
from textcraftor.diffusion.runner import PipelineRunner
from textcraftor.io import provenance

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


@dataclass(frozen=True)
class RunResult:
    """State of a run after a start: counts over the planned images."""

    run: RunState
    """The run folder, loaded."""
    images: int
    """Planned images that exist."""
    missing: Mapping[Key, str]
    """Reason for each planned image that does not exist."""
    truncated: int
    """Images whose prompt is longer than the pipeline's text encoder reads."""
    rewards: tuple[RewardSummary, ...]
    """Mean score and number of scored images of each reward."""
    added: int
    """Images and scores that this start added."""
    watermarks: tuple[str, ...]
    """Why this start's samples are not a full result, such as "limit 64 of 1632"."""

    @property
    def path(self) -> Path:
        """Folder of the run."""
        return self.run.path

    @property
    def planned(self) -> int:
        """Number of planned images."""
        return self.run.plan.count

    @property
    def complete(self) -> bool:
        """Whether no planned image or score is missing; an abstention counts as a result."""
        return not self.missing and all(
            summary.scored + summary.abstained == self.planned and not summary.failed
            for summary in self.rewards
        )


def run(
    model: str,
    *,
    suite: str | None = None,
    rewards: Sequence[str] | None = None,
    prompts: str | Path | None = None,
    limit: int | None = None,
    seeds: int = 1,
    base_seed: int = 0,
    steps: int | None = None,
    guidance: float | None = None,
    tuned_steps: int | None = None,
    batch_size: int | None = None,
    device: str = "auto",
    dtype: str = "auto",
    out: str | Path = "runs",
    progress: Progress | None = None,
) -> RunResult:
    """Generate images with a model and score them, as ``tcbench run`` does.

    Calling it again resumes the run: only missing images and scores are added.

    Args:
        model: A named system, a TOML file, a diffusers folder or a hub id.
        suite: Prompt set; None for the system's own.
        rewards: Names of rewards or presets, or ``file.py:Name``; None for the system's own.
        prompts: A prompt file, or the folder that holds a suite's files.
        limit: Number of prompts: a seeded subset with every category in proportion. None for all.
        seeds: Images per prompt.
        base_seed: Base seed for the initial noise.
        steps: Sampling steps; None for the system's own.
        guidance: Guidance scale; None for the system's own.
        tuned_steps: Number of last sampling steps that use the tuned text encoder; None for the system's own.
        batch_size: Images generated together; None to choose by memory.
        device: "auto", "cpu", "cuda", "cuda:1" or "mps".
        dtype: Precision of the pipeline: "auto", "float32", "float16" or "bfloat16".
        out: Folder that holds the run folders.
        progress: Receives progress; None for no output.

    Returns:
        The state of the run, with its folder, counts and mean scores.

    Raises:
        TcbenchError: If something is missing or invalid; nothing has been generated then.

    Example:
        >>> import benchmarks
        >>> result = benchmarks.run("micro", suite="world", limit=2, rewards=["world-pick"], out=folder)
        >>> result.complete, result.images
        (True, 2)
        >>> result.rewards[0].reward
        'world-pick'
    """
    request = Request(
        model=model,
        suite=suite,
        rewards=rewards,
        prompts=None if prompts is None else Path(prompts),
        limit=limit,
        seeds=seeds,
        base_seed=base_seed,
        steps=steps,
        guidance=guidance,
        tuned_steps=tuned_steps,
        batch_size=batch_size,
        device=device,
        dtype=dtype,
        out=Path(out),
    )
    return execute_plan(plan_run(request), progress or Silent())


def prepare_run(plan: Plan, state: RunState | None = None) -> Sampler | None:
    """Load and check what a run needs before its first step. Nothing is written.

    Dry runs stop after this; runs continue. Models that have no published hash are loaded, because only that
    shows whether they can be; those with nothing left to do are not.

    Args:
        plan: The run.
        state: Its folder, if it is open already.

    Returns:
        The sampler; None if all images exist.

    Raises:
        TcbenchError: If something cannot be loaded or does not fit together; `Problems` reports everything.
    """
    problems = ProblemCollector()
    state = state or _existing(plan)
    lacks_images = state is None or bool(state.missing_images())
    for reward in plan.rewards:
        if reward.info.name not in BUILTIN and (lacks_images or _lacks_scores(state, reward)):
            with problems.catch(), _as_problem(f"reward {reward.info.name}"):
                reward.load(plan.device)
    if plan.rewriter is not None and _lacks_rewrites(plan):
        folder = plan.rewriter[1]
        with problems.catch(), _as_problem(f"rewriter {folder}"):
            rewriters.RewriterModel(*plan.rewriter, plan.device)
    sampler = None
    if lacks_images:
        with problems.catch(), _as_problem(f"model {plan.system.name}"):
            sampler = _load_sampler(plan)
            _check_parts(sampler.runner)
    problems.raise_any()
    return sampler


@contextmanager
def _as_problem(what: str) -> Iterator[None]:
    """Report any error of the block as one line; third-party code may raise any exception."""
    try:
        yield
    except TcbenchError:
        raise
    except Exception as error:
        raise ConfigError(f"{what} cannot be loaded: {type(error).__name__}: {first_line(error)}") from error


def _check_parts(runner: PipelineRunner) -> None:
    """Check that the sampling settings and the parts of a pipeline fit together.

    Raises:
        ConfigError: If they do not.
    """
    pipe, steps = runner.pipe, runner.schedule.steps
    channels, *_ = runner.latent_shape
    most = pipe.scheduler.config.num_train_timesteps
    if steps > most:
        raise ConfigError(f"steps = {steps}; expected at most {most}, the timesteps of this pipeline")
    pipe.scheduler.set_timesteps(steps)
    if channels != pipe.vae.config.latent_channels:
        raise ConfigError(
            f"the UNet takes latents of {channels} channels, but the VAE has "
            f"{pipe.vae.config.latent_channels}; give parts of one text-to-image model"
        )
    (embeds, *_), *_ = (one.tensors for one in runner.conditionings([""]).values())
    widths = pipe.unet.config.cross_attention_dim
    width = widths if isinstance(widths, int) else widths[0]
    if embeds.shape[-1] != width:
        raise ConfigError(
            f"the text encoder gives embeddings of width {embeds.shape[-1]}, but the UNet reads {width}; "
            "give parts of one base model"
        )


def _existing(plan: Plan) -> RunState | None:
    """The run folder with this plan; None if it does not exist yet."""
    if not (plan.path / HEADER).is_file():
        return None
    state = RunState(plan.path)
    state.plan = plan.header.planned
    return state


def _lacks_scores(state: RunState | None, reward: ResolvedReward) -> bool:
    """Whether a planned score is missing, or failed and is tried again."""
    if state is None:
        return True
    scored = {key for key, score in state.scores(reward.score_set).items() if score.status != "failed"}
    return not scored.issuperset(state.plan.keys())


def _lacks_rewrites(plan: Plan) -> bool:
    """Whether a planned prompt has not been rewritten yet."""
    if plan.rewriter is None:
        return False
    rewritten = {int(row["prompt_id"]) for row in read_lines(plan.path / rewriters.REWRITES_FILE)}
    return not rewritten.issuperset(plan.header.planned.prompt_ids)


def execute_plan(plan: Plan, progress: Progress) -> RunResult:
    """Generate and score what is missing, while holding the run folder for this process."""
    # a new run is prepared before its folder exists; the list is emptied, so that the pipeline does not stay
    # in memory while images are scored
    samplers = [] if (plan.path / HEADER).is_file() else [prepare_run(plan)]
    with locked(plan.path):
        state = RunState.create(plan.path, plan.header)
        samplers = samplers or [prepare_run(plan, state)]
        _note_environment(state, plan.header.provenance[0], progress)
        if _lacks_rewrites(plan):
            samplers = [None]  # pipeline and language model are in memory one after the other
        describe = partial(_describe, plan, _rewritten(plan, progress))
        added = generate_images(
            state, describe, lambda: samplers.pop() or _load_sampler(plan), plan.batch_size, progress
        )
        result = _score(state, plan.rewards, plan.device, progress, added, plan.header.watermarks)
        state.finish(plan.header)
        return result


def score_run(path: Path, rewards: Sequence[ResolvedReward], device: str, progress: Progress) -> RunResult:
    """Score the images of the run in ``path`` with every reward."""
    environment = provenance.environment(device)
    with locked(path):
        state = RunState(path)
        state = RunState.create(path, replace(state.header, provenance=(environment,)))
        _note_environment(state, environment, progress)
        return _score(state, rewards, device, progress, 0, state.header.watermarks)


def _note_environment(run: RunState, environment: Mapping[str, Any], progress: Progress) -> None:
    for difference in provenance.environment_differences(run.header.provenance, environment):
        progress.note(f"environment changed since the last start: {difference}")


def _score(
    run: RunState,
    rewards: Sequence[ResolvedReward],
    device: str,
    progress: Progress,
    added: int,
    watermarks: tuple[str, ...],
) -> RunResult:
    added += score_images(run, rewards, device, progress)
    planned = run.plan
    missing = run.missing_images()
    return RunResult(
        run=run,
        images=planned.count - len(missing),
        missing={key: _reason(run.samples.get(key)) for key in sorted(missing)},
        truncated=sum(sample.truncated for key, sample in run.samples.items() if key in planned),
        rewards=tuple(RewardSummary.of(run, reward.score_set) for reward in rewards),
        added=added,
        watermarks=watermarks,
    )


def _rewritten(plan: Plan, progress: Progress) -> Mapping[int, str]:
    """Return the rewrites of the planned prompts by prompt id; empty without a rewriter."""
    if plan.rewriter is None:
        return {}
    planned = [plan.prompts.prompts[number] for number in plan.header.planned.prompt_ids]
    return rewriters.rewrite_prompts(
        *plan.rewriter,
        planned,
        plan.path / rewriters.REWRITES_FILE,
        seed=plan.base_seed,
        device=plan.device,
        progress=progress,
    )


def _describe(plan: Plan, rewritten: Mapping[int, str], key: Key) -> Sample:
    """The record of a sample before its image exists."""
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


def _load_sampler(plan: Plan) -> Sampler:
    system = plan.system
    pipe = loading.load_pipeline(
        plan.pipeline,
        device=plan.device,
        dtype=plan.dtype,
        sampler=system.schedule.sampler,
        spacing=system.schedule.spacing,
        replaced=system.replaced,
        lora={Path(name): scale for name, scale in system.lora.items()},
    )
    encoders = {
        name: replace_encoders(pipe, loading.load_parts(pipe, folder))
        for name, folder in system.encoders.items()
    }
    runner = PipelineRunner(
        pipe,
        system.schedule,
        encoders,
        system.windows,
        negative_prompt=system.negative_prompt,
        clip_skip=system.clip_skip,
        guidance_rescale=system.guidance_rescale,
    )
    if not system.test_time_reward:
        return Sampler(runner)
    import torch

    from rewards.combine.mix import load_mix

    mix = load_mix(system.test_time_reward, calibration=system.calibration, device=plan.device)
    if system.optimise:
        from textcraftor.ascent import RewardAscent

        ascent = RewardAscent.of_runner(
            runner, mix, system.optimise, system.optimise_iterations, system.optimise_rate
        )
        return Sampler(runner, ascent=ascent)

    def test_time_reward(images: NDArray[np.float32], prompts: Sequence[str]) -> NDArray[np.float32]:
        pixels = torch.from_numpy(images).permute(0, 3, 1, 2).float().to(plan.device)
        with torch.inference_mode():
            total: NDArray[np.float32] = mix.score(pixels, prompts).total.float().cpu().numpy()
        return total

    return Sampler(runner, system.best_of, test_time_reward)


def _reason(sample: Sample | None) -> str:
    if sample is None:
        return "not generated yet"
    return sample.reason or "image file not found"
