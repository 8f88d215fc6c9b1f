from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as TF

from rewards.preprocess import CLIP_MEAN, CLIP_STD, PROFILES, _whole_blocks, preprocess, to_tensor

BICUBIC = Image.Resampling.BICUBIC


def noise(height: int, width: int, seed: int = 0) -> Image.Image:
    """White noise, the hardest image for rounding: every weight matters and many values clip."""
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


def published(image: Image.Image, size: int) -> Tensor:
    """CLIP's preprocessing of a PIL image by torchvision."""
    resized = TF.center_crop(
        TF.resize(image.convert("RGB"), size, v2.InterpolationMode.BICUBIC), [size, size]
    )
    array = np.array(resized, dtype=np.float32) / 255
    return TF.normalize(torch.from_numpy(array).permute(2, 0, 1), list(CLIP_MEAN), list(CLIP_STD))


def levels(image: Image.Image) -> Tensor:
    return (to_tensor(image) * 255).round()


def test_clip_224_matches_published_pixel_values(shared_data: Path) -> None:
    golden = np.load(shared_data / "golden/clip_preprocess/golden.npz")
    for name, expected in zip(golden["names"], golden["pixel_values"], strict=True):
        image = Image.open(shared_data / f"golden/clip_preprocess/images/{name}.jpg")
        ours = preprocess(to_tensor(image)[None], PROFILES["clip-224"])[0]
        assert np.abs(ours.numpy() - expected).max() == 0


def test_photographs_are_resized_as_by_pil(shared_data: Path) -> None:
    photos = [*(shared_data / "photos").glob("*.*"), *(shared_data / "photos/sd").glob("*.png")]
    assert len(photos) >= 10
    for photo in photos:
        image = Image.open(photo)
        for name in ("clip-224", "clip-64"):
            ours = preprocess(to_tensor(image)[None], PROFILES[name])[0]
            torch.testing.assert_close(ours, published(image, PROFILES[name].size), rtol=0, atol=1e-6)


@pytest.mark.parametrize(("height", "width"), [(64, 64), (65, 90), (31, 17), (7, 200), (300, 64), (1, 1)])
def test_squash_resizes_width_before_height(height: int, width: int) -> None:
    image = noise(height, width)
    # One direction at a time, because the order that a single call takes depends on the version of Pillow.
    expected = image.resize((64, height), BICUBIC).resize((64, 64), BICUBIC)
    ours = preprocess(to_tensor(image)[None], PROFILES["squash-64"])[0]
    assert torch.equal((ours * 255).round(), levels(expected))


def test_whole_blocks_match_smart_resize_of_qwen() -> None:
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import smart_resize

    area = 256 * 28 * 28
    sides = np.random.default_rng(0).integers(28, 2500, (2000, 2)).tolist()
    for height, width in [*sides, (1024, 1024), (448, 448), (512, 512), (28, 5600), (896, 1344)]:
        assert _whole_blocks(height, width, area) == smart_resize(height, width, 28, area, area)


@pytest.mark.parametrize(
    ("size", "expected"),
    [((64, 64), (448, 448)), ((300, 451), (392, 560)), ((451, 300), (560, 392)), ((900, 700), (504, 392))],
)
def test_area_resize_matches_pil(size: tuple[int, int], expected: tuple[int, int]) -> None:
    image = noise(*size)
    resized = image.resize(expected[::-1], BICUBIC)
    normalised = TF.normalize(to_tensor(resized), list(CLIP_MEAN), list(CLIP_STD))
    ours = preprocess(to_tensor(image)[None], PROFILES["qwen-448"])[0]
    torch.testing.assert_close(ours, normalised, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("height", "width"), [(336, 336), (65, 90), (90, 65), (700, 401), (1, 9), (337, 336)]
)
def test_pad_fills_a_square_with_the_mean_colour(height: int, width: int) -> None:
    image, side = noise(height, width), max(height, width)
    canvas = Image.new("RGB", (side, side), (122, 116, 104))  # int(255 x CLIP's mean)
    canvas.paste(image, ((side - width) // 2, (side - height) // 2))
    ours = preprocess(to_tensor(image)[None], PROFILES["llava-336"])[0]
    torch.testing.assert_close(ours, published(canvas, 336), rtol=0, atol=1e-6)


def test_gradients_reach_padded_images() -> None:
    image = torch.full((2, 3, 168, 336), 0.5, requires_grad=True)
    preprocess(image, PROFILES["llava-336"]).sum().backward()
    assert image.grad is not None
    # Nothing is resized, so each pixel counts as it is normalised.
    expected = (1 / torch.tensor(CLIP_STD)).view(3, 1, 1).expand(2, 3, 168, 336)
    torch.testing.assert_close(image.grad, expected)


def test_odd_margin_is_cropped_as_by_each_library() -> None:
    # 227 columns leave 3, half of which is 1.5: torchvision rounds it to 2, transformers down to 1.
    image = noise(224, 227)
    rounded, floored = (
        preprocess(to_tensor(image)[None], PROFILES[n]) for n in ("clip-224", "clip-224-floor")
    )
    torch.testing.assert_close(rounded[0], published(image, 224), rtol=0, atol=1e-6)
    shifted = published(image.crop((1, 0, 225, 224)), 224)
    torch.testing.assert_close(floored[0], shifted, rtol=0, atol=1e-6)


@pytest.mark.parametrize(("name", "antialias"), [("hps-224", False), ("hps-224-antialias", True)])
@pytest.mark.parametrize(("height", "width"), [(300, 451), (451, 300), (100, 37), (224, 100)])
def test_hps_profile_resizes_longest_side_and_pads_with_black(
    name: str, antialias: bool, height: int, width: int
) -> None:
    image = to_tensor(noise(height, width))
    scale = 224 / max(height, width)
    inner = TF.resize(
        image,
        [round(height * scale), round(width * scale)],
        v2.InterpolationMode.BICUBIC,
        antialias=antialias,
    )
    down, right = 224 - inner.shape[1], 224 - inner.shape[2]
    padded = TF.pad(inner, [right // 2, down // 2, right - right // 2, down - down // 2], fill=0)
    expected = TF.normalize(padded, list(CLIP_MEAN), list(CLIP_STD))
    torch.testing.assert_close(preprocess(image[None], PROFILES[name])[0], expected, rtol=0, atol=1e-5)


def test_hps_profiles_differ_when_shrinking() -> None:
    image = to_tensor(noise(512, 512))[None]
    plain, smooth = (preprocess(image, PROFILES[name]) for name in ("hps-224", "hps-224-antialias"))
    assert (plain - smooth).abs().mean() > 0.1


def test_raw_profile_keeps_the_image() -> None:
    image = to_tensor(noise(20, 30))[None]
    assert torch.equal(preprocess(image, PROFILES["raw"]), image)


def test_gradients_pass_rounding_but_not_clipping() -> None:
    image = torch.full((1, 3, 128, 128), 0.5)
    image[..., 64:] = 1.0
    image.requires_grad_()
    preprocess(image, PROFILES["squash-64"]).sum().backward()
    assert image.grad is not None
    # Four pixels become one, so each counts a quarter; at the edge the kernel overshoots 1 and is clipped.
    torch.testing.assert_close(image.grad[..., 8:56, 8:56], torch.full((1, 3, 48, 48), 0.25))
    assert image.grad[..., 8:56, 64:72].sum() < 0.24 * 3 * 48 * 8


def test_gradients_work_after_a_call_in_inference_mode() -> None:
    image = torch.rand(1, 3, 37, 53)  # no other test uses this size, so its weights are new
    with torch.inference_mode():
        inferred = preprocess(image, PROFILES["squash-64"])
    leaf = image.clone().requires_grad_()
    pixels = preprocess(leaf, PROFILES["squash-64"])
    assert torch.equal(pixels, inferred)
    pixels.sum().backward()
    assert leaf.grad is not None


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "HSV"])
def test_8_bit_modes_are_converted_to_rgb(mode: str) -> None:
    converted = noise(8, 9).convert(mode)
    expected = np.asarray(converted.convert("RGB"), dtype=np.float32) / 255
    assert np.array_equal(to_tensor(converted).permute(1, 2, 0).numpy(), expected)


@pytest.mark.parametrize("transparency", [1, bytes([255, 0, 128])])
def test_palette_transparency_is_dropped_without_warning(transparency: int | bytes) -> None:
    palette = noise(8, 9).quantize(8)
    expected = to_tensor(palette)
    palette.info["transparency"] = transparency
    assert torch.equal(to_tensor(palette), expected)


def test_16_bit_grey_keeps_its_high_byte() -> None:
    grey = Image.fromarray(np.array([[0, 0x80FF, 0xFFFF]], dtype=np.uint16))
    assert (to_tensor(grey) * 255).round()[:, 0].tolist() == [[0, 0x80, 0xFF]] * 3


def test_mode_without_known_range_is_refused() -> None:
    with pytest.raises(ValueError, match=r"mode F, .*: convert it to RGB first"):
        to_tensor(Image.new("F", (4, 4)))
