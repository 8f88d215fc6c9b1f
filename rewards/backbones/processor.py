"""How an image becomes a model's input, as its folder of open_clip's or transformers' layout says."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from rewards.info import PUBLISHED, RewardInfo
from rewards.preprocess import CLIP_MEAN, CLIP_STD, HALF, PROFILES, Profile
from tcbench.errors import MismatchError

OPEN_CLIP_CONFIG = "open_clip_config.json"
PROCESSOR_CONFIG = "preprocessor_config.json"

KERNELS = {"bicubic": "bicubic", "bilinear": "bilinear", "random": "bicubic"}
"""open_clip's names; "random" is for training, and then bicubic."""

RESAMPLES = {2: "bilinear", 3: "bicubic"}
"""PIL's numbers, which transformers writes."""

PROCESSORS: Mapping[str, Mapping[str, Any]] = {
    "CLIP": {"size": 224, "crop_size": 224, "do_center_crop": True, "mean": CLIP_MEAN, "std": CLIP_STD},
    "Siglip": {"size": {"height": 224, "width": 224}, "do_center_crop": False, "mean": HALF, "std": HALF},
}
"""What transformers' image processors do where their configuration is silent."""


def profile_of(info: RewardInfo, files: Mapping[str, Path]) -> Profile:
    """The reward's profile: the named one, or for `PUBLISHED` what the folder ``backbone`` says."""
    return PROFILES[info.profile] if info.profile != PUBLISHED else read_profile(files["backbone"])


def read_profile(folder: Path) -> Profile:
    """The profile of a folder of either layout, by a known name if it has one. Raises `MismatchError`."""
    is_open_clip = (folder / OPEN_CLIP_CONFIG).is_file()
    config = read_json(folder / (OPEN_CLIP_CONFIG if is_open_clip else PROCESSOR_CONFIG))
    try:
        found = _of_open_clip(config) if is_open_clip else _of_transformers(config)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise MismatchError(f"{folder} asks for images in a way that is not known here: {error}") from error
    return next((known for known in PROFILES.values() if replace(known, name=found.name) == found), found)


def read_json(path: Path) -> dict[str, Any]:
    """What a configuration file holds. Raises `MismatchError`."""
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise MismatchError(f"{path} cannot be read ({error}); fetch it again") from error


def _of_open_clip(config: Mapping[str, Any]) -> Profile:
    """From "preprocess_cfg" and the model's own size (open_clip's factory.py and transform.py)."""
    given = {key: value for key, value in config.get("preprocess_cfg", {}).items() if value is not None}
    size = _side(config["model_cfg"]["vision_cfg"].get("image_size", 224))
    resize, kernel = given.get("resize_mode", "shortest"), KERNELS.get(given.get("interpolation", "bicubic"))
    _check(resize in ("shortest", "longest", "squash"), f"resize_mode {resize!r}")
    _check(kernel is not None, f"interpolation {given.get('interpolation')!r}")
    _check(given.get("mode", "RGB") == "RGB", f"mode {given.get('mode')!r}")
    _check(resize != "longest" or not given.get("fill_color"), f"fill_color {given.get('fill_color')!r}")
    mean, std = (_triple(given.get(k, d)) for k, d in (("mean", CLIP_MEAN), ("std", CLIP_STD)))
    return _profile(resize, size, kernel, "round", mean, std)


def _of_transformers(config: Mapping[str, Any]) -> Profile:
    """From an image processor's settings (transformers' image_processing_backends.py)."""
    kind = str(config.get("image_processor_type") or config.get("feature_extractor_type") or "CLIP")
    family = next((name for name in PROCESSORS if kind.startswith(name)), "")
    _check(family != "" and not kind.startswith("Siglip2"), f"image_processor_type {kind!r}")
    given = {**PROCESSORS[family], **{key: value for key, value in config.items() if value is not None}}
    size, crop = given["size"], given["do_center_crop"]
    if isinstance(size, Mapping) and "shortest_edge" in size:
        size = size["shortest_edge"]
    resize = "squash" if isinstance(size, Mapping) else "shortest"
    side = _side((size["height"], size["width"]) if isinstance(size, Mapping) else size)
    cropped = given.get("crop_size", side)
    cropped = _side((cropped["height"], cropped["width"]) if isinstance(cropped, Mapping) else cropped)
    kernel = RESAMPLES.get(given.get("resample", 3))
    _check(kernel is not None, f"resample {given.get('resample')!r}")
    _check(given.get("do_resize", True), "do_resize false")
    _check(bool(crop) or resize == "squash", "do_center_crop false")
    _check(not crop or cropped == side, f"crop_size {cropped} of size {side}")
    factor = given.get("rescale_factor", 1 / 255) if given.get("do_rescale", True) else 0
    _check(abs(factor * 255 - 1) < 1e-6, f"rescale_factor {factor}")
    if not given.get("do_normalize", True):
        return _profile(resize, side, kernel, "floor", (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
    mean, std = (_triple(given.get(f"image_{key}", given[key])) for key in ("mean", "std"))
    return _profile(resize, side, kernel, "floor", mean, std)


def _profile(resize: Any, size: int, kernel: Any, crop: Any, mean: Any, std: Any) -> Profile:
    """A profile of PIL's pixels; where nothing is cropped, ``crop`` says nothing."""
    crop = crop if resize == "shortest" else "round"
    return Profile(f"{resize}-{size}-{kernel}", resize, size, kernel=kernel, crop=crop, mean=mean, std=std)


def _check(known: bool, what: str) -> None:
    if not known:
        raise ValueError(f"{what} is not supported")


def _side(size: Any) -> int:
    sides = {int(side) for side in (size if isinstance(size, (list, tuple)) else [size])}
    _check(len(sides) == 1, f"a size of {size}")
    return sides.pop()


def _triple(value: Any) -> tuple[float, ...]:
    return tuple(map(float, value)) if isinstance(value, (list, tuple)) else (float(value),) * 3
