"""Systems under test: base pipeline, text encoder, prompt rewriting and schedule, under one name.

Named systems stand in the literal table `SYSTEMS`; any other is a TOML file, a diffusers folder or a hub id.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

from tcbench.errors import ConfigError, UnknownName
from textcraftor.diffusion.devices import DTYPES
from textcraftor.diffusion.models import MODELS, Model
from textcraftor.diffusion.pipeline import Source
from textcraftor.diffusion.runner import ORIGINAL, Window
from textcraftor.diffusion.schedule import SAMPLERS, SPACINGS, Schedule
from textcraftor.io.system import SYSTEM_FILE
from textcraftor.rewriters import find_rewriter

STYLE_WORDS = ", vivid, crisp, glowing, clean"
"""Prompt engineering in the embedded world: the words that its captions use for good quality."""

WORLD_REWARDS = (
    "world-clip", "world-aesthetic", "world-pick", "world-hps",
    "world-siglip", "world-blip", "world-rule", "world-oracle",
)  # fmt: skip

OPEN_REWARDS = ("clip", "pickscore", "hpsv2.1", "aesthetic-v2")


@dataclass(frozen=True)
class System:
    """One row of a leaderboard. What the user leaves open on the command line comes from here."""

    name: str
    pipeline: str
    """A diffusers folder or a hub id."""
    revision: str | None = None
    text_encoder: str | None = None
    """Folder of a transformers CLIPTextModel that replaces the pipeline's own."""
    unet: str | None = None
    """Folder of a diffusers UNet that replaces the pipeline's own."""
    windows: tuple[Window, ...] = ()
    """Steps with other text encoders, weighed by folder (with text_encoder/ in it) or "original"."""
    append: str = ""
    """Prompt rewriting by rule: this is appended to what the pipeline is given; rewards see the original."""
    rewriter: str = ""
    """Prompt rewriting by a language model, before that: a name or folder (`textcraftor.rewriters`)."""
    best_of: int = 1
    """Tries at each image, of which the best by ``chooser`` is kept."""
    chooser: str = ""
    """A mix, ``name=weight,name=weight``, by its ``calibration``: "" official scores, "world", a file."""
    calibration: str = ""
    sampler: str = "ddim"
    spacing: str = ""
    """Of timesteps: "leading", "trailing" or "linspace"; "": the pipeline's own."""
    steps: int = 25
    guidance: float = 7.5
    eta: float = 0.0
    """Noise of each sampling step, as DDIM has it: 1 is what reinforcement learning trains at."""
    size: tuple[int, int] | None = None
    """(height, width) in pixels; None: the pipeline's own."""
    dtype: str = "float32"
    """On an accelerator; on the CPU everything is float32."""
    domain: str = "open"
    """What its images can show: "open", or the name of the one suite's world it was made for."""
    suite: str = "parti"
    rewards: tuple[str, ...] = OPEN_REWARDS
    trained_on: tuple[str, ...] | None = None
    """Rewards its weights were optimised for; a leaderboard marks their columns. None: nobody says."""
    method: str = ""
    """What a leaderboard calls systems that differ in their training seed alone; "": nothing."""
    weights: tuple[str, ...] = ("*/*.safetensors",)
    """Weight files that are fetched of a hub id."""
    gigabytes: float | None = None
    """Size of that download, where known."""

    def __post_init__(self) -> None:
        for name, lowest in (("steps", 1), ("guidance", 0), ("best_of", 1), ("eta", 0)):
            if not getattr(self, name) >= lowest:
                raise ValueError(f"{name} is {getattr(self, name)}; expected at least {lowest}")
        if (self.best_of > 1) != bool(self.chooser):
            raise ValueError(
                f"best_of is {self.best_of} and chooser {self.chooser!r}: give both, such as chooser = "
                '"pickscore=1", or none'
            )
        if self.size is not None and min(self.size) < 8:
            raise ValueError(f"size is {list(self.size)}; expected [height, width] in pixels, at least 8")
        for name, known in (("sampler", SAMPLERS), ("dtype", DTYPES), ("spacing", ("", *SPACINGS))):
            if getattr(self, name) not in known:
                raise UnknownName(name, getattr(self, name), known)
        _ = self.schedule  # refuses noise that the sampler does not have

    @property
    def source(self) -> Source:
        return Source(self.pipeline, self.revision, self.weights, self.gigabytes)

    @property
    def schedule(self) -> Schedule:
        return Schedule(self.sampler, self.steps, self.guidance, self.size, self.eta)

    @property
    def replaced(self) -> dict[str, Path]:
        """Folders of the components that replace the pipeline's own, by name."""
        given = {"text_encoder": self.text_encoder, "unet": self.unet}
        return {name: Path(place) for name, place in given.items() if place}

    @property
    def encoders(self) -> dict[str, Path]:
        """Folders of the text encoders that windows mix, by the name they go by there."""
        names = [name for window in self.windows for name in window.weights if name != ORIGINAL]
        return {name: Path(name) for name in dict.fromkeys(names)}

    def switched(self, last: int) -> System:
        """With the last of its windows over the ``last`` steps. Raises ValueError if it has none."""
        if not self.windows:
            raise ValueError(
                f"{self.name} has one text encoder in all steps: a switch step is for a checkpoint or a mix"
            )
        if not 1 <= last <= self.steps:
            raise ValueError(f"switch-step is {last}; expected 1 to {self.steps}, the number of steps")
        return replace(self, windows=(*self.windows[:-1], replace(self.windows[-1], share=last / self.steps)))

    def describe(self) -> dict[str, Any]:
        """JSON-ready record of all fields; what chooses its images it is exposed to like what it was trained
        on.
        """
        record = asdict(self)
        if self.trained_on is not None and self.chooser:
            from rewards.combine.terms import parse_mix
            from rewards.registry import info

            choosers = [info(name).name for name in parse_mix(self.chooser)]
            record["trained_on"] = list(dict.fromkeys([*self.trained_on, *choosers]))
        return record


def of_model(name: str, model: Model, **changes: Any) -> System:
    """The base model by itself, as a system; ``changes`` are fields of it."""
    source = model.source
    own: dict[str, Any] = {"suite": "world", "rewards": WORLD_REWARDS} if model.domain == "world" else {}
    own |= {
        "name": name, "pipeline": source.place, "revision": source.revision, "weights": source.weights,
        "gigabytes": source.gigabytes, "guidance": model.guidance, "dtype": model.dtype,
        "domain": model.domain, "trained_on": (),
    }  # fmt: skip
    return System(**own | changes)


SYSTEMS: Mapping[str, System] = MappingProxyType(
    {
        **{name: of_model(name, model) for name, model in MODELS.items()},
        "micro+style-words": of_model("micro+style-words", MODELS["micro"], append=STYLE_WORDS),
    }
)


def find_system(model: str) -> System:
    """The system that `--model` names: a named one, a TOML file, a diffusers folder, a
    folder with system.toml (a checkpoint, a mix) or a hub id.

    Raises UnknownName with close matches for anything else.
    """
    if model in SYSTEMS:
        return SYSTEMS[model]
    path = Path(model).expanduser()
    if path.suffix == ".toml":
        return read_system(path)
    if (path / SYSTEM_FILE).is_file():  # a checkpoint, or a mix
        return replace(read_system(path / SYSTEM_FILE), name=path.resolve().name)
    if path.is_dir():
        return System(name=path.resolve().name, pipeline=str(path))
    if model.count("/") == 1 and not model.startswith((".", "/", "~")):
        return System(name=model.replace("/", "_"), pipeline=model)
    raise UnknownName("model, TOML file, diffusers folder or hub id", model, SYSTEMS)


def read_system(path: Path) -> System:
    """A system from a small TOML file: the keys are System's fields, `base` a named system to start from.

    Relative paths of `pipeline` and `text_encoder` are looked for beside the file first.
    """
    try:
        raw = tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise ConfigError(f"cannot read system file {path}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not TOML: {error}") from error
    base = _base(path, raw.pop("base")) if "base" in raw else None
    _check_keys(path, raw, base)
    for key in ("pipeline", "text_encoder", "unet", "rewriter", "calibration"):
        if key in raw and (key, raw[key]) != ("calibration", "world"):  # which is no file of the user's
            raw[key] = _beside(path, raw[key])
    if "windows" in raw:
        raw["windows"] = [_window(path, entry) for entry in raw["windows"]]
    values: dict[str, Any] = {"name": path.stem} | {
        k: tuple(v) if isinstance(v, list) else v for k, v in raw.items()
    }
    if "rewriter" in raw and "trained_on" not in raw:
        own, of_base = find_rewriter(raw["rewriter"]).trained_on, base.trained_on if base else ()
        values["trained_on"] = None if None in (own, of_base) else (*(of_base or ()), *(own or ()))
    if {"pipeline", "text_encoder", "unet", "windows"} & raw.keys():
        values.setdefault("trained_on", None)  # what is declared of the base is not declared of others
    try:
        return replace(base, **values) if base else System(**values)
    except UnknownName:
        raise
    except ValueError as error:
        raise ConfigError(f"{path}: {error}") from error


def _beside(path: Path, place: str) -> str:
    """A folder's place: beside the file if there is one of that name, else as it stands."""
    return str((path.parent / place).resolve()) if (path.parent / place).exists() else place


def _window(path: Path, entry: Mapping[str, Any]) -> Window:
    share, weights = entry.get("share", 1.0), entry.get("weights") or {}
    numbers = isinstance(share, (int, float)) and 0 < share <= 1 and isinstance(weights, dict) and weights
    if not numbers or set(entry) > {"share", "weights"} or not all(
        isinstance(weight, (int, float)) and not isinstance(weight, bool) for weight in weights.values()
    ):  # fmt: skip
        raise ConfigError(
            f"{path}: window {dict(entry)}; expected share = 0.6 (of the steps, from the end) and weights = "
            "{ FOLDER = 0.7, original = 0.3 }"
        )
    return Window(
        float(share),
        {n if n == ORIGINAL else _beside(path, n): float(weight) for n, weight in weights.items()},
    )


def _base(path: Path, name: object) -> System:
    if not isinstance(name, str):
        raise ConfigError(f"{path}: base = {name!r}; expected the name of a system")
    if name not in SYSTEMS:
        raise UnknownName(f"base of {path}", name, SYSTEMS)
    return SYSTEMS[name]


_TYPES: Mapping[str, tuple[type, ...]] = {
    "name": (str,), "pipeline": (str,), "revision": (str,), "text_encoder": (str,), "append": (str,),
    "rewriter": (str,), "best_of": (int,), "chooser": (str,), "calibration": (str,),
    "unet": (str,), "windows": (list,), "spacing": (str,),
    "sampler": (str,), "steps": (int,), "guidance": (int, float), "eta": (int, float),
    "size": (list,), "dtype": (str,), "domain": (str,), "suite": (str,), "method": (str,),
    "rewards": (list,), "trained_on": (list,),
    "weights": (list,), "gigabytes": (int, float),
}  # fmt: skip


def _check_keys(path: Path, raw: Mapping[str, Any], base: System | None) -> None:
    for key, value in raw.items():
        if key not in _TYPES:
            raise UnknownName(f"key of {path}", key, ["base", *_TYPES])
        wrong_type = not isinstance(value, _TYPES[key]) or isinstance(value, bool)
        of = {"size": int, "windows": dict}.get(key, str)
        if wrong_type or (isinstance(value, list) and not all(type(item) is of for item in value)):
            expected = " or ".join(t.__name__ for t in _TYPES[key])
            expected += f" of {of.__name__}" if list in _TYPES[key] else ""
            raise ConfigError(f"{path}: {key} = {value!r}; expected {expected}")
    if len(raw.get("size", (0, 0))) != 2:
        raise ConfigError(f"{path}: size = {raw['size']!r}; expected [height, width] in pixels")
    if base is None and "pipeline" not in raw:
        raise ConfigError(
            f"{path}: give `pipeline` (a diffusers folder or hub id) or `base` (a named system)"
        )


assert {f.name for f in fields(System)} == set(_TYPES)
