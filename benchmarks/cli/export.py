"""`tcbench export`: a tuned encoder for other tools."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer


class Kind(StrEnum):
    """What can be written."""

    DIFFUSERS = "diffusers"
    LORA = "lora"
    SINGLE_FILE = "single-file"


def export(
    model: Annotated[str, typer.Argument(help="A checkpoint's folder.", show_default=False)],
    to: Annotated[
        Kind,
        typer.Option(
            help="diffusers: the whole pipeline. lora: adapters for load_lora_weights. single-file: the text "
            "encoder as ComfyUI and Forge load it."
        ),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="A new folder.")],
) -> None:
    """Write tuned weights as diffusers, peft, ComfyUI and others read them.

    They have the tuned encoder in all steps; for the last steps alone diffusers' users add
    textcraftor.diffusion.runner.switch_encoder to their call.
    """
    from benchmarks.mixes import export as write

    write(model, to.value, out)
    print(out)
