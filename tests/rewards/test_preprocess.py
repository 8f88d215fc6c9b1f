from __future__ import annotations

import io
import re
import sys
from dataclasses import replace
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


def with_orientation(image: Image.Image, orientation: int) -> Image.Image:
    """The image as a camera stores it: turned, with the tag that says so."""
    stored = {3: Image.Transpose.ROTATE_180, 6: Image.Transpose.ROTATE_90, 8: Image.Transpose.ROTATE_270}
    exif, file = Image.Exif(), io.BytesIO()
    exif[0x0112] = orientation
    image.transpose(stored[orientation]).save(file, "PNG", exif=exif)
    return Image.open(file)


@pytest.mark.parametrize("orientation", [3, 6, 8])
@pytest.mark.parametrize("name", sorted(PROFILES))
def test_stored_orientation_changes_no_pixel(name: str, orientation: int) -> None:
    image = noise(60, 90)
    turned = preprocess(with_orientation(image, orientation), PROFILES[name])
    assert torch.equal(turned, preprocess(image, PROFILES[name]))
    assert torch.equal(to_tensor(with_orientation(image, orientation)), to_tensor(image))


@pytest.mark.parametrize("name", sorted(PROFILES))
@pytest.mark.parametrize(("height", "width"), [(65, 90), (31, 17), (300, 64), (500, 700), (1, 1)])
def test_pil_images_and_tensors_have_the_same_pixels(name: str, height: int, width: int) -> None:
    image = noise(height, width)
    assert torch.equal(preprocess(image, PROFILES[name]), preprocess(to_tensor(image)[None], PROFILES[name]))


def openai_transform(image: Image.Image) -> Tensor:
    """The transform of openai/CLIP (clip.py, `_transform`), which converts last."""
    steps = [
        v2.Resize(224, v2.InterpolationMode.BICUBIC),
        v2.CenterCrop(224),
        v2.Lambda(lambda cropped: cropped.convert("RGB")),
    ]
    array = np.array(v2.Compose(steps)(image), dtype=np.float32) / 255
    return TF.normalize(torch.from_numpy(array).permute(2, 0, 1), list(CLIP_MEAN), list(CLIP_STD))


MODES = ["1", "L", "LA", "P", "RGBA", "CMYK", "YCbCr", "HSV"]


def in_mode(mode: str, height: int, width: int) -> Image.Image:
    """Noise in a mode, partly transparent where the mode allows it."""
    image = noise(height, width)
    if mode in ("LA", "RGBA"):
        image.putalpha(noise(height, width, 1).convert("L"))
    return image.quantize(16) if mode == "P" else image.convert(mode)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(("height", "width"), [(300, 451), (90, 70), (224, 227)])
def test_clip_224_converts_after_the_resize_as_openai_does(mode: str, height: int, width: int) -> None:
    image = in_mode(mode, height, width)
    ours = preprocess(image, PROFILES["clip-224"])[0]
    torch.testing.assert_close(ours, openai_transform(image), rtol=0, atol=1e-6)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", [name for name in PROFILES if name != "clip-224"])
def test_other_profiles_convert_before_the_resize(name: str, mode: str) -> None:
    image = in_mode(mode, 60, 90)
    rgb = image.convert("RGB")
    assert torch.equal(preprocess(image, PROFILES[name]), preprocess(rgb, PROFILES[name]))


@pytest.mark.parametrize("mode", ["RGB", *MODES])
@pytest.mark.parametrize(("height", "width"), [(2, 60), (70, 3), (300, 64)])
def test_pixels_do_not_depend_on_how_much_is_cropped(
    monkeypatch: pytest.MonkeyPatch, mode: str, height: int, width: int
) -> None:
    image = in_mode(mode, height, width)
    expected = {name: preprocess(image, PROFILES[name]) for name in ("clip-224", "squash-64", "llava-336")}
    monkeypatch.setattr("rewards.preprocess._PIL_PIXELS", 0)
    for name, pixels in expected.items():
        torch.testing.assert_close(preprocess(image, PROFILES[name]), pixels, rtol=0, atol=0)


def memory_kb(name: str) -> int:
    """Return memory of this process as Linux states it, such as VmRSS, the present, or VmHWM, the peak."""
    return int(re.findall(rf"{name}:\s+(\d+) kB", Path("/proc/self/status").read_text(encoding="utf-8"))[0])


def reset_peak_memory() -> int:
    """Make the present memory the peak, and return it: otherwise an earlier peak would hide a later one."""
    Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")
    return memory_kb("VmHWM")


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux can reset the peak memory of a process")
@pytest.mark.parametrize("name", ["clip-224", "llava-336", "siglip-384", "hps-224-antialias"])
@pytest.mark.parametrize(("height", "width"), [(1, 1500), (1500, 1), (4, 20000), (20000, 4), (200, 20000)])
def test_elongated_images_need_little_memory(name: str, height: int, width: int) -> None:
    grey = np.resize(np.arange(250, dtype=np.uint8), (height, width))
    image = Image.fromarray(grey).convert("RGB")
    before = reset_peak_memory()
    pixels = preprocess(image, PROFILES[name])
    assert torch.equal(preprocess(to_tensor(image)[None], PROFILES[name]), pixels)
    assert memory_kb("VmHWM") - before < 700_000


@pytest.mark.parametrize(("height", "width"), [(1, 1500), (1500, 1), (4, 3000)])
def test_gradients_of_elongated_images_are_those_of_the_kept_part(height: int, width: int) -> None:
    image = torch.full((1, 3, height, width), 0.5, requires_grad=True)
    preprocess(image, PROFILES["clip-224"]).sum().backward()
    assert image.grad is not None
    # A weighted mean of the pixels that are kept: each of 224 x 224 results passes its gradient on.
    expected = torch.tensor([3 * 224 * 224 / 3 / std for std in CLIP_STD])
    torch.testing.assert_close(image.grad.sum(dim=(0, 2, 3)), expected, rtol=1e-4, atol=0)


@pytest.mark.parametrize("name", ["clip-224", "squash-64", "llava-336"])
@pytest.mark.parametrize(("height", "width"), [(40, 300), (300, 200), (64, 64)])
def test_gradients_are_those_of_the_whole_weight_matrices(name: str, height: int, width: int) -> None:
    """Backpropagation equals the product with the weights, where no pixel clips."""
    profile = replace(PROFILES[name], mean=None, std=None)
    image = 0.4 + 0.2 * torch.rand(1, 3, height, width, generator=torch.Generator().manual_seed(0))
    leaf = image.clone().requires_grad_()
    output = preprocess(leaf, profile)
    probe = torch.rand(output.shape, generator=torch.Generator().manual_seed(1))
    (output * probe).sum().backward()
    # PIL without its rounding, by torch's own code in float64: nearly the same weights.
    smooth = image.double().requires_grad_()
    (preprocess(smooth, replace(profile, emulate_pil=False)) * probe).sum().backward()
    assert leaf.grad is not None
    assert smooth.grad is not None
    bound = 2e-6 * float(smooth.grad.abs().max())
    torch.testing.assert_close(leaf.grad.double(), smooth.grad, rtol=0, atol=bound)
