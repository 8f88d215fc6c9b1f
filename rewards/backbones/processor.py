"""Preprocessing that a model folder in open_clip's or transformers' layout describes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from rewards.info import PROCESSOR_FILES, PUBLISHED, RewardInfo
from rewards.preprocess import CLIP_MEAN, CLIP_STD, HALF, PROFILES, Profile
from tcbench.errors import MismatchError

OPEN_CLIP_CONFIG = "open_clip_config.json"

_OPEN_CLIP_KERNELS = {"bicubic": "bicubic", "bilinear": "bilinear", "random": "bicubic"}
"""open_clip's names of interpolations; "random" applies to training, evaluation is bicubic."""

_PIL_KERNELS = {2: "bilinear", 3: "bicubic"}
"""PIL's numbers of interpolations, which transformers' configurations hold."""

_PROCESSOR_DEFAULTS: Mapping[str, Mapping[str, Any]] = {
    "CLIP": {"size": 224, "crop_size": 224, "do_center_crop": True, "mean": CLIP_MEAN, "std": CLIP_STD},
    "Siglip": {"size": {"height": 224, "width": 224}, "do_center_crop": False, "mean": HALF, "std": HALF},
}
"""Defaults of transformers' image processors."""


def profile_of(info: RewardInfo, files: Mapping[str, Path]) -> Profile:
    """Return a reward's profile: the named one or, for `PUBLISHED`, that of its folder ``backbone``.

    Raises:
        MismatchError: If the folder asks for preprocessing that cannot be reproduced.
    """
    return PROFILES[info.profile] if info.profile != PUBLISHED else _read_profile(files["backbone"])


def read_json(path: Path) -> dict[str, Any]:
    """Read a configuration file. Raises `MismatchError` if it is unreadable or not a JSON object."""
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise MismatchError(f"{path} cannot be read ({error}); fetch it again") from error


def _read_profile(folder: Path) -> Profile:
    is_open_clip = (folder / OPEN_CLIP_CONFIG).is_file()
    config = read_json(folder / OPEN_CLIP_CONFIG) if is_open_clip else _image_processor(folder)
    try:
        profile = _from_open_clip(config) if is_open_clip else _from_transformers(config)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise MismatchError(f"{folder} needs preprocessing that is not supported: {error}") from error
    # The name is part of the score id, so a profile equal to a known one must have its name.
    return next((p for p in PROFILES.values() if replace(p, name=profile.name) == profile), profile)


def _image_processor(folder: Path) -> Mapping[str, Any]:
    """Read the settings of the image processor from the file that transformers itself would prefer."""
    own, whole = (folder / name for name in PROCESSOR_FILES)
    # Version 4 writes the second file too, for other settings, so its presence alone says nothing.
    nested = read_json(whole).get("image_processor") if whole.is_file() else None
    return read_json(own) if nested is None else nested


def _from_open_clip(config: Mapping[str, Any]) -> Profile:
    """Read "preprocess_cfg" and the model's size (open_clip's factory.py and transform.py)."""
    given = {key: value for key, value in config.get("preprocess_cfg", {}).items() if value is not None}
    size = _single_size(config["model_cfg"]["vision_cfg"].get("image_size", 224))
    resize = given.get("resize_mode", "shortest")
    kernel = _OPEN_CLIP_KERNELS.get(given.get("interpolation", "bicubic"))
    _require(resize in ("shortest", "longest", "squash"), f"resize_mode {resize!r}")
    _require(kernel is not None, f"interpolation {given.get('interpolation')!r}")
    _require(given.get("mode", "RGB") == "RGB", f"mode {given.get('mode')!r}")
    _require(resize != "longest" or not given.get("fill_color"), f"fill_color {given.get('fill_color')!r}")
    mean, std = (_triple(given.get(k, d)) for k, d in (("mean", CLIP_MEAN), ("std", CLIP_STD)))
    return _pil_profile(resize, size, kernel, "round", mean, std, convert="last")


def _from_transformers(config: Mapping[str, Any]) -> Profile:
    """Read an image processor's settings (transformers' image_processing_backends.py)."""
    kind = str(config.get("image_processor_type") or config.get("feature_extractor_type") or "CLIP")
    family = next((name for name in _PROCESSOR_DEFAULTS if kind.startswith(name)), "")
    _require(family != "" and not kind.startswith("Siglip2"), f"image_processor_type {kind!r}")
    given = {**_PROCESSOR_DEFAULTS[family], **{key: v for key, v in config.items() if v is not None}}
    size, crop = given["size"], given["do_center_crop"]
    if isinstance(size, Mapping) and "shortest_edge" in size:
        size = size["shortest_edge"]
    resize = "squash" if isinstance(size, Mapping) else "shortest"
    side = _single_size((size["height"], size["width"]) if isinstance(size, Mapping) else size)
    cropped = given.get("crop_size", side)
    cropped = _single_size((cropped["height"], cropped["width"]) if isinstance(cropped, Mapping) else cropped)
    kernel = _PIL_KERNELS.get(given.get("resample", 3))
    _require(kernel is not None, f"resample {given.get('resample')!r}")
    _require(given.get("do_resize", True), "do_resize false")
    _require(bool(crop) or resize == "squash", "do_center_crop false")
    _require(not crop or cropped == side, f"crop_size {cropped} of size {side}")
    factor = given.get("rescale_factor", 1 / 255) if given.get("do_rescale", True) else 0
    _require(abs(factor * 255 - 1) < 1e-6, f"rescale_factor {factor}")
    if not given.get("do_normalize", True):
        return _pil_profile(resize, side, kernel, "floor", (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
    mean, std = (_triple(given.get(f"image_{key}", given[key])) for key in ("mean", "std"))
    return _pil_profile(resize, side, kernel, "floor", mean, std)


def _pil_profile(
    resize: Any, size: int, kernel: Any, crop: Any, mean: Any, std: Any, convert: Any = "first"
) -> Profile:
    # Where nothing is cropped, ``crop`` must be the default: fields are part of the score id.
    crop = crop if resize == "shortest" else "round"
    return Profile(
        f"{resize}-{size}-{kernel}",
        resize,
        size,
        kernel=kernel,
        crop=crop,
        mean=mean,
        std=std,
        convert=convert,
        version=2,
    )


def _require(supported: bool, what: str) -> None:
    if not supported:
        raise ValueError(what)


def _single_size(size: Any) -> int:
    sides = {int(side) for side in (size if isinstance(size, (list, tuple)) else [size])}
    _require(len(sides) == 1, f"size {size}")
    return sides.pop()


def _triple(value: Any) -> tuple[float, ...]:
    return tuple(map(float, value)) if isinstance(value, (list, tuple)) else (float(value),) * 3
