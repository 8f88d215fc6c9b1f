"""What every reward promises, as checks that need no test framework.

    from rewards.verification import contract

    contract.check(reward)  # raises AssertionError if a promise is broken

This one call is the whole test of a new reward. It takes seconds on a small model: some checks copy the
reward to change the precision of the copy. Shapes: B images.
"""

from __future__ import annotations

import io
import math
from bisect import bisect
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import replace
from typing import get_args

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from rewards.base import Reward
from rewards.info import Role
from rewards.verification.case import SPREAD_SHARE, Case, format_values
from rewards.verification.samples import ODD_PROMPTS, PROMPTS, blobs, in_modes

_SLOPE_SHARE = 0.02
"""Largest error of a directional derivative, as a share of the gradient's norm."""
_HALF_BATCH_SHARE = 1e-3
"""Largest effect of the other images of a batch in bfloat16, as a share of the scores' spread."""
_STEPS = (1e-4, 1e-3, 1e-2)
"""Root mean square of finite steps; one must agree, as rounding spoils short and curvature long ones."""
_MAX_WORDS = 512
"""A reward that does not truncate a prompt of this many words counts as one that reads all of it."""


def check(
    reward: Reward, images: Sequence[Image.Image] | None = None, prompts: Sequence[str] | None = None
) -> None:
    """Check every promise of the contract (`CHECKS`).

    Args:
        reward: The reward, loaded.
        images: Two or more RGB images of one size; by default `blobs`.
        prompts: A different prompt for each image; by default `PROMPTS`.

    Raises:
        AssertionError: For the first promise that is broken.
        ValueError: If images or prompts are not as described.
    """
    case = Case(reward, blobs(3) if images is None else images, PROMPTS if prompts is None else prompts)
    count, different, sizes = len(case.images), len(set(case.prompts)), {image.size for image in case.images}
    modes = {image.mode for image in case.images}
    if not 2 <= count == len(case.prompts) == different or len(sizes) > 1 or modes != {"RGB"}:
        raise ValueError(
            f"got {count} images of mode {modes}, sizes {sizes} and {len(case.prompts)} prompts, "
            f"{different} of them different; expected two or more RGB images of one size and a different "
            "prompt for each"
        )
    for check_case in CHECKS.values():
        check_case(case)


def _record_is_complete(case: Case) -> None:
    """The record has a name, a known role, a range from low to high, and different keys for its weights."""
    record = case.reward.info
    low, high = record.typical_range
    keys = [file.key for file in record.weights]
    case.require(record.name, "the record has no name")
    case.require(record.role in get_args(Role), f"role is {record.role!r}, expected one of {get_args(Role)}")
    in_order = -math.inf < low < high < math.inf
    case.require(in_order, f"typical_range is {record.typical_range}, expected low < high")
    case.require(len(keys) == len(set(keys)), f"two weights have the same key: {keys}")


def _one_float32_score_per_image(case: Case) -> None:
    """Scores are float32 of shape (B,), for one image or several, in portrait or landscape format."""
    for images in (case.images, case.images[:1], [image.rotate(90, expand=True) for image in case.images]):
        scores = case.score(images, case.prompts[: len(images)])
        shape = tuple(scores.shape)
        case.require(shape == (len(images),), f"{len(images)} images have scores {shape}")
        case.require(scores.dtype == torch.float32, f"scores are {scores.dtype}, expected float32")
        case.require_valid(scores, "scores")


def _small_images_score_or_raise_value_error(case: Case) -> None:
    """Images of 8 x 5 pixels are scored, or raise a ValueError of one line that names the size."""
    small = [image.resize((5, 8)) for image in case.images]
    try:
        scores = case.score(small, case.prompts)
    except ValueError as error:
        text = str(error)
        helpful = "8" in text and "5" in text and "\n" not in text
        message = f"the error for images of 8 x 5 pixels does not name the size in one line: {text}"
        case.require(helpful, message)
    except Exception as error:
        # Networks fail in many ways on too few pixels, and no such message helps the user.
        raise AssertionError(f"images of 8 x 5 pixels raise {type(error).__name__}: {error}") from error
    else:
        case.require_valid(scores, "scores of images of 8 x 5 pixels")


def _invalid_images_raise_value_error(case: Case) -> None:
    """Images of the wrong range, type or shape raise a ValueError that says what is expected."""
    good = case.tensor
    with_nan = good.clone()
    with_nan[-1, 0, 0, 0] = math.nan
    for what, images in (
        ("values above 1", good * 2),
        ("values below 0", good * 2 - 1),
        ("a NaN", with_nan),
        ("8-bit integers", (good * 255).byte()),
        ("no batch dimension", good[0]),
        ("grey images", good[:, :1]),
        ("channels last", good.permute(0, 2, 3, 1)),
        ("no images", []),
        ("arrays", [np.asarray(image) for image in case.images]),
    ):
        case.require_value_error(images, case.prompts, what)


def _invalid_prompts_raise_value_error(case: Case) -> None:
    """Prompts that are not one text per image raise a ValueError that says what is expected."""
    for what, prompts in (
        ("a string instead of a list", case.prompts[0]),
        ("too few prompts", case.prompts[1:]),
        ("too many prompts", [*case.prompts, "one more"]),
        ("a number as a prompt", [1, *case.prompts[1:]]),
        ("an unpaired surrogate", ["\ud83d", *case.prompts[1:]]),
    ):
        case.require_value_error(case.images, prompts, what)
    if case.reward.info.uses_prompt:
        case.require_value_error(case.images, None, "no prompts")
    else:
        case.require_close(case.score(case.images, None), case.scores, "scores without prompts")


def _pil_images_and_tensors_score_alike(case: Case) -> None:
    """PIL images and the tensor of their pixels have the same scores."""
    case.require_close(case.score(case.tensor, case.prompts), case.scores, "scores of tensors of the images")


def _every_image_mode_scores_like_rgb(case: Case) -> None:
    """Grey, palette, 1-bit, 16-bit and CMYK images score like their RGB image; transparency is dropped.

    With `convert="last"` no resize takes place, because resizing in another mode gives other pixels.
    """
    image, profile = case.images[0], case.reward.profile
    modes = in_modes(image if profile.convert == "first" else image.resize((profile.size, profile.size)))
    prompts = [case.prompts[0]] * len(modes)
    scores, expected = (case.score(images, prompts) for images in zip(*modes.values(), strict=True))
    for mode, score, rgb_score in zip(modes, scores, expected, strict=True):
        message = f"mode {mode} scores {score:.6g}, its RGB image {rgb_score:.6g}"
        case.require(case.bitwise_equal(score, rgb_score), message)


def _scores_do_not_depend_on_the_batch(case: Case) -> None:
    """The other images of a batch, their sizes, their order and copies do not change a score."""
    pairs = list(zip(case.images, case.prompts, strict=True))
    alone = torch.cat([case.score([image], [prompt]) for image, prompt in pairs])
    case.require_close(alone, case.scores, "scores of images one by one")
    order = [*range(1, len(pairs)), 0, 0]
    images, prompts = zip(*(pairs[i] for i in order), strict=True)
    case.require_close(case.score(images, prompts), case.scores[order], "scores in another order")
    rotated = case.images[0].rotate(90, expand=True)
    mixed = case.score([rotated, *case.images[1:]], case.prompts)
    case.require_close(mixed[1:], case.scores[1:], "scores beside an image of another size")
    half = replace(case, reward=case.half)
    unlike = [prompt * (1 + 4 * number) for number, prompt in enumerate(case.prompts)]
    alone = torch.cat([half.score([i], [p]) for i, p in zip(case.images, unlike, strict=True)])
    case.require_close(
        half.score(case.images, unlike),
        alone,
        "scores in bfloat16 beside prompts of other lengths",
        share=_HALF_BATCH_SHARE,
        # The size of a batch decides between two neighbours where a model's last operation is in bfloat16.
        step=case.bfloat16_step(alone),
    )


def _uses_prompt_matches_the_scores(case: Case) -> None:
    """The image changes the score, and the prompt does if and only if the record says ``uses_prompt``."""
    case.require(case.spread > 0, f"all images and prompts score alike: {format_values(case.scores)}")
    by_image, by_prompt = (
        (case.grid - other).abs().nan_to_num().max() for other in (case.grid[:1], case.grid[:, :1])
    )
    noise = SPREAD_SHARE * case.spread
    case.require(by_image > noise, "images do not change the score")
    stated, measured = case.reward.info.uses_prompt, bool(by_prompt > noise)
    case.require(
        stated == measured,
        f"uses_prompt is {stated}, but prompts {'do' if measured else 'do not'} change scores",
    )


def _any_text_can_be_a_prompt(case: Case) -> None:
    """Empty, long and non-Latin texts and control characters are scored, and truncated ones counted."""
    try:
        scores = case.score([case.images[0]] * len(ODD_PROMPTS), ODD_PROMPTS)
    except Exception as error:
        # Tokenizers fail in many ways, and none may: users' prompts are not under our control.
        raise AssertionError(f"unusual prompts raise {type(error).__name__}: {error}") from error
    for prompt, score in zip(ODD_PROMPTS, scores, strict=True):
        case.require_valid(score, f"scores for the prompt {prompt[:30]!r}")
    count = case.reward.truncated(ODD_PROMPTS)
    one_by_one = sum(case.reward.truncated([prompt]) for prompt in ODD_PROMPTS)
    case.require(count == one_by_one, f"truncated() counts {count} prompts together, {one_by_one} one by one")
    case.require(case.reward.truncated([]) == 0, "truncated() of no prompts is not 0")


def _truncated_prompts_are_counted(case: Case) -> None:
    """`truncated` knows the limit: the first word beyond it changes nothing, the last one within it does."""
    reward = case.reward
    if not reward.info.uses_prompt:
        count = reward.truncated(ODD_PROMPTS)
        case.require(count == 0, "truncated() counts prompts, but the reward reads none")
        return
    if not reward.truncated([" ".join("a" * _MAX_WORDS)]):
        return
    limit = bisect(range(1, _MAX_WORDS), 0, key=lambda count: reward.truncated([" ".join("a" * count)]))
    case.require(limit, "truncated() counts a prompt of one word")

    def score(words: Sequence[str]) -> Tensor:
        return case.score(case.images, [" ".join(words)] * len(case.images))

    longest = ["a"] * limit
    scores = score(longest)
    # Equal scores say nothing: CLIPScore, for one, clips negative cosines to 0.
    clipped = case.bitwise_equal(scores, scores[:1].expand(len(scores)))
    changed = not case.bitwise_equal(score([*longest[:-1], "b"]), scores)
    case.require(
        changed or clipped, f"word {limit} is within the limit of truncated(), but does not change the score"
    )
    message = f"word {limit + 1} is beyond the limit of truncated(), but changes the score"
    case.require_close(score([*longest, "b"]), score([*longest, "a"]), message)
    case.require_close(
        score(["a"] * (2 * limit + 2)), scores, "a truncated prompt scores unlike its beginning"
    )


def _parameters_are_frozen(case: Case) -> None:
    """The reward stays in evaluation mode after ``train()``, and its parameters never get gradients."""
    for reward in (case.reward.train(), case.exact.train()):
        images = case.tensor.clone().requires_grad_()
        scores = reward.score(images, case.prompts)
        if scores.requires_grad:
            torch.autograd.backward(scores.sum())
        training = [name for name, module in reward.named_modules() if module.training]
        case.require(not training, f"modules in training mode: {', '.join(training) or 'the reward itself'}")
        trained = [n for n, p in reward.named_parameters() if p.requires_grad or p.grad is not None]
        case.require(not trained, f"parameters that need or have gradients: {', '.join(trained)}")


def _gradients_reach_the_images(case: Case) -> None:
    """Every image gets a finite gradient other than zero if the record says ``differentiable``, else none."""
    images = case.tensor.clone().requires_grad_()
    scores = case.reward.score(images, case.prompts)
    stated = case.reward.info.differentiable
    case.require(
        scores.requires_grad == stated,
        f"differentiable is {stated}, but scores have {'no' if stated else 'a'} gradient",
    )
    if not stated:
        return
    (gradient,) = torch.autograd.grad(scores.sum(), images)
    case.require(gradient.isfinite().all(), "gradients are not finite")
    norms = gradient.flatten(1).norm(dim=1)
    case.require((norms > 0).all(), f"an image has no gradient; the norms are {format_values(norms)}")


def _gradients_match_finite_differences(case: Case) -> None:
    """The score changes as the gradient says, along the gradient and along a random direction."""
    if not case.reward.info.differentiable:
        return

    def score(images: Tensor) -> Tensor:
        # In float64, since differences of float32 scores are mostly rounding. Pixels are not rounded to 8
        # bits: the gradient passes straight through that rounding, but a small step does not.
        (pixels,) = case.exact.pixels(images)
        # Not `score_pixels`, which ends with a cast to float32.
        return case.exact._score(pixels, [case.prompts[0]] * len(images)).double().cpu()

    # In the middle of [0, 1], so that no step is clamped.
    start = (0.3 + 0.4 * case.tensor[:1].double()).requires_grad_()
    (gradient,) = torch.autograd.grad(score(start).sum(), start)
    rms = gradient.square().mean().sqrt()
    generator = torch.Generator().manual_seed(0)
    # Along itself a wrong gradient can still have the right slope; a random direction catches permuted
    # channels.
    directions = {
        "the gradient": gradient / rms,
        "a random direction": torch.randn(start.shape, generator=generator, dtype=torch.float64),
    }
    for name, direction in directions.items():
        slope = (gradient * direction).sum()
        steps = torch.tensor([sign * step for step in _STEPS for sign in (1, -1)], dtype=torch.float64)
        with torch.no_grad():
            up, down = score(start + steps.view(-1, 1, 1, 1) * direction).view(-1, 2).T
        differences = (up - down) / (2 * torch.tensor(_STEPS, dtype=torch.float64))
        allowed = _SLOPE_SHARE * max(slope.abs().item(), gradient.norm().item())
        message = (
            f"along {name} the slope is {slope:.4g}, finite differences are {format_values(differences)}"
        )
        case.require(((differences - slope).abs() <= allowed).any(), message)


def _scoring_is_deterministic(case: Case) -> None:
    """Scores are bitwise reproducible, with gradients or without; scoring never blocks later gradients."""
    state = torch.get_rng_state()
    # A size that no other check uses, so that whatever the reward caches by size is computed here.
    odd = F.pad(case.tensor, (0, 1, 0, 0), mode="replicate")
    with torch.inference_mode():
        inferred = case.reward.score(odd, case.prompts)
    with torch.no_grad():
        first, second = (case.reward.score(odd, case.prompts) for _ in range(2))
    plain = case.reward.score(odd, case.prompts).detach()
    for when, scores in (
        ("a second time", second),
        ("in inference mode", inferred),
        ("with gradients enabled", plain),
    ):
        values = f"{format_values(scores)}, before {format_values(first)}"
        case.require(case.bitwise_equal(scores, first), f"the same images score differently {when}: {values}")
    if case.reward.info.differentiable:
        try:
            scores = case.reward.score(odd.clone().requires_grad_(), case.prompts)
            torch.autograd.backward(scores.sum())
        except RuntimeError as error:
            # Autograd refuses tensors from inference mode: a cache that was filled there is useless later.
            raise AssertionError(f"no gradients after a call in inference mode: {error}") from error
        case.require_close(scores, first, "scores of images that need gradients")
    case.require(torch.equal(state, torch.get_rng_state()), "scoring changes the global random state")


def _bfloat16_scores_are_close(case: Case) -> None:
    """In bfloat16 scores differ by a part of their spread, and are still float32."""
    half = replace(case, reward=case.half)
    dtype = half.scores.dtype
    case.require(dtype == torch.float32, f"in bfloat16 scores are {dtype}, expected float32")
    case.require_roughly_close(half.grid, case.grid, "scores in bfloat16")


def _autocast_does_not_change_scores(case: Case) -> None:
    """Inside the autocast of a training loop the reward keeps its own precision."""
    with torch.autocast(case.device.type, dtype=torch.bfloat16):
        scores = case.score(case.tensor, case.prompts)
    case.require_close(scores, case.scores, "scores inside autocast")


def _state_dict_restores_the_scores(case: Case) -> None:
    """A copy with zeroed tensors scores the same after loading the state dict, with ``weights_only``."""
    for name, module in case.reward.named_modules():
        loose = [key for key, value in vars(module).items() if isinstance(value, Tensor)]
        where = name or "the reward"
        case.require(not loose, f"{where} keeps {', '.join(loose)} outside its state dict: register a buffer")
    copy, file = deepcopy(case.reward), io.BytesIO()
    torch.save(case.reward.state_dict(), file)
    with torch.no_grad():
        for tensor in copy.state_dict().values():
            tensor.zero_()
    file.seek(0)
    copy.load_state_dict(torch.load(file, weights_only=True))
    scores = replace(case, reward=copy).scores
    values = f"{format_values(scores)}, the original {format_values(case.scores)}"
    case.require(case.bitwise_equal(scores, case.scores), f"a copy from the state dict scores {values}")


_CHECKS = (
    _record_is_complete,
    _one_float32_score_per_image,
    _small_images_score_or_raise_value_error,
    _invalid_images_raise_value_error,
    _invalid_prompts_raise_value_error,
    _pil_images_and_tensors_score_alike,
    _every_image_mode_scores_like_rgb,
    _scores_do_not_depend_on_the_batch,
    _uses_prompt_matches_the_scores,
    _any_text_can_be_a_prompt,
    _truncated_prompts_are_counted,
    _parameters_are_frozen,
    _gradients_reach_the_images,
    _gradients_match_finite_differences,
    _scoring_is_deterministic,
    _bfloat16_scores_are_close,
    _autocast_does_not_change_scores,
    _state_dict_restores_the_scores,
)

CHECKS: Mapping[str, Callable[[Case], None]] = {check.__name__.removeprefix("_"): check for check in _CHECKS}
"""By promise, from the obvious to the subtle: raises AssertionError if a reward breaks it."""
