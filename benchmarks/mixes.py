"""Systems made of systems: mixes of tuned encoders, and sweeps over how much of one is used for how long."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from benchmarks.systems import System, find_system
from tcbench.errors import ConfigError
from textcraftor.diffusion.pipeline import find_pipeline
from textcraftor.diffusion.runner import ORIGINAL, Window
from textcraftor.io.system import SYSTEM_FILE, base_of, write_system


def mix(
    weights: Mapping[str, float], out: Path, *, last: int | None = None, in_weights: bool = False
) -> System:
    """Write the mix of tuned systems (and "original") as the system in the folder ``out``.

    In embedding space, or ``in_weights``: an encoder of averaged weights. ``last`` steps are the mix's; by
    default as many as the first tuned system's. Raises ValueError for systems that do not fit together.
    """
    tuned = {name: find_system(name) for name in weights if name != ORIGINAL}
    if not tuned:
        raise ConfigError(f"a mix needs at least one tuned system, such as ckpt/tc=0.7 {ORIGINAL}=0.3")
    first = next(iter(tuned.values()))
    for name, system in tuned.items():
        if not system.windows:
            raise ConfigError(f"{name} is no tuned checkpoint: there is no other text encoder in it to mix")
        if _base(system) != _base(first):
            raise ConfigError(
                f"{name} was made for another base model than {next(iter(tuned))}: mix alike ones"
            )
    parts = _parts(weights, tuned)
    share = first.windows[-1].share if last is None else last / first.steps
    if out.exists() and any(out.iterdir()):
        raise ConfigError(f"{out} exists already: choose another --out")
    out.mkdir(parents=True, exist_ok=True)
    if in_weights:
        from textcraftor.io.mixing import average_weights

        own = find_pipeline(first.source)
        average_weights({own if n == ORIGINAL else Path(n): w for n, w in parts.items()}, out)
        parts = {str(out): 1.0}
    declared = [system.trained_on for system in tuned.values()]
    trained_on = tuple(dict.fromkeys(name for names in declared for name in names or ()))
    made = replace(
        first,
        name=out.name,
        method="",
        windows=(Window(share, parts),),
        trained_on=None if None in declared else trained_on,
    )
    write(made, out)
    return made


def _base(system: System) -> tuple[str, str | None, dict[str, Path]]:
    return system.pipeline, system.revision, system.replaced


def _parts(weights: Mapping[str, float], tuned: Mapping[str, System]) -> dict[str, float]:
    """Folders of encoders and their weights: a system that is a mix itself gives its parts."""
    total: dict[str, float] = {}
    for name, weight in weights.items():
        own = {ORIGINAL: 1.0} if name == ORIGINAL else tuned[name].windows[-1].weights
        for place, share in own.items():
            total[place] = total.get(place, 0.0) + weight * share
    return total


def write(system: System, folder: Path) -> None:
    """The system as ``folder/system.toml``."""
    folder.mkdir(parents=True, exist_ok=True)
    own_rewriter = bool(system.rewriter) and Path(system.rewriter).expanduser().is_dir()
    write_system(
        folder,
        base_of(system.pipeline, system.revision),
        windows=system.windows,
        trained_on=system.trained_on,
        folders=system.replaced | ({"rewriter": Path(system.rewriter)} if own_rewriter else {}),
        append=system.append,
        rewriter="" if own_rewriter else system.rewriter,
        best_of=system.best_of if system.best_of > 1 else None,
        chooser=system.chooser,
        calibration=system.calibration,
        sampler=system.sampler,
        spacing=system.spacing,
        steps=system.steps,
        guidance=system.guidance,
        eta=system.eta or None,
        size=system.size,
        dtype=system.dtype,
        method=system.method,
    )


@dataclass(frozen=True)
class Point:
    """One system of a sweep."""

    strength: float
    last: int
    folder: Path


def sweep(model: str, strengths: Sequence[float], lasts: Iterable[int], out: Path) -> list[Point]:
    """Write a system for each strength of a tuned encoder and each number of last steps it runs."""
    points = []
    system = find_system(model)
    for last in lasts:
        system.switched(last)  # refuses what is impossible before anything is written
        for strength in strengths:
            folder = out / "systems" / f"{system.name}-{strength:g}-last-{last}"
            weights = {model: strength, ORIGINAL: 1 - strength}
            if not (folder / SYSTEM_FILE).exists():
                mix(weights, folder, last=last)
            points.append(Point(strength, last, folder))
    return points


def export(model: str, kind: str, out: Path) -> None:
    """Write a tuned system for other tools: "diffusers", "lora" or "single-file". Raises ValueError."""
    from textcraftor.io import export as exports

    system = find_system(model)
    places = [name for window in system.windows[-1:] for name in window.weights]
    if len(places) != 1 or places == [ORIGINAL]:
        raise ConfigError(
            f"{model} is not one tuned encoder: export a checkpoint, or a mix made with --space weights"
        )
    tuned = Path(places[0])
    if kind == "diffusers":
        exports.export_diffusers(find_pipeline(system.source), tuned, out)
    elif kind == "lora":
        exports.export_adapters(tuned, out)
    else:
        exports.export_single_file(tuned, out)
