"""HPSv3 against the official recipe, computed with transformers' processor and model."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

import rewards
from rewards.base import Reward
from rewards.models.hpsv3 import AFTER_IMAGE, Hpsv3, _patchify
from rewards.preprocess import PROFILES, preprocess, to_tensor
from rewards.verification.references import hpsv3 as reference
from rewards.verification.references import load_reference
from rewards.verification.tiny.checkpoints import tiny_record
from tcbench.errors import MismatchError

Tiny = Callable[[str], Reward]
Files = Callable[[str], Mapping[str, Path]]

LONG = "a photograph of a {quiet} harbour at dawn; boats, gulls, naïve café signs, 猫, " * 12


def picture(height: int, width: int, seed: int = 0) -> Image.Image:
    coarse = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)


def test_scores_match_the_official_recipe(tiny: Tiny, tiny_files: Files) -> None:
    images = [picture(*size) for size in ((100, 72), (64, 64), (300, 517), (30, 400), (640, 640))]
    prompts = ["", "a large red circle", LONG, "two cats\n\non a <b>roof</b> ", "a small blue square"]
    ours = tiny("hpsv3").score(images, prompts)
    files = tiny_files("hpsv3")
    expected = torch.tensor(
        [load_reference("hpsv3")(files, *pair) for pair in zip(images, prompts, strict=True)]
    )
    assert (ours - expected).abs().max() <= 1e-4 * expected.std()


def test_patches_match_the_official_processor() -> None:
    image = picture(90, 160).resize((532, 392), Image.Resampling.NEAREST)
    config = Qwen2VLImageProcessorPil()
    expected = config(images=[image], return_tensors="pt")
    config.spatial_merge_size = config.merge_size  # its name in a model's configuration
    pixels = preprocess(to_tensor(image)[None], PROFILES["clip-native"])  # the image already has this size
    patches, grid = _patchify(torch.cat([pixels, pixels.flip(-1)]), config)
    assert grid.tolist() == expected["image_grid_thw"].tolist() * 2
    torch.testing.assert_close(patches[: len(patches) // 2], expected["pixel_values"], rtol=0, atol=1e-5)


def test_instruction_matches_the_official_text() -> None:
    # With the missing colon, and the trailing blanks that an editor might remove.
    text = AFTER_IMAGE.removeprefix("<|vision_end|>") + "\n\nEND\n"
    known = "f6ee57479d4e9eee76b49c00dc962e1e696a5a2b3cc32cebd9b1fa76fe27502c"
    assert hashlib.sha256(text.encode()).hexdigest() == known
    assert reference.MESSAGE.replace("{prompt}", "{text_prompt}") == text


def test_prompts_of_different_lengths_can_be_batched(tiny: Tiny) -> None:
    reward, image = tiny("hpsv3"), picture(64, 64)
    prompts = ["", LONG, "a dog"]
    together = reward.score([image] * 3, prompts)
    alone = torch.cat([reward.score([image], [prompt]) for prompt in prompts])
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-5)


def test_prompts_are_not_cut(tiny: Tiny) -> None:
    reward, image = tiny("hpsv3"), picture(64, 64)
    assert reward.truncated([LONG * 20]) == 0
    scores = reward.score([image, image], [LONG + "red", LONG + "blue"])
    assert (scores[0] - scores[1]).abs() > 1e-5


def test_images_of_several_sizes_can_be_scored_together(tiny: Tiny) -> None:
    reward, prompts = tiny("hpsv3"), ["a", "b", "c"]
    images = [picture(64, 64), picture(64, 128), picture(64, 64, seed=1)]
    alone = torch.cat([reward.score([i], [p]) for i, p in zip(images, prompts, strict=True)])
    torch.testing.assert_close(reward.score(images, prompts), alone, rtol=0, atol=1e-5)


def test_head_stays_in_float32(tiny_files: Files) -> None:
    files = tiny_files("hpsv3")
    reward = rewards.load(tiny_record(rewards.info("hpsv3")), weights=files, dtype="bfloat16")
    assert isinstance(reward, Hpsv3)
    assert reward.dtype == torch.bfloat16
    assert torch.equal(reward.rm_head[0].weight, load_file(files["checkpoint"])["rm_head.0.weight"])
    score = reward.score([picture(64, 64)], ["a dog"])
    assert score.item() != score.bfloat16().item()


@pytest.mark.parametrize("token", ["<|Reward|>", "<|image_pad|>", "<|video_pad|>"])
def test_prompt_with_special_token_is_refused(tiny: Tiny, token: str) -> None:
    with pytest.raises(ValueError, match=r"a prompt for hpsv3 contains <\|\w+\|>.* remove it"):
        tiny("hpsv3").score([picture(64, 64)], [f"a dog {token}"])


def test_too_elongated_image_is_refused(tiny: Tiny) -> None:
    with pytest.raises(ValueError, match=r"2 x 402 pixels; .* a ratio up to 200: crop it"):
        tiny("hpsv3").score([Image.new("RGB", (402, 2))], ["a line"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: state.pop("visual.merger.ln_q.bias"), "visual.merger.ln_q.bias: missing"),
        (lambda state: state.update({"model.extra": torch.zeros(1)}), "extra: not expected"),
        (lambda state: state.update({"rm_head.5.bias": torch.zeros(4)}), r"shape \(4,\), not \(2,\)"),
    ],
)
def test_checkpoint_that_does_not_fit_is_refused(
    tiny_files: Files,
    tmp_path: Path,
    change: Callable[[dict[str, torch.Tensor]], object],
    message: str,
) -> None:
    files = dict(tiny_files("hpsv3"))
    state = load_file(files["checkpoint"])
    change(state)
    files["checkpoint"] = tmp_path / "other.safetensors"
    save_file(state, files["checkpoint"])
    with pytest.raises(MismatchError, match=message):
        rewards.load(tiny_record(rewards.info("hpsv3")), weights=files)
