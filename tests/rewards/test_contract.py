"""What holds for every registered reward, on tiny random weights of its own architecture."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

import rewards
from rewards.base import Reward

NAMES = rewards.names()
DIFFERENTIABLE = [name for name in NAMES if rewards.info(name).differentiable]

PROMPTS = [
    "a large red circle on a white background",
    "a small blue square on a grey background",
    "a yellow star left of a green triangle",
]

Tiny = Callable[[str], Reward]


def pictures(count: int, height: int = 72, width: int = 100) -> list[Image.Image]:
    """Photograph-like noise: coarse blobs, so that scores differ after any resize."""
    rng = np.random.default_rng(7)
    coarse = rng.integers(0, 256, (count, 6, 8, 3), dtype=np.uint8)
    return [Image.fromarray(array).resize((width, height), Image.Resampling.BICUBIC) for array in coarse]


def tensors(images: list[Image.Image]) -> Tensor:
    arrays = np.stack([np.asarray(image) for image in images])
    return torch.from_numpy(arrays).permute(0, 3, 1, 2).float() / 255


@pytest.mark.parametrize("name", NAMES)
def test_one_float32_score_an_image_for_any_size(tiny: Tiny, name: str) -> None:
    reward = tiny(name)
    for count, size in ((3, (72, 100)), (1, (100, 72)), (1, (64, 64)), (2, (300, 240))):
        scores = reward.score(pictures(count, *size), PROMPTS[:count])
        assert scores.shape == (count,)
        assert scores.dtype == torch.float32
        assert not scores.isinf().any()


@pytest.mark.parametrize("name", NAMES)
def test_a_picture_scores_the_same_as_its_tensor(tiny: Tiny, name: str) -> None:
    images = pictures(3)
    from_pil, from_tensor = (tiny(name).score(batch, PROMPTS) for batch in (images, tensors(images)))
    torch.testing.assert_close(from_pil, from_tensor, rtol=1e-5, atol=1e-5, equal_nan=True)


@pytest.mark.parametrize("name", NAMES)
def test_a_score_does_not_depend_on_the_rest_of_the_batch(tiny: Tiny, name: str) -> None:
    reward, images = tiny(name), pictures(3)
    together = reward.score(images, PROMPTS)
    alone = torch.cat([reward.score([i], [p]) for i, p in zip(images, PROMPTS, strict=True)])
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5, equal_nan=True)
    order = [2, 0, 1]
    permuted = reward.score([images[i] for i in order], [PROMPTS[i] for i in order])
    torch.testing.assert_close(permuted, together[order], rtol=1e-4, atol=1e-5, equal_nan=True)


@pytest.mark.parametrize("name", NAMES)
def test_the_record_says_whether_the_prompt_matters(tiny: Tiny, name: str) -> None:
    images = pictures(1) * 3
    scores = tiny(name).score(images, PROMPTS)
    same = torch.allclose(scores, scores[:1].expand(3), rtol=0, atol=1e-7, equal_nan=True)
    assert same != rewards.info(name).uses_prompt


@pytest.mark.parametrize("name", NAMES)
def test_nothing_in_a_reward_is_ever_trained(tiny: Tiny, name: str) -> None:
    reward = tiny(name).train()
    images = tensors(pictures(1)).requires_grad_()
    scores = reward.score(images, PROMPTS[:1])
    assert scores.requires_grad == rewards.info(name).differentiable
    if scores.requires_grad:
        scores.sum().backward()
    assert not any(module.training for module in reward.modules())
    assert all(parameter.grad is None for parameter in reward.parameters())
    assert not any(parameter.requires_grad for parameter in reward.parameters())


@pytest.mark.parametrize("name", DIFFERENTIABLE)
def test_gradients_reach_the_images(tiny: Tiny, name: str) -> None:
    images = tensors(pictures(3)).requires_grad_()
    tiny(name).score(images, PROMPTS).sum().backward()
    assert images.grad is not None
    assert images.grad.isfinite().all()
    assert (images.grad.abs().amax(dim=(1, 2, 3)) > 0).all()


@pytest.mark.parametrize("name", DIFFERENTIABLE)
def test_gradients_agree_with_finite_differences(
    tiny: Tiny, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    reward = tiny(name)
    # The gradient passes straight through the rounding to 8 bits, a difference does not: it is left out.
    monkeypatch.setattr(reward, "profile", replace(reward.profile, emulate_pil=False))
    images = (0.3 + 0.4 * tensors(pictures(1))).requires_grad_()
    score = reward.score(images, PROMPTS[:1])
    (gradient,) = torch.autograd.grad(score.sum(), images)
    slope = gradient.norm()
    length = 0.03  # long enough for float32, short enough to be straight
    step = length * gradient / slope
    with torch.no_grad():
        up, down = (reward.score(images + s * step, PROMPTS[:1]).double() for s in (1, -1))
    assert (up - down).item() / (2 * length) == pytest.approx(slope.item(), rel=0.03)
