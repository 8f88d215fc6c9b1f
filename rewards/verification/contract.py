"""What every reward promises, as checks that need no test framework.

    from rewards.verification import contract

    contract.check(reward)  # raises AssertionError, which says what promise is broken

The test of a reward of one's own is this one call. It takes seconds on a small model: some checks copy the
reward, to change the copy's precision. B images.
"""

from __future__ import annotations

import io
import math
from bisect import bisect
from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import replace
from typing import Any, get_args

import numpy as np
import torch
from PIL.Image import Image
from torch import Tensor
from torch.nn import functional as F

from rewards.base import Reward
from rewards.info import Role
from rewards.verification.case import SPREAD_SHARE, Case, equal, hold, show
from rewards.verification.samples import ODD_PROMPTS, PROMPTS, blobs, in_modes

SLOPE_SHARE = 0.02
"""How far a slope may be from the gradient's, of the gradient's length."""
STEPS = (1e-4, 1e-3, 1e-2)
"""Root mean square of finite steps: a short one drowns in rounding, a long one is bent. One has to agree."""
WORDS_TRIED = 512
"""A reward that cuts no prompt of so many words is taken to read all."""


Check = Callable[[Case], None]


def check(
    reward: Reward, images: Sequence[Image] | None = None, prompts: Sequence[str] | None = None
) -> None:
    """Raises AssertionError for the first promise that ``reward`` does not keep.

    ``images`` and ``prompts``, at least two of each, are for a reward that cannot judge `blobs` and
    `PROMPTS`. Raises ValueError if they are not as `Case` needs them.
    """
    case = Case(reward, blobs(3) if images is None else images, PROMPTS if prompts is None else prompts)
    count, different, sizes = len(case.images), len(set(case.prompts)), {image.size for image in case.images}
    modes = {image.mode for image in case.images}
    if not 2 <= count == len(case.prompts) == different or len(sizes) > 1 or modes != {"RGB"}:
        raise ValueError(
            f"got {count} images of mode {modes}, sizes {sizes} and {len(case.prompts)} prompts, "
            f"{different} of them different; expected two or more, RGB, of one size, and a prompt of its own "
            "for each"
        )
    for one in CHECKS:
        one(case)


def the_record_makes_sense(case: Case) -> None:
    """A name, a known role, a range from low to high, and weights under keys of their own."""
    record = case.reward.info
    low, high = record.typical_range
    keys = [file.key for file in record.weights]
    hold(record.name, "the reward has no name")
    hold(record.role in get_args(Role), f"the role is {record.role!r}, expected one of {get_args(Role)}")
    hold(-math.inf < low < high < math.inf, f"typical_range is {record.typical_range}, expected low < high")
    hold(len(keys) == len(set(keys)), f"two weights share a key: {keys}")


def one_float32_score_an_image(case: Case) -> None:
    """Any size, upright or not, alone or with others."""
    for images in (case.images, case.images[:1], [image.rotate(90, expand=True) for image in case.images]):
        scores = case.score(images, case.prompts[: len(images)])
        hold(scores.shape == (len(images),), f"{len(images)} images gave scores of {tuple(scores.shape)}")
        hold(scores.dtype == torch.float32, f"scores are {scores.dtype}, expected float32")
        _usable(case, scores, "scores")


def small_pictures_are_scored_or_refused(case: Case) -> None:
    """8 x 5 pixels: a score, or a ValueError of one line that names the size."""
    small = [image.resize((5, 8)) for image in case.images]
    try:
        scores = case.score(small, case.prompts)
    except ValueError as error:
        text = str(error)
        hold("8" in text and "5" in text and "\n" not in text, f"a picture of 8 x 5 is refused by: {text}")
    except Exception as error:  # whatever a model does with too few pixels, the message is about that
        raise AssertionError(f"a picture of 8 x 5 gives a {type(error).__name__}: {error}") from error
    else:
        _usable(case, scores, "scores of pictures of 8 x 5")


def what_is_no_image_is_refused(case: Case) -> None:
    """Images out of [0, 1], not RGB, not floats, not one batch: a ValueError that says what is expected."""
    good = case.tensor
    holed = good.clone()
    holed[-1, 0, 0, 0] = math.nan
    for what, images in (
        ("values above 1", good * 2),
        ("values below 0", good * 2 - 1),
        ("a NaN", holed),
        ("8-bit integers", (good * 255).byte()),
        ("no batch axis", good[0]),
        ("grey images", good[:, :1]),
        ("channels last", good.permute(0, 2, 3, 1)),
        ("no images", []),
        ("arrays", [np.asarray(image) for image in case.images]),
    ):
        _refused(case, images, case.prompts, what)


def what_is_no_prompt_is_refused(case: Case) -> None:
    """Prompts that are not one text an image: a ValueError that says what is expected."""
    for what, prompts in (
        ("a bare text as prompts", case.prompts[0]),
        ("too few prompts", case.prompts[1:]),
        ("too many prompts", [*case.prompts, "one more"]),
        ("a number as a prompt", [1, *case.prompts[1:]]),
        ("half a surrogate pair", ["\ud83d", *case.prompts[1:]]),
    ):
        _refused(case, case.images, prompts, what)
    if case.reward.info.uses_prompt:
        _refused(case, case.images, None, "no prompts")
    else:
        case.near(case.score(case.images, None), case.scores, "scores without prompts")


def a_picture_scores_as_its_tensor(case: Case) -> None:
    """PIL images and the tensor of their pixels are the same to it."""
    case.near(case.score(case.tensor, case.prompts), case.scores, "tensors score other than their pictures")


def every_mode_scores_as_its_rgb(case: Case) -> None:
    """Grey, palette, 1-bit, 16-bit and CMYK pictures score as what they show; transparency is dropped."""
    modes = in_modes(case.images[0])
    prompts = [case.prompts[0]] * len(modes)
    found, expected = (case.score(images, prompts) for images in zip(*modes.values(), strict=True))
    for mode, one, other in zip(modes, found, expected, strict=True):
        hold(equal(one, other), f"mode {mode}: {one:.6g} instead of {other:.6g}, the score as RGB")


def a_score_is_of_its_image_alone(case: Case) -> None:
    """Neither the other images of a batch, nor their sizes, nor their order, nor copies in it matter."""
    pairs = list(zip(case.images, case.prompts, strict=True))
    alone = torch.cat([case.score([image], [prompt]) for image, prompt in pairs])
    case.near(alone, case.scores, "images score otherwise alone than together")
    order = [*range(1, len(pairs)), 0, 0]
    images, prompts = zip(*(pairs[place] for place in order), strict=True)
    case.near(case.score(images, prompts), case.scores[order], "images score otherwise in another order")
    odd = case.images[0].rotate(90, expand=True)
    mixed = case.score([odd, *case.images[1:]], case.prompts)
    case.near(mixed[1:], case.scores[1:], "images score otherwise beside one of another size")


def the_record_says_what_matters(case: Case) -> None:
    """The image does, and the prompt if and only if ``uses_prompt``."""
    hold(case.spread > 0, f"every image scores {show(case.scores)}")
    by_image, by_prompt = (
        (case.grid - other).abs().nan_to_num().max() for other in (case.grid[:1], case.grid[:, :1])
    )
    noise = SPREAD_SHARE * case.spread
    hold(by_image > noise, "the images do not matter: each prompt gives all of them one score")
    says, reads = case.reward.info.uses_prompt, bool(by_prompt > noise)
    hold(says == reads, f"uses_prompt is {says}, but prompts {'do' if reads else 'do not'} change scores")


def any_text_is_a_prompt(case: Case) -> None:
    """Empty, long, in any script, with control characters: a score, and a count of those that are cut."""
    try:
        scores = case.score([case.images[0]] * len(ODD_PROMPTS), ODD_PROMPTS)
    except Exception as error:  # whatever a tokenizer does with them, the message is about these prompts
        raise AssertionError(f"odd prompts give a {type(error).__name__}: {error}") from error
    for prompt, score in zip(ODD_PROMPTS, scores, strict=True):
        _usable(case, score, f"scores for the prompt {prompt[:30]!r}")
    count, each = case.reward.truncated(ODD_PROMPTS), [case.reward.truncated([one]) for one in ODD_PROMPTS]
    hold(count == sum(each), f"truncated counts {count} of all prompts, and {sum(each)} of them one by one")
    hold(case.reward.truncated([]) == 0, "truncated counts prompts where there are none")


def what_is_cut_is_counted(case: Case) -> None:
    """`truncated` knows the first word that is not read: it changes nothing, and the one before does."""
    reward = case.reward
    if not reward.info.uses_prompt:
        hold(reward.truncated(ODD_PROMPTS) == 0, "truncated counts prompts of a reward that reads none")
        return
    if not reward.truncated([" ".join("a" * WORDS_TRIED)]):
        return
    fits = bisect(range(1, WORDS_TRIED), 0, key=lambda count: reward.truncated([" ".join("a" * count)]))
    hold(fits, "a prompt of one word is counted as cut")

    def score(words: Sequence[str]) -> Tensor:
        return case.score(case.images, [" ".join(words)] * len(case.images))

    read = ["a"] * fits
    scores = score(read)
    flat = equal(scores, scores[:1].expand(len(scores)))  # clipped, as CLIPScore's negative cosines are
    changed = not equal(score([*read[:-1], "b"]), scores)
    hold(changed or flat, f"word {fits} is counted as read, but changes nothing")
    text = f"word {fits + 1} is counted as cut, but changes the score"
    case.near(score([*read, "b"]), score([*read, "a"]), text)
    case.near(score(["a"] * (2 * fits + 2)), scores, "a prompt that is cut scores other than its beginning")


def nothing_in_it_is_trained(case: Case) -> None:
    """Frozen and in evaluation mode, whatever is done to it; no gradient stays at its parameters."""
    for reward in (case.reward.train(), case.exact.train()):
        images = case.tensor.clone().requires_grad_()
        scores = reward.score(images, case.prompts)
        if scores.requires_grad:
            torch.autograd.backward(scores.sum())
        trained = [name for name, module in reward.named_modules() if module.training]
        hold(not trained, f"in training mode: {', '.join(trained) or 'the reward itself'}")
        loose = [n for n, p in reward.named_parameters() if p.requires_grad or p.grad is not None]
        hold(not loose, f"parameters that need or have gradients: {', '.join(loose)}")


def gradients_reach_the_images(case: Case) -> None:
    """Finite and not zero at each of them, or none at all, as the record says."""
    images = case.tensor.clone().requires_grad_()
    scores = case.reward.score(images, case.prompts)
    says = case.reward.info.differentiable
    hold(
        scores.requires_grad == says,
        f"differentiable is {says}, but scores have {'no' if says else 'a'} gradient",
    )
    if not says:
        return
    (gradient,) = torch.autograd.grad(scores.sum(), images)
    hold(gradient.isfinite().all(), "gradients are not finite")
    lengths = gradient.flatten(1).norm(dim=1)
    hold((lengths > 0).all(), f"the gradients at the images have the lengths {show(lengths)}")


def gradients_are_slopes(case: Case) -> None:
    """Along the gradient and along a random direction, the score changes as the gradient says.

    In float64, and without the rounding to 8 bits: the gradient passes through it, a difference does not.
    """
    if not case.reward.info.differentiable:
        return

    def score(images: Tensor) -> Tensor:
        # `score_pixels` without its last step, which is to float32
        (pixels,) = case.exact.pixels([images])
        return case.exact._score(pixels, [case.prompts[0]] * len(images)).double().cpu()

    start = (0.3 + 0.4 * case.tensor[:1].double()).requires_grad_()
    (gradient,) = torch.autograd.grad(score(start).sum(), start)
    rms = gradient.square().mean().sqrt()
    seeded = torch.Generator().manual_seed(0)
    directions = {
        "its own": gradient / rms,
        "a random": torch.randn(start.shape, generator=seeded, dtype=torch.float64),
    }
    for name, direction in directions.items():
        slope = (gradient * direction).sum()
        steps = torch.tensor([sign * step for step in STEPS for sign in (1, -1)], dtype=torch.float64)
        with torch.no_grad():
            up, down = score(start + steps.view(-1, 1, 1, 1) * direction).view(-1, 2).T
        found = (up - down) / (2 * torch.tensor(STEPS, dtype=torch.float64))
        allowed = SLOPE_SHARE * max(slope.abs().item(), gradient.norm().item())
        text = f"along {name} direction the gradient is {slope:.4g}, finite steps give {show(found)}"
        hold(((found - slope).abs() <= allowed).any(), text)


def the_same_again(case: Case) -> None:
    """Bit by bit, with gradients or without; and nothing is left behind that bars gradients later."""
    state = torch.get_rng_state()
    odd = F.pad(case.tensor, (0, 1, 0, 0), mode="replicate")  # a size that none has seen
    with torch.inference_mode():
        inferred = case.reward.score(odd, case.prompts)
    with torch.no_grad():
        first, second = (case.reward.score(odd, case.prompts) for _ in range(2))
    plain = case.reward.score(odd, case.prompts).detach()
    for what, scores in (
        ("again", second),
        ("in inference mode", inferred),
        ("with gradients enabled", plain),
    ):
        hold(equal(scores, first), f"{what} the same images score {show(scores)}, not {show(first)}")
    if case.reward.info.differentiable:
        try:
            scores = case.reward.score(odd.clone().requires_grad_(), case.prompts)
            torch.autograd.backward(scores.sum())
        except RuntimeError as error:
            raise AssertionError(f"after a call in inference mode there are no gradients: {error}") from error
        case.near(scores, first, "images that need gradients score otherwise")
    hold(torch.equal(state, torch.get_rng_state()), "scoring draws random numbers")


def half_precision_stays_near(case: Case) -> None:
    """In bfloat16 scores move by a part of their spread, and by what bfloat16 cannot hold of them."""
    half = replace(case, reward=deepcopy(case.reward).to(torch.bfloat16))
    hold(half.scores.dtype == torch.float32, f"in bfloat16 scores are {half.scores.dtype}, expected float32")
    case.nearly(half.grid, case.grid, "scores in bfloat16")


def autocast_changes_nothing(case: Case) -> None:
    """In a training loop's autocast the reward keeps its own precision."""
    with torch.autocast(case.device.type, dtype=torch.bfloat16):
        scores = case.score(case.tensor, case.prompts)
    case.near(scores, case.scores, "scores inside autocast")


def its_state_is_all_of_it(case: Case) -> None:
    """A copy whose tensors were lost scores the same once they are read back, without running code."""
    for name, module in case.reward.named_modules():
        loose = [key for key, value in vars(module).items() if isinstance(value, Tensor)]
        hold(
            not loose, f"{name or 'the reward'} keeps {', '.join(loose)} outside its state: register a buffer"
        )
    copy, file = deepcopy(case.reward), io.BytesIO()
    torch.save(case.reward.state_dict(), file)
    with torch.no_grad():
        for tensor in copy.state_dict().values():
            tensor.zero_()
    file.seek(0)
    copy.load_state_dict(torch.load(file, weights_only=True))
    found = replace(case, reward=copy).scores
    hold(equal(found, case.scores), f"a copy scores {show(found)}, not {show(case.scores)}")


CHECKS: tuple[Check, ...] = (
    the_record_makes_sense,
    one_float32_score_an_image,
    small_pictures_are_scored_or_refused,
    what_is_no_image_is_refused,
    what_is_no_prompt_is_refused,
    a_picture_scores_as_its_tensor,
    every_mode_scores_as_its_rgb,
    a_score_is_of_its_image_alone,
    the_record_says_what_matters,
    any_text_is_a_prompt,
    what_is_cut_is_counted,
    nothing_in_it_is_trained,
    gradients_reach_the_images,
    gradients_are_slopes,
    the_same_again,
    half_precision_stays_near,
    autocast_changes_nothing,
    its_state_is_all_of_it,
)
"""All that is checked, from the plain to the subtle."""


def _refused(case: Case, images: Any, prompts: Any, what: str) -> None:
    try:
        case.score(images, prompts)
    except ValueError as error:
        text = str(error)
        hold("expected" in text and "\n" not in text, f"{what} is refused by: {text}")
    except Exception as error:
        raise AssertionError(f"{what} gives a {type(error).__name__}: {error}") from error
    else:
        raise AssertionError(f"{what} is scored, expected a ValueError")


def _usable(case: Case, scores: Tensor, what: str) -> None:
    """Finite; or NaN, which says that it cannot judge, of a reward that none can train on by gradients."""
    fine = scores.isfinite() | (scores.isnan() & (not case.reward.info.differentiable))
    hold(fine.all(), f"{what} are {show(scores)}, expected finite ones")
