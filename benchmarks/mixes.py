"""Systems made of tuned systems: encoder mixes, sweeps over strength and tuned steps, and exports."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.systems import System
from tcbench.errors import ConfigError
from tcbench.files import check_writable, new_folder
from textcraftor.diffusion.pipeline import ENCODERS
from textcraftor.diffusion.runner import ORIGINAL, EncoderWindow


def mix_encoders(
    weights: Mapping[str, float], out: Path, *, tuned_steps: int | None = None, in_weights: bool = False
) -> System:
    """Write a weighted sum of tuned text encoders as a system in the folder ``out``.

    A mix that is interrupted leaves nothing.

    Args:
        weights: Weights by name: tuned systems, other mixes, and "original" for the base model's encoder;
            their sum is 1.
        out: New folder.
        tuned_steps: Number of last sampling steps that use the mix; None: that of the first tuned system.
        in_weights: Average the encoders' weights instead of mixing their embeddings at every step.

    Raises:
        ConfigError: If the weights do not sum to 1, the systems do not have a tuned encoder or the same base,
            or ``out`` is not empty.
    """
    EncoderWindow(weights)  # raises for another sum than 1, under the names that were given
    tuned = {name: System.find(name) for name in weights if name != ORIGINAL}
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
    check_writable(out, new=True)
    if in_weights and {*ENCODERS} & first.replaced.keys() and ORIGINAL in parts:
        raise ConfigError(
            f"{first_name} replaces the base's text encoder, so its weights cannot be averaged with "
            f"{ORIGINAL}; mix the embeddings (--space embedding)"
        )
    declared = [system.trained_on for system in tuned.values()]
    trained_on = tuple(dict.fromkeys(name for names in declared for name in names or ()))
    mix = replace(
        first,
        name=out.name,
        method="",
        windows=(EncoderWindow({str(out): 1.0} if in_weights else parts),),
        trained_on=None if None in declared else trained_on,
    )
    with new_folder(out) as folder:
        if in_weights:
            from textcraftor.io.mixing import average_weights

            base = first.source.find()
            average_weights({base if n == ORIGINAL else Path(n): w for n, w in parts.items()}, folder)
        # The system file names its own folder relatively, so it holds for ``out`` too.
        windows = (EncoderWindow({str(folder): 1.0}),) if in_weights else mix.windows
        replace(mix, windows=windows).save(folder)
    return mix


def _base(system: System) -> tuple[object, ...]:
    return system.pipeline, system.revision, system.replaced, system.lora


def _parts(weights: Mapping[str, float], tuned: Mapping[str, System]) -> dict[str, float]:
    """Return the folders of encoders and their weights. A mix is resolved into its parts."""
    total: dict[str, float] = {}
    for name, weight in weights.items():
        encoders = {ORIGINAL: 1.0} if name == ORIGINAL else tuned[name].windows[-1].weights
        for folder, share in encoders.items():
            total[folder] = total.get(folder, 0.0) + weight * share
    return total


def export_system(model: str, file_format: str, out: Path) -> None:
    """Write a tuned system for other tools.

    A whole pipeline ("diffusers") is also a model for `tcbench run`, with the defaults of the system. An
    export that is interrupted leaves nothing.

    Args:
        model: A system with one tuned text encoder.
        file_format: "diffusers", "lora", "kohya" or "single-file".
        out: New folder.

    Raises:
        ConfigError: If the system mixes several encoders, or has no adapters to export.
    """
    from textcraftor.io.export import export_encoder

    system = System.find(model)
    names = [name for window in system.windows for name in window.weights]
    if len(names) != 1 or names == [ORIGINAL]:
        raise ConfigError(
            f"{model} is not one tuned encoder; export a training run, or a mix made with --space weights"
        )
    pipeline = file_format == "diffusers"
    export_encoder(
        Path(names[0]),
        out,
        file_format,
        system.source,
        replaced={name: folder for name, folder in system.replaced.items() if name in ("unet", "vae")},
        describe=partial(_describe_export, system) if pipeline else None,
    )


def _describe_export(system: System, out: Path) -> None:
    """Write a system file into an exported pipeline, so that it samples as the system that it was made from.

    The pipeline's own text encoders are the tuned ones. If the first steps use the original ones, these are
    written beside them, in a folder that diffusers does not read. The system file names folders relatively,
    so ``out`` may be renamed afterwards.
    """
    tuned_steps = system.windows[-1].steps(system.schedule)
    changes: dict[str, Any] = {"text_encoder": None, "text_encoder_2": None, "windows": ()}
    # adapters change the original encoder alone, so it is needed beside the tuned one
    if tuned_steps < system.schedule.steps or system.lora:
        originals = [name for name in ENCODERS if (out / name).is_dir()]
        system.source.copy(out / ORIGINAL, only=[name for name in originals if name not in system.replaced])
        for name in originals:
            if name in system.replaced:
                shutil.copytree(system.replaced[name], out / ORIGINAL / name)
        changes |= {name: str(out / ORIGINAL / name) for name in originals}
        changes["windows"] = (EncoderWindow({str(out): 1.0}),)
    adapters = {}
    for number, (file, scale) in enumerate(system.lora.items()):
        copied = out / "lora" / f"{number}-{Path(file).name}"
        copied.parent.mkdir(exist_ok=True)
        adapters[str(shutil.copyfile(file, copied))] = scale
    exported = replace(
        system,
        pipeline=str(out),
        revision=None,
        unet=None,
        vae=None,
        lora=adapters,
        schedule=replace(system.schedule, tuned_steps=tuned_steps if changes["windows"] else 0),
        **changes,
    )
    exported.save(out)
