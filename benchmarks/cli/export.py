"""`tcbench export`: write tuned weights for other tools."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(add_completion=False)


class _ExportFormat(StrEnum):
    """File formats that other tools read."""

    DIFFUSERS = "diffusers"
    LORA = "lora"
    KOHYA = "kohya"
    SINGLE_FILE = "single-file"


@app.command()
def _export(
    model: Annotated[str, typer.Argument(help="A training run folder.", show_default=False)],
    to: Annotated[
        _ExportFormat,
        typer.Option(
            help="diffusers: the whole pipeline. lora: adapters for load_lora_weights. kohya: adapters for "
            "AUTOMATIC1111, Forge and ComfyUI. single-file: the text encoder for ComfyUI and Forge."
        ),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="New folder for the files.")],
) -> None:
    """Export tuned weights for diffusers, PEFT, ComfyUI and similar tools.

    An exported pipeline is also a model for `tcbench run`, with the defaults of its system. Other tools use
    the tuned encoder in all sampling steps. To use it only in the last steps of a diffusers pipeline, pass
    `textcraftor.diffusion.runner.switch_encoder` to the pipeline call.
    """
    from benchmarks.mixes import export_system

    export_system(model, to.value, out)
    print(out)
