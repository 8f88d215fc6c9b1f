"""Systems made of tuned systems: encoder mixes, sweeps over strength and tuned steps, and exports."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from benchmarks.systems import System, find_system
from tcbench.errors import ConfigError
from textcraftor.diffusion.pipeline import find_pipeline
from textcraftor.diffusion.runner import ORIGINAL, EncoderWindow
from textcraftor.io.system import SYSTEM_FILE, base_of, write_system


def mix_encoders(
    weights: Mapping[str, float], out: Path, *, tuned_steps: int | None = None, in_weights: bool = False
) -> System:
    """Write a weighted sum of tuned text encoders as a system in the folder ``out``.

    Args:
        weights: Weights by name: tuned systems, other mixes, and "original" for the base model's encoder.
        out: New folder.
        tuned_steps: Number of last sampling steps that use the mix; None: that of the first tuned system.
        in_weights: Average the encoders' weights instead of mixing their embeddings at every step.

    Raises:
        ConfigError: If the systems do not have a tuned encoder or the same base, or ``out`` is not empty.
    """
    tuned = {name: find_system(name) for name in weights if name != ORIGINAL}
    if not tuned:
        raise ConfigError(f"a mix needs at least one tuned system, such as ckpt/tc=0.7 {ORIGINAL}=0.3")
    first_name, first = next(iter(tuned.items()))
    for name, system in tuned.items():
        if not system.windows:
            raise ConfigError(f"{name} has no tuned text encoder; give training runs or encoder mixes")
        if _base(system) != _base(first):
            raise ConfigError(
                f"{name} and {first_name} have different base models; give encoders of one base model"
            )
    parts = _parts(weights, tuned)
    if tuned_steps is None:
        tuned_steps = first.windows[-1].steps(first.schedule)
    first = first.with_schedule(tuned_steps=tuned_steps)
    if out.exists() and any(out.iterdir()):
        raise ConfigError(f"{out} exists already; choose another --out")
    out.mkdir(parents=True, exist_ok=True)
    if in_weights:
        from textcraftor.io.mixing import average_weights

        base = find_pipeline(first.source)
        average_weights({base if n == ORIGINAL else Path(n): w for n, w in parts.items()}, out)
        parts = {str(out): 1.0}
    declared = [system.trained_on for system in tuned.values()]
    trained_on = tuple(dict.fromkeys(name for names in declared for name in names or ()))
    mix = replace(
        first,
        name=out.name,
        method="",
        windows=(EncoderWindow(parts),),
        trained_on=None if None in declared else trained_on,
    )
    save_system(mix, out)
    return mix


def _base(system: System) -> tuple[str, str | None, dict[str, Path]]:
    return system.pipeline, system.revision, system.replaced


def _parts(weights: Mapping[str, float], tuned: Mapping[str, System]) -> dict[str, float]:
    """Return the folders of encoders and their weights. A mix is resolved into its parts."""
    total: dict[str, float] = {}
    for name, weight in weights.items():
        encoders = {ORIGINAL: 1.0} if name == ORIGINAL else tuned[name].windows[-1].weights
        for folder, share in encoders.items():
            total[folder] = total.get(folder, 0.0) + weight * share
    return total


def save_system(system: System, folder: Path) -> None:
    """Write a system as ``folder/system.toml``."""
    folder.mkdir(parents=True, exist_ok=True)
    rewriter_folder = bool(system.rewriter) and Path(system.rewriter).expanduser().is_dir()
    write_system(
        folder,
        base_of(system.pipeline, system.revision),
        windows=system.windows,
        schedule=system.schedule,
        trained_on=system.trained_on,
        folders=system.replaced | ({"rewriter": Path(system.rewriter)} if rewriter_folder else {}),
        append=system.append,
        rewriter="" if rewriter_folder else system.rewriter,
        best_of=system.best_of if system.best_of > 1 else None,
        best_of_reward=system.best_of_reward,
        calibration=system.calibration,
        dtype=system.dtype,
        method=system.method,
    )


@dataclass(frozen=True)
class Point:
    """One system of a sweep."""

    strength: float
    """Weight of the tuned encoder; the original one has the rest."""
    tuned_steps: int
    """Number of last steps that use the mix."""
    folder: Path
    """Folder of the system."""


def write_sweep(model: str, strengths: Sequence[float], tuned_steps: Iterable[int], out: Path) -> list[Point]:
    """Write a system for each strength of a tuned encoder and each number of tuned steps.

    Systems that an earlier start wrote are kept.
    """
    points = []
    system = find_system(model)
    for number in tuned_steps:
        system.with_schedule(tuned_steps=number)  # raises for an invalid number before anything is written
        for strength in strengths:
            # the name is that of earlier versions, so that their sweeps can be resumed
            folder = out / "systems" / f"{system.name}-{strength:g}-last-{number}"
            weights = {model: strength, ORIGINAL: 1 - strength}
            if not (folder / SYSTEM_FILE).exists():
                mix_encoders(weights, folder, tuned_steps=number)
            points.append(Point(strength, number, folder))
    return points


def export_system(model: str, file_format: str, out: Path) -> None:
    """Write a tuned system for other tools.

    Args:
        model: A system with one tuned text encoder.
        file_format: "diffusers", "lora" or "single-file".
        out: New folder.

    Raises:
        ConfigError: If the system mixes several encoders, or has no adapters to export.
    """
    from textcraftor.io.export import export_adapters, export_diffusers, export_single_file

    system = find_system(model)
    names = [name for window in system.windows[-1:] for name in window.weights]
    if len(names) != 1 or names == [ORIGINAL]:
        raise ConfigError(
            f"{model} is not one tuned encoder; export a training run, or a mix made with --space weights"
        )
    tuned = Path(names[0])
    if file_format == "diffusers":
        export_diffusers(find_pipeline(system.source), tuned, out)
    elif file_format == "lora":
        export_adapters(tuned, out)
    else:
        export_single_file(tuned, out)
