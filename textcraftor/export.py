"""Tuned weights as other people's tools read them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

PREFIX = "text_model."


def save_text_encoder(model: Any, folder: Path, *, half: bool = False) -> None:
    """A text encoder's folder that transformers 4 and 5 both read.

    The keys carry the prefix ``text_model.``: version 5 drops it when it saves, and version 4 then loads
    such a folder with every weight random. The recorded type is float32, so that no loader leaves weights
    that are stored in ``half`` precision so.
    """
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    model.config.dtype = "float32"
    model.config.architectures = [type(model).__name__]
    model.config.save_pretrained(folder)
    path = folder / "config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    config["torch_dtype"] = "float32"  # the name transformers 4 knows it by
    config.pop("_name_or_path", None)
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    weights = {
        key if key.startswith((PREFIX, "text_projection.")) else PREFIX + key: (
            value.half() if half else value.float()
        ).contiguous()
        for key, value in model.state_dict().items()
        if not key.endswith("position_ids")
    }
    save_file(weights, folder / "model.safetensors", {"format": "pt"})


def save_unet(model: Any, folder: Path) -> None:
    """A UNet's folder that diffusers reads."""
    model.save_pretrained(folder)
    forget_origin(folder / "config.json")


def forget_origin(path: Path) -> None:
    """Drop where on this machine a model was loaded from, which diffusers notes: nobody else has it."""
    config = json.loads(path.read_text(encoding="utf-8"))
    config.pop("_name_or_path", None)
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
