"""Inputs of a training run, found and checked before large models are loaded."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

from rewards.combine.calibration import Calibration
from rewards.combine.terms import parse_mix
from rewards.info import RewardInfo
from rewards.registry import info
from rewards.weights.locate import locate_weights
from tcbench.errors import ConfigError, ProblemCollector, UnknownName
from tcbench.files import check_writable
from tcbench.progress import Progress
from tcbench.settings import read_toml
from textcraftor.config import TrainConfig
from textcraftor.diffusion.models import Model
from textcraftor.diffusion.pipeline import encoders_sha256, pipeline_sha256
from textcraftor.io.checkpoint import TrainFolder
from textcraftor.io.pairs import DECLARED, Pairs
from textcraftor.io.system import SYSTEM_FILE
from textcraftor.rewriters import Rewriter
from textcraftor.settings import REINFORCEMENT, WITHOUT_GRADIENT, ValidationSettings
from textcraftor.sources import PromptSource


@dataclass(frozen=True)
class TrainInputs:
    """Rewards, files and prompts of a run, on this machine."""

    rewards: Mapping[str, RewardInfo]
    """Records of the trained rewards by their names in the mix."""
    trained_on: Sequence[str] | None
    """Names of all rewards that the result is trained on; None if the starting checkpoint does not declare
    its own.
    """
    pipeline: Path
    """Folder of the base model."""
    pipeline_sha256: str
    prompts: PromptSource
    """Training prompts; with image-text pairs, their texts."""
    pairs: Pairs | None
    """Image-text pairs to train on; None without them."""
    validation: PromptSource | None
    """Validation prompts; None without validation."""

    @classmethod
    def find(
        cls,
        config: TrainConfig,
        processes: int,
        progress: Progress,
        folder: TrainFolder | None,
        *,
        fetch: bool = True,
        prompts: PromptSource | None = None,
        validation: PromptSource | None = None,
        suites: Callable[[str, bool], PromptSource] | None = None,
    ) -> TrainInputs:
        """Find and check everything. Nothing is downloaded before all mistakes are fixed.

        Args:
            config: The run's configuration.
            processes: Number of processes that share each batch.
            progress: Receives notes.
            folder: The run's folder; None in a process that does not write it.
            fetch: Download what is missing if the hub can be reached.
            prompts: Training prompts in place of those that the configuration names.
            validation: Validation prompts in place of those that the configuration names.
            suites: Reads prompt suites, see `PromptSource.find`.

        Raises:
            TcbenchError: If something is missing or invalid; `Problems` for several of these.
        """
        search = _Search(config, processes, folder, prompts, validation, suites)
        inputs = ProblemCollector.before_downloads(search.run, fetch=fetch)
        assert inputs.rewards is not None
        assert inputs.pipeline is not None
        assert inputs.prompts is not None
        if config.validation.every and inputs.validation is None:
            progress.note("no validation prompts (validation.prompts); the newest checkpoint is used")
        return cls(
            inputs.rewards,
            _trained_on(config),
            inputs.pipeline,
            pipeline_sha256(inputs.pipeline),
            inputs.prompts,
            inputs.pairs,
            inputs.validation,
        )


class _Found(NamedTuple):
    """Inputs of a run; None where one could not be found, or is not needed."""

    rewards: dict[str, RewardInfo] | None
    pipeline: Path | None
    prompts: PromptSource | None
    pairs: Pairs | None
    validation: PromptSource | None


@dataclass(frozen=True)
class _Search:
    """The arguments of `TrainInputs.find`."""

    config: TrainConfig
    processes: int
    folder: TrainFolder | None
    prompts: PromptSource | None
    validation: PromptSource | None
    suites: Callable[[str, bool], PromptSource] | None

    def run(self, problems: ProblemCollector, fetch: bool) -> _Found:
        """Run all checks before any error is raised, so that a user can fix everything in one go."""
        config = self.config
        problems.run(self._check_folders)
        problems.run(lambda: _check_shares(config, self.processes))
        rewards = problems.run(lambda: _trained_rewards(config, fetch))
        problems.run(lambda: _check_selection(config, rewards or {}, fetch))
        if config.rewards.calibration:
            problems.run(lambda: Calibration.read(config.rewards.calibration))
        pipeline = problems.run(lambda: Model.find(config.model).source.find(fetch=fetch))
        problems.run(lambda: _check_start(config, fetch))
        prompts, validation = self.prompts, self.validation
        pairs = problems.run(lambda: Pairs.read(Path(config.data.pairs))) if config.data.pairs else None
        if pairs is not None:
            prompts = pairs.source
        elif prompts is None and not config.data.pairs:
            prompts = problems.run(
                lambda: PromptSource.find(config.data.prompts, fetch=fetch, suites=self.suites)
            )
        if not config.validation.every or validation is None:
            validation = problems.run(lambda: _validation_prompts(config.validation, fetch, self.suites))
        return _Found(rewards, pipeline, prompts, pairs, validation)

    def _check_folders(self) -> None:
        """Check that the run's folder and the cache can be written, and that there is no other run."""
        problems = ProblemCollector()
        cache = self.config.memory.prefix_cache
        if cache:
            problems.run(lambda: check_writable(Path(cache).expanduser(), "memory.prefix_cache"))
        folder = self.folder
        if folder is not None:
            record = {"config": json.loads(json.dumps(asdict(self.config)))}
            problems.run(lambda: folder.check(record))
        problems.raise_any()


def _check_shares(config: TrainConfig, processes: int) -> None:
    """Check that processes share a batch equally and every optimiser step has a sample.

    Raises:
        ConfigError: If not.
    """
    share, rest = divmod(config.optimiser.batch, processes)
    if rest:
        raise ConfigError(
            f"optimiser.batch = {config.optimiser.batch} is not a multiple of the {processes} processes"
        )
    updates = config.algorithm.policy_updates
    if config.algorithm.name == "nft":
        # each optimiser step takes all samples at some of the timesteps
        steps = config.schedule.tuned_step_count
        timesteps = min(config.algorithm.policy_steps or steps, steps)
        if updates > timesteps:
            raise ConfigError(
                f"algorithm.policy_updates is {updates}, but an update trains on {timesteps} timesteps; "
                "lower it, or raise algorithm.policy_steps"
            )
    elif config.algorithm.name in REINFORCEMENT and updates > share:
        raise ConfigError(
            f"algorithm.policy_updates is {updates}, but a process has {share} samples per update; "
            "lower it, or raise optimiser.batch"
        )


def _trained_rewards(config: TrainConfig, fetch: bool) -> dict[str, RewardInfo]:
    """Return the records of the trained rewards, after checking that their weights are on this machine.

    Raises:
        WrongRole: For a judge.
        ConfigError: If there is no reward, or one lacks a gradient that the algorithm needs.
        MissingFiles: If weights are missing.
    """
    if not config.rewards.mix:
        raise ConfigError(
            "no rewards to maximise; set rewards.mix (--rewards), such as "
            "pickscore=1,hpsv2=100,clip-cosine=100"
        )
    infos = {name: info(name) for name in parse_mix(config.rewards.mix)}
    problems = ProblemCollector()
    for name in config.rewards.constraints:
        with problems.catch():
            if name not in infos:
                raise UnknownName("reward in rewards.constraints", name, infos)
            if parse_mix(config.rewards.mix)[name].weight < 0:
                raise ConfigError(
                    f"rewards.constraints names {name}, whose weight is negative; it must be above 0"
                )
    for record in infos.values():
        with problems.catch():
            record.check_role("training")
            if not record.differentiable and config.algorithm.name not in WITHOUT_GRADIENT:
                raise ConfigError(
                    f"{record.name} has no gradient; choose a differentiable reward (`tcbench ls rewards`), "
                    "or reinforcement learning (--profile ddpo)"
                )
            locate_weights(record, fetch=fetch)
    problems.raise_any()
    return infos


def _check_selection(config: TrainConfig, trained: Mapping[str, RewardInfo], fetch: bool) -> None:
    """Check the reward that selects checkpoints.

    Raises:
        WrongRole: For a judge.
        ConfigError: If it is trained on.
        MissingFiles: If its weights are missing.
    """
    selection = config.validation.selection_reward
    if not selection:
        return
    record = info(selection)
    record.check_role("selection")
    if record.name in {other.name for other in trained.values()}:
        raise ConfigError(f"{selection} is trained on; set validation.selection_reward to another reward")
    locate_weights(record, fetch=fetch)


def _check_start(config: TrainConfig, fetch: bool) -> None:
    """Check that the checkpoint and the rewriter that training starts from exist.

    Raises:
        TcbenchError: If one is missing.
    """
    if config.trainable.start:
        encoders_sha256(Path(config.trainable.start))
    if config.trainable.rewriter:
        Rewriter.find(config.trainable.rewriter).find_model(fetch=fetch)


def _trained_on(config: TrainConfig) -> list[str] | None:
    """Return all rewards that the run's weights are trained on; None if a source does not declare its own.

    Rewards that selected or generated the images of pairs count.
    """
    # a supervised run imitates its pairs and does not maximise the mix
    supervised, start, pairs = config.algorithm.name == "denoising", config.trainable.start, config.data.pairs
    names = [] if supervised else [info(name).declared_as for name in parse_mix(config.rewards.mix)]
    declared: list[Sequence[str] | None] = []
    if config.trainable.rewriter:
        declared.append(Rewriter.find(config.trainable.rewriter).trained_on)
    if start:
        file = Path(start) / SYSTEM_FILE
        declared.append(read_toml(file).get("trained_on") if file.is_file() else None)
    if pairs:
        file = Path(pairs) / DECLARED
        # real photographs are trained on no reward; images that a supervised run imitates may be selected
        undeclared: list[str] | None = None if supervised else []
        text = file.read_text(encoding="utf-8") if file.is_file() else ""
        declared.append(json.loads(text)["trained_on"] if text else undeclared)
    if None in declared:
        return None
    return list(dict.fromkeys([*names, *(name for part in declared for name in part or ())]))


def _validation_prompts(
    settings: ValidationSettings, fetch: bool, suites: Callable[[str, bool], PromptSource] | None
) -> PromptSource | None:
    """Return the validation prompts; None without validation.

    Raises:
        ConfigError: If there is a selection reward, but no validation.
    """
    if settings.every and settings.prompts:
        return PromptSource.find(settings.prompts, fetch=fetch, suites=suites)
    if settings.selection_reward:
        raise ConfigError(
            f'validation.selection_reward = "{settings.selection_reward}" requires validation; set '
            "validation.prompts to a prompt file, and validation.every"
        )
    return None
