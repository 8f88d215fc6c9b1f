"""Systems under test: a base pipeline, its text encoders, prompt rewriting and sampling settings.

Named systems are in the table `SYSTEMS`; any other is a TOML file, a diffusers folder or a hub id.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any

from pydantic import Field

from benchmarks.system_files import COMPONENTS, RENAMED, read_values
from tcbench.declarations import CUSTOM_PREFIX, CUSTOM_REWARD
from tcbench.errors import ConfigError, Problems, UnknownName
from tcbench.settings import build_settings, one_of, validated
from textcraftor.diffusion.devices import DTYPES
from textcraftor.diffusion.models import MODELS, Model
from textcraftor.diffusion.pipeline import MICRO, Source
from textcraftor.diffusion.runner import ORIGINAL, EncoderWindow
from textcraftor.diffusion.schedule import Schedule
from textcraftor.diffusion.weight_files import WeightFiles
from textcraftor.io.system import SYSTEM_FILE, write_system

STYLE_WORDS = ", vivid, vibrant, shaded, glossy"
"""Prompt engineering for the embedded pipeline: the words that its captions use for strong saturation and
shading. No word names depth or backdrop.
"""

WORLD_REWARDS = (
    "world-clip", "world-aesthetic", "world-pick", "world-hps",
    "world-siglip", "world-blip", "world-vqa", "world-rule", "world-oracle",
)  # fmt: skip
OPEN_REWARDS = ("clip", "pickscore", "hpsv2.1", "aesthetic-v2")

CHANGES = (
    *COMPONENTS, "lora", "windows", "append", "rewriter", "test_time_reward",
    "negative_prompt", "clip_skip", "guidance_rescale", "best_of_reward",
)  # fmt: skip
"""Settings that make a system differ from its base model; the last one is in records of earlier versions."""

LEARNING_RATES: Mapping[str, float] = MappingProxyType({"noise": 5.0, "embedding": 0.01})
"""What can be optimised at test time, with the default learning rate."""


@validated
class System:
    """One row of a leaderboard. Its settings are the defaults of `tcbench run`."""

    name: str
    """Name on leaderboards and in the name of the run folder."""
    pipeline: str
    """A diffusers folder or a hub id."""
    revision: str | None = None
    """Git revision of the hub id."""
    text_encoder: str | None = None
    """Folder of a transformers CLIPTextModel that replaces the pipeline's own in all steps."""
    text_encoder_2: str | None = None
    """Folder of a transformers CLIPTextModelWithProjection that replaces the second text encoder."""
    unet: str | None = None
    """Folder of a diffusers UNet that replaces the pipeline's own."""
    vae: str | None = None
    """Folder of a diffusers VAE that replaces the pipeline's own."""
    lora: Mapping[str, float] = field(default_factory=dict)
    """Files of adapters (LoRA) for the pipeline's text encoders and UNet, with the scale of each; also the
    name of one file, for scale 1.
    """
    windows: tuple[EncoderWindow, ...] = ()
    """Sampling steps with other text encoders: folders that contain text_encoder/, or "original"."""
    append: str = ""
    """Text appended to every prompt for the pipeline; rewards see the original prompt. "": none."""
    rewriter: str = ""
    """Language model that rewrites prompts, before ``append``: a name or a folder
    (`textcraftor.rewriters`). "": none.
    """
    best_of: Annotated[int, Field(ge=1)] = 1
    """Images generated for each sample, of which the one with the highest ``test_time_reward`` is kept."""
    optimise: Annotated[str, one_of("target of optimise", ("", *LEARNING_RATES))] = ""
    """What is optimised for the ``test_time_reward`` of each image: "noise", the initial noise (ReNO, Eyring
    et al. 2024), or "embedding", the text embedding of the prompt. "": nothing.
    """
    optimise_iterations: Annotated[int, Field(ge=0)] = 50
    """Gradient steps of this optimisation. The image before each step and after the last one is scored, and
    the best one is kept.
    """
    optimise_lr: Annotated[float, Field(ge=0)] = 0.0
    """Learning rate of this optimisation; 0: 5 for noise, as in the paper, and 0.01 for the embedding."""
    test_time_reward: str = ""
    """Reward mix ``name=weight,name=weight`` that picks the best image or is optimised; needed if ``best_of``
    is above 1 or ``optimise`` is set.
    """
    calibration: str = ""
    """Scale of that mix's weights. "": official scores; "world" or a calibration file: standardised ones."""
    negative_prompt: str = ""
    """Negative prompt for classifier-free guidance; "": the empty prompt."""
    clip_skip: Annotated[int, Field(ge=0)] = 0
    """Number of the text encoders' last layers that are skipped; 0: none."""
    guidance_rescale: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Share of guided outputs that is rescaled to the standard deviation of unguided ones (Lin et al. 2024,
    section 3.4); 0: none.
    """
    schedule: Schedule = Schedule()
    """Sampling settings."""
    dtype: Annotated[str, one_of("dtype", DTYPES)] = "float32"
    """Precision on an accelerator; on the CPU everything is float32."""
    domain: str = "open"
    """Domain of its images: "open", or the name of the suite whose world it was trained on."""
    suite: str = "parti"
    """Prompt suite to run if none is requested."""
    rewards: tuple[str, ...] = OPEN_REWARDS
    """Rewards to score with if none are requested."""
    trained_on: tuple[str, ...] | None = None
    """Rewards that its weights were optimised for, which leaderboards mark; None: undeclared."""
    method: str = ""
    """Name shared by systems that differ only in their training seed; "": none."""
    weights: tuple[str, ...] = ("*/*.safetensors",)
    """Patterns of the weight files to download from the hub."""
    gigabytes: float | None = None
    """Size of that download, if known."""

    def __post_init__(self) -> None:
        self._check_test_time()
        guided = ("negative_prompt", "guidance_rescale")
        unused = [name for name in guided if getattr(self, name)]
        if unused and self.schedule.guidance <= 1:
            raise ConfigError(
                f"{unused[0]} = {getattr(self, unused[0])!r} with guidance = {self.schedule.guidance:g} has "
                f"no effect; set a guidance above 1, or remove {unused[0]}"
            )

    def _check_test_time(self) -> None:
        """Raise ConfigError if the settings of best-of-N and of the optimisation do not fit together."""
        if self.best_of > 1 and self.optimise:
            raise ConfigError(
                f"best_of = {self.best_of} with optimise = {self.optimise!r}; set only one of them"
            )
        setting = f"optimise = {self.optimise!r}" if self.optimise else f"best_of = {self.best_of}"
        if (self.best_of > 1 or bool(self.optimise)) != bool(self.test_time_reward):
            raise ConfigError(
                f"{setting} with test_time_reward = {self.test_time_reward!r}; set a reward together with "
                'best_of or optimise, such as best_of = 4 and test_time_reward = "pickscore=1", or neither'
            )
        if not self.optimise:
            return
        if self.schedule.noisy:
            name, value = ("eta", 0.0) if self.schedule.eta else ("sampler", "euler")
            raise ConfigError(
                f"{setting} with schedule.{name} = {getattr(self.schedule, name)!r}, which adds noise in "
                f"each step; set schedule.{name} = {value!r}"
            )
        if self.guidance_rescale:
            raise ConfigError(
                f"{setting} with guidance_rescale = {self.guidance_rescale:g}; remove one of them"
            )
        partial = [one for one in self.windows if one.steps(self.schedule) < self.schedule.steps]
        if self.optimise == "embedding" and partial:
            raise ConfigError(
                f"{setting} with a text encoder for the last {partial[0].steps(self.schedule)} of "
                f'{self.schedule.steps} steps; use one for all steps, or set optimise = "noise"'
            )

    @property
    def optimise_rate(self) -> float:
        """Learning rate of the optimisation, with its default resolved; 0 without one."""
        return self.optimise_lr or LEARNING_RATES.get(self.optimise, 0.0)

    @property
    def source(self) -> Source:
        """Where the base pipeline comes from."""
        return Source(self.pipeline, self.revision, self.weights, self.gigabytes)

    @property
    def replaced(self) -> dict[str, Path]:
        """Folders of the components that replace the pipeline's own, by component name."""
        folders = {name: getattr(self, name) for name in COMPONENTS}
        return {name: Path(folder) for name, folder in folders.items() if folder}

    @property
    def encoders(self) -> dict[str, Path]:
        """Folders of the text encoders that windows use, by their name in the windows."""
        names = [name for window in self.windows for name in window.weights if name != ORIGINAL]
        return {name: Path(name) for name in dict.fromkeys(names)}

    def with_schedule(self, **changes: Any) -> System:
        """Return this system with other sampling settings.

        Tuned steps keep their share of all steps, unless ``tuned_steps`` is given.

        Args:
            **changes: Fields of `Schedule`; None keeps the system's own.

        Raises:
            ConfigError: If a value is invalid, or ``tuned_steps`` is given and there is no tuned encoder.
        """
        changes = {name: value for name, value in changes.items() if value is not None}
        steps, windows = changes.get("steps", self.schedule.steps), self.windows
        if "tuned_steps" in changes:
            if not windows:
                raise ConfigError(
                    f"{self.name} has no tuned text encoder; tuned_steps requires a training run or a mix"
                )
            windows = (*windows[:-1], replace(windows[-1], tuned_steps=0))  # 0: the schedule's

        def rescaled(tuned_steps: int) -> int:
            # never rounded to 0, which means all steps
            return tuned_steps and max(1, round(tuned_steps / self.schedule.steps * steps))

        own = {"tuned_steps": rescaled(self.schedule.tuned_steps)}
        return replace(
            self,
            schedule=replace(self.schedule, **own | changes),
            windows=tuple(replace(one, tuned_steps=rescaled(one.tuned_steps)) for one in windows),
        )

    def describe(self) -> dict[str, Any]:
        """Return all fields, ready for JSON.

        The rewards of ``test_time_reward`` count as trained on: the system optimises them too.
        """
        record = asdict(self)
        if self.trained_on is not None and self.test_time_reward:
            from rewards.combine.terms import parse_mix
            from rewards.registry import info

            optimised = [info(name).declared_as for name in parse_mix(self.test_time_reward)]
            record["trained_on"] = list(dict.fromkeys([*self.trained_on, *optimised]))
        return record

    @staticmethod
    def unknown_rewards(names: Iterable[str]) -> list[str]:
        """Return the declared training rewards that no reward here is called.

        Nothing is imported: a declaration may come from elsewhere. ``custom:NAME@SHA256`` declares a custom
        reward and is never unknown.
        """
        from rewards.builtin import CLIPSCORES
        from rewards.registry import list_rewards

        known = set(list_rewards())
        by_model = tuple(f"{convention}:" for convention in CLIPSCORES)
        return [
            name
            for name in names
            if name not in known and not (name.startswith(by_model) or CUSTOM_REWARD.fullmatch(name))
        ]

    @staticmethod
    def reward_families(names: Iterable[str]) -> dict[str, list[str]]:
        """Return what boards need to know of declared training rewards: families, and unknown names."""
        from rewards.registry import info

        names = list(names)
        unknown = System.unknown_rewards(names)
        known = [name for name in names if name not in unknown and not CUSTOM_REWARD.fullmatch(name)]
        return {
            "trained_on_families": sorted({info(name).family for name in known}),
            "trained_on_unknown": unknown,
        }

    @staticmethod
    def check_rewards(names: Iterable[str], *, also: Iterable[str] = (), source: str) -> None:
        """Check names of training rewards that the user declares.

        Args:
            names: The declared names.
            also: Further names that are known.
            source: Where they are declared, for messages.

        Raises:
            UnknownName: If one is unknown: a misspelt reward would count as held out. `Problems` for several.
            ConfigError: If one begins like the declaration of a custom reward and is none.
        """
        from rewards.registry import list_rewards

        also = tuple(also)
        unknown = System.unknown_rewards(name for name in names if name not in also)
        if unknown:
            known = [*also, *list_rewards()]
            hint = "a custom reward is declared as custom:NAME@SHA256, with the SHA-256 of its file"
            listing = "tcbench ls rewards"
            raise Problems.of(
                ConfigError(
                    f"{source}: {name!r} does not declare a custom reward; expected "
                    f"{CUSTOM_PREFIX}<name>@<sha256 of 64 hex digits>, the sha256 of the reward's file"
                )
                if name.startswith(CUSTOM_PREFIX)
                else UnknownName("training reward", name, known, source=source, hint=hint, listing=listing)
                for name in unknown
            )

    @staticmethod
    def find(model: str) -> System:
        """Return the system that ``--model`` names.

        Args:
            model: A name in `SYSTEMS`, a TOML file, a diffusers folder, a hub id (optionally with
                ``@revision``), or a folder with system.toml (a training run, a checkpoint or an encoder mix).

        Raises:
            UnknownName: If it is none of these; with close matches.
            ConfigError: If a TOML file is invalid, or it is a file of another kind.
        """
        if not model.strip():
            raise ConfigError("the model is empty; give a named system, a TOML file, a folder or a hub id")
        if model in SYSTEMS:
            return SYSTEMS[model]
        path = Path(model).expanduser()
        if path.suffix == ".toml":
            return _read_system(path)
        if (path / SYSTEM_FILE).is_file():
            return replace(_read_system(path / SYSTEM_FILE), name=path.resolve().name)
        if path.is_dir():
            return System(name=path.resolve().name, pipeline=str(path))
        WeightFiles.refuse_as_model(model)
        hub_id, _, revision = model.partition("@")
        if hub_id.count("/") == 1 and not hub_id.startswith((".", "/", "~")):
            return System(name=hub_id.replace("/", "_"), pipeline=hub_id, revision=revision or None)
        raise UnknownName("model, TOML file, diffusers folder or hub id", model, SYSTEMS)

    def save(self, folder: Path) -> None:
        """Write a system as ``folder/system.toml``."""
        folder.mkdir(parents=True, exist_ok=True)
        name = Model.name_of(self.pipeline, self.revision)
        base = SYSTEMS[name] if name else System("base", "base")
        rewriter_folder = bool(self.rewriter) and Path(self.rewriter).expanduser().is_dir()
        write_system(
            folder,
            self.source,
            windows=self.windows,
            schedule=self.schedule,
            trained_on=self.trained_on,
            folders=self.replaced | ({"rewriter": Path(self.rewriter)} if rewriter_folder else {}),
            lora=self.lora,
            append=self.append,
            negative_prompt=self.negative_prompt,
            clip_skip=self.clip_skip or None,
            guidance_rescale=self.guidance_rescale or None,
            rewriter="" if rewriter_folder else self.rewriter,
            best_of=self.best_of if self.best_of > 1 else None,
            optimise=self.optimise,
            optimise_iterations=self.optimise_iterations if self.optimise else None,
            optimise_lr=self.optimise_lr or None,
            test_time_reward=self.test_time_reward,
            calibration=self.calibration,
            dtype=self.dtype,
            method=self.method,
            **{
                key: getattr(self, key)
                for key in ("domain", "suite", "rewards")
                if getattr(self, key) != getattr(base, key)
            },
        )


def _of_model(name: str, model: Model, **changes: Any) -> System:
    """Return a base model as a system; ``changes`` are fields of `System`."""
    source = model.source
    defaults: dict[str, Any] = {
        "name": name, "pipeline": source.location, "revision": source.revision, "weights": source.weights,
        "gigabytes": source.gigabytes, "schedule": Schedule(guidance=model.guidance), "dtype": model.dtype,
        "domain": model.domain, "trained_on": (),
    }  # fmt: skip
    if model.domain == "world":
        defaults |= {"suite": "world", "rewards": WORLD_REWARDS}
    return System(**defaults | changes)


def _compared(name: str, method: str, **changes: Any) -> System:
    """Return the first seed of a method of the comparison, which is shipped (`scripts/ship_systems.py`)."""
    return _of_model(name, MODELS["micro"], method=method, trained_on=_COMPARED_ON, **changes)


_COMPARED_ON = ("world-aesthetic", "world-pick", "world-hps", "world-clip")
_TUNED = MICRO.parent / "encoders"

SYSTEMS: Mapping[str, System] = MappingProxyType(
    {
        **{name: _of_model(name, model) for name, model in MODELS.items()},
        "micro+style-words": _of_model("micro+style-words", MODELS["micro"], append=STYLE_WORDS),
        "micro-promptist": _compared(
            "micro-promptist", "prompt rewriter (Promptist)", rewriter="world-promptist"
        ),
        **{
            name: _compared(name, method, windows=(EncoderWindow({str(_TUNED / name): 1.0}),))
            for name, method in (
                ("micro-textcraftor", "TextCraftor (text)"),
                ("micro-ddpo", "RL, text encoder (DDPO)"),
            )
        },
    }
)
"""Named systems."""


def _read_system(path: Path) -> System:
    """Read a system from a TOML file.

    Raises:
        UnknownName: For an unknown key, base or training reward; with close matches.
        ConfigError: If the file cannot be read, or a value is invalid.
        Problems: For several of these.
    """
    values = read_values(path, SYSTEMS)
    system = build_settings(System, values, source=str(path), renamed=RENAMED, also=("base",))
    if path.name != SYSTEM_FILE:  # files from elsewhere may declare rewards that are unknown here
        System.check_rewards(system.trained_on or (), source=str(path))
    return system
