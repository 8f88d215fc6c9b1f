"""PIL's resize of 8-bit pixels, for tensors: the same levels bit for bit, with gradients.

PIL resizes the width first and then the height, and rounds to 8 bits after each. Each output pixel is a sum
over the few pixels that the kernel covers. Neighbouring ones read nearly the same pixels, so a block of them
is one product of small matrices. Only blocks that are kept are computed: an elongated image needs no more
time and memory than another one. Shapes: B batch, C channels, H height, W width, N output pixels of the
width, M of the height, K covered pixels.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Kernel = Literal["bicubic", "bilinear"]

_PIL_WEIGHT_BITS = 22
"""Fractional bits of the fixed-point weights in PIL's resize of 8-bit images (Resample.c: 32 - 8 - 2)."""

_BLOCK = 16
"""Output pixels that are computed by one product of matrices: few, so that most of its weights are not 0."""

_CHUNK = 2**18
"""Pixels that are rounded at once on the CPU, so that they stay in its cache: 2 MB in float64."""


class Side(NamedTuple):
    """One direction of a resize: the padded image, its new length, and the part of that which is kept."""

    pixels: int
    """Length of the image with its padding."""
    before: int
    """Padding before the image."""
    size: int
    """Length after the resize."""
    start: int
    """First kept pixel of the result."""
    kept: int
    """Number of kept pixels."""


class _Block(NamedTuple):
    """Some neighbouring output pixels, and the pixels of the image that they are sums of."""

    outputs: slice
    pixels: slice
    weight: Tensor
    """(outputs, pixels)."""


class _Taps(NamedTuple):
    """A direction's weights, float64."""

    first: int
    """First pixel of the image that a kept output pixel reads; pixels are counted from it."""
    last: int
    """End of these pixels, exclusive."""
    blocks: tuple[_Block, ...]
    padding: Tensor
    """Sum (N,) of the weights of each output pixel that fall on padding."""
    total: Tensor
    """Sum (N,) of all weights of each output pixel; not exactly 1."""

    def to(self, device: torch.device, dtype: torch.dtype) -> _Taps:
        """Move the weights to a device and a precision."""
        blocks = tuple(block._replace(weight=block.weight.to(device, dtype)) for block in self.blocks)
        padding, total = self.padding.to(device, dtype), self.total.to(device, dtype)
        return self._replace(blocks=blocks, padding=padding, total=total)

    def across(self, images: Tensor) -> Tensor:
        """Return the output pixels (..., H, N) of images (..., H, W)."""
        result = images.new_empty((*images.shape[:-1], len(self.total)))
        for outputs, pixels, weight in self.blocks:
            result[..., outputs] = images[..., pixels] @ weight.T
        return result

    def down(self, images: Tensor) -> Tensor:
        """Return the output pixels (..., M, N) of images (..., H, N)."""
        result = images.new_empty((*images.shape[:-2], len(self.total), images.shape[-1]))
        for outputs, pixels, weight in self.blocks:
            result[..., outputs, :] = weight @ images[..., pixels, :]
        return result

    def across_back(self, gradient: Tensor) -> Tensor:
        """Return the gradient (..., H, W) of `across` from that of its result (..., H, N)."""
        result = gradient.new_zeros((*gradient.shape[:-1], self.last - self.first))
        for outputs, pixels, weight in self.blocks:
            result[..., pixels] += gradient[..., outputs] @ weight.to(gradient.dtype)
        return result

    def down_back(self, gradient: Tensor) -> Tensor:
        """Return the gradient (..., H, N) of `down` from that of its result (..., M, N)."""
        result = gradient.new_zeros((*gradient.shape[:-2], self.last - self.first, gradient.shape[-1]))
        for outputs, pixels, weight in self.blocks:
            result[..., pixels, :] += weight.to(gradient.dtype).T @ gradient[..., outputs, :]
        return result


def resize_like_pil(
    images: Tensor, rows: Side, columns: Side, kernel: Kernel, padding: tuple[int, ...] = ()
) -> Tensor:
    """Resize images with the result of PIL's ``Image.resize``.

    Args:
        images: (B, C, H, W): floats in [0, 1], which are rounded to 8 bits first, or 8-bit levels.
        rows: The height.
        columns: The width.
        kernel: PIL's filter.
        padding: 8-bit level of the padding by channel, if there is any.

    Returns:
        Levels / 255, (B, C, rows.kept, columns.kept), float32. Gradients pass straight through the rounding,
        but not through clipping.
    """
    height, width = images.shape[-2:]
    down, across = _taps(height, rows, kernel), _taps(width, columns, kernel)
    # Only pixels that the kept part depends on are converted.
    images = images[..., down.first : down.last, across.first : across.last]
    # PIL computes in integers. Levels times fixed-point weights are multiples of 2^-22 below 2^9 or so, which
    # float64 adds without any error, so rounding gives the same level. float32 would not hold them; on a
    # device without float64 (mps) a pixel may be off by one level.
    device, dtype = images.device, torch.float32 if images.device.type == "mps" else torch.float64
    level = torch.tensor(padding, device=device, dtype=dtype) if padding else None
    resized: Tensor = _Resize.apply(images, down.to(device, dtype), across.to(device, dtype), level)  # type: ignore[no-untyped-call]
    return resized


class _Resize(torch.autograd.Function):
    """The resize, with straight-through gradients.

    The derivative of rounding is 0 almost everywhere, which would stop all gradients, so rounding counts as
    the identity. Clipping does not: a pixel that is clipped (PIL's bicubic overshoots at edges) does not
    change with its input, and its gradient is 0.
    """

    @staticmethod
    def forward(ctx: Any, images: Tensor, down: _Taps, across: _Taps, padding: Tensor | None) -> Tensor:
        keep, inside = bool(ctx.needs_input_grad[0]), []
        if keep:
            inside.append((images >= 0) & (images <= 1))
        levels = _levels(images, across.padding.dtype)  # (B, C, H, W)
        # Width first, then height, with a rounding to 8 bits in between, as Pillow did when the rewards were
        # published. Pillow 13 begins with the height if that shrinks much more than the width; a score must
        # not depend on Pillow's version.
        levels = across.across(levels)  # (B, C, H, N)
        if padding is not None:
            levels += across.padding * padding[:, None, None]
        if keep:
            inside.append((levels >= 0) & (levels <= 255))
        levels = down.down(_round(levels))  # (B, C, M, N)
        if padding is not None:
            row = _round(across.total * padding[:, None])  # of padding alone, (C, N)
            levels += down.padding[:, None] * row[:, None]
        if keep:
            inside.append((levels >= 0) & (levels <= 255))
            ctx.save_for_backward(*inside)
            ctx.taps, ctx.dtype = (down, across), images.dtype
        return (_round(levels) / 255).float()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None]:
        of_images, of_columns, of_rows = ctx.saved_tensors
        down, across = ctx.taps
        columns = down.down_back(gradient.float() * of_rows)  # (B, C, H, N)
        images = across.across_back(columns.mul_(of_columns))  # (B, C, H, W)
        return images.mul_(of_images).to(ctx.dtype), None, None, None


def _levels(images: Tensor, dtype: torch.dtype) -> Tensor:
    """Return the 8-bit levels (B, C, H, W) of images in a precision that the sums need."""
    if images.dtype == torch.uint8:
        return images.to(dtype)
    levels = torch.empty(images.shape, dtype=dtype, device=images.device)
    rows = max(1, _CHUNK // images.shape[-1]) if images.device.type == "cpu" else len(levels.flatten(0, -2))
    chunks = (torch.split(tensor.flatten(0, -2), rows) for tensor in (images, levels))
    for pixels, rounded in zip(*chunks, strict=True):
        _round(rounded.copy_(pixels).mul_(255))
    return levels


def _round(values: Tensor) -> Tensor:
    """Round half up and clip to 8 bits, in place."""
    return values.add_(0.5).floor_().clamp_(0, 255)


@lru_cache(maxsize=64)
@torch.inference_mode(False)  # cached: an inference tensor would be unusable in later calls with gradients
def _taps(pixels: int, side: Side, kernel: Kernel) -> _Taps:
    """Return the weights of a direction in which an image has ``pixels`` pixels."""
    position, weight = _pil_weights(side, kernel)
    position -= side.before
    used = (weight != 0) & (position >= 0) & (position < pixels)
    first, last = int(position[used].min()), int(position[used].max()) + 1
    blocks = []
    for start in range(0, side.kept, _BLOCK):
        part = slice(start, min(start + _BLOCK, side.kept))
        result, _ = rows_columns = np.nonzero(used[part])
        if not len(result):  # only padding
            empty = torch.zeros(part.stop - start, 0, dtype=torch.float64)
            blocks.append(_Block(part, slice(0, 0), empty))
            continue
        pixel = position[part][rows_columns] - first
        low, high = int(pixel.min()), int(pixel.max()) + 1
        dense = np.zeros((part.stop - start, high - low))
        np.add.at(dense, (result, pixel - low), weight[part][rows_columns])
        blocks.append(_Block(part, slice(low, high), torch.from_numpy(dense)))
    padding = (weight * ((position < 0) | (position >= pixels))).sum(axis=1)
    total = weight.sum(axis=1)
    return _Taps(first, last, tuple(blocks), torch.from_numpy(padding), torch.from_numpy(total))


def _pil_weights(side: Side, kernel: Kernel) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Return the covered pixels (N, K) of each kept output pixel, and PIL's antialiased weights (N, K).

    Resample.c, precompute_coeffs and normalize_coeffs_8bpc. An output pixel that covers fewer pixels than
    another has weights of 0 at the end.
    """
    kept = np.arange(side.start, side.start + side.kept)[:, None]
    if side.size == side.pixels:
        return kept, np.ones(kept.shape)  # PIL leaves this direction as it is
    support, evaluate = (2, _bicubic) if kernel == "bicubic" else (1, _triangle)
    scale = side.pixels / side.size
    # Antialiasing: when shrinking, the kernel is stretched to cover the input pixels of one output pixel.
    stretch = max(scale, 1.0)
    centre = (kept + 0.5) * scale
    first = np.trunc(centre - support * stretch + 0.5).clip(min=0).astype(np.int64)
    last = np.trunc(centre + support * stretch + 0.5).clip(max=side.pixels).astype(np.int64)
    position = first + np.arange((last - first).max())
    weights = evaluate((position - centre + 0.5) / stretch) * (position < last)
    weights /= weights.sum(axis=1, keepdims=True)
    # PIL's fixed point rounds half away from zero.
    fixed = np.trunc(weights * 2**_PIL_WEIGHT_BITS + np.copysign(0.5, weights)) / 2**_PIL_WEIGHT_BITS
    return position.clip(max=side.pixels - 1), fixed


def _triangle(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """Kernel of linear interpolation, support 1."""
    return np.where(np.abs(x) < 1, 1 - np.abs(x), 0.0)


def _bicubic(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """Cubic convolution kernel (Keys 1981, equation 15) with a = -1/2, support 2."""
    a, x = -0.5, np.abs(x)
    near = ((a + 2) * x - (a + 3)) * x**2 + 1
    far = (((x - 5) * x + 8) * x - 4) * a
    return np.where(x < 1, near, np.where(x < 2, far, 0.0))
