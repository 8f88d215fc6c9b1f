"""MPS against the official recipe in `rewards.verification.references.mps`."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor, nn

import rewards
from rewards.backbones.tokens import OpenClipTokenizer
from rewards.base import Reward
from rewards.models.mps import CONDITION, Mps, _visible_tokens
from rewards.verification.references import load_reference
from rewards.verification.references import mps as reference
from rewards.verification.tiny.checkpoints import tiny_record
from tcbench.errors import MismatchError

Tiny = Callable[[str], Reward]
Files = Callable[[str], Mapping[str, Path]]

PROMPTS = ["a cat", "", "QUARTZ & 1984", "two red birds on a wire, " * 8]

LAYER = (
    *(f"0.fn.{key}" for key in ("norm.weight", "norm.bias", "to_q.weight", "to_kv.weight", "to_out.weight")),
    *(f"0.fn.ff.{number}.weight" for number in (0, 2)),
    *(f"1.fn.{key}" for key in ("norm.weight", "norm.bias", "rotary_emb.inv_freq")),
    *(f"1.fn.{key}.weight" for key in ("fused_attn_ff_proj", "attn_out", "ff_out.1")),
)
"""Keys of a layer of the official cross-attention."""


def picture(width: int, height: int) -> Image.Image:
    coarse = np.random.default_rng(width).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)


def load(files: Mapping[str, Path], checkpoint: Path) -> Reward:
    return rewards.load(tiny_record(rewards.info("mps")), weights={**files, "checkpoint": checkpoint})


def official_state(files: Mapping[str, Path]) -> dict[str, Tensor]:
    """State dict of the official module with the version of transformers that it was written for."""
    state = {key.removeprefix("mps."): value for key, value in load_file(files["checkpoint"]).items()}
    state["model.text_model.embeddings.position_ids"] = torch.arange(77)[None]
    state["model.vision_model.embeddings.position_ids"] = torch.arange(17)[None]
    return state


def test_scores_match_the_official_recipe(tiny: Tiny, tiny_files: Files) -> None:
    files = tiny_files("mps")
    pictures = [picture(300, 241), picture(101, 256), picture(224, 224), picture(64, 64)]
    scores = torch.stack([tiny("mps").score([image] * len(PROMPTS), PROMPTS) for image in pictures])
    expected = torch.tensor(
        [[load_reference("mps")(files, image, text) for text in PROMPTS] for image in pictures]
    )
    spread = expected.max() - expected.min()
    assert (scores - expected).abs().max() <= 1e-4 * spread


def test_mask_depends_on_each_prompt_alone() -> None:
    condition = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    prompt = torch.tensor([[10.0, 0.0], [0.0, 3.1], [2.9, 0.0], [-9.0, -9.0]])
    batch = torch.stack([prompt, prompt / 100])
    assert _visible_tokens(batch, condition).tolist() == [[True, True, False, False]] * 2


def test_image_attends_only_to_tokens_near_the_condition(tiny: Tiny) -> None:
    reward = tiny("mps")
    assert isinstance(reward, Mps)
    assert reward.tokenizer is not None
    text = reward.network.embed_text(reward.tokenizer(PROMPTS[2:3]).ids)
    visible = _visible_tokens(text, reward.condition)
    assert 0 < visible.sum() < 77
    pixels = torch.randn(1, 3, 224, 224)
    seen = reward.network.embed_image(pixels, text, visible)
    hidden = torch.where(visible[..., None], text, text + 1)
    shown = torch.where(visible[..., None], text + 1, text)
    torch.testing.assert_close(reward.network.embed_image(pixels, hidden, visible), seen)
    assert not torch.allclose(reward.network.embed_image(pixels, shown, visible), seen, atol=1e-3)


def test_condition_is_not_truncated() -> None:
    assert CONDITION == reference.OVERALL
    assert OpenClipTokenizer().lengths([CONDITION]) == [47]


def test_truncated_prompts_are_counted(tiny: Tiny) -> None:
    assert tiny("mps").truncated(PROMPTS) == 1


def test_keys_match_the_official_module(tiny: Tiny) -> None:
    reward = tiny("mps")
    assert isinstance(reward, Mps)
    keys = [key for key in reward.network.state_dict() if not key.startswith("model.")]
    assert sorted(keys) == sorted(f"cross_model.layers.{i}.{key}" for i in range(4) for key in LAYER)


def test_official_state_dict_is_read(tiny: Tiny, tiny_files: Files, tmp_path: Path) -> None:
    files = tiny_files("mps")
    torch.save(official_state(files), tmp_path / "mps.pth")
    images = [picture(64, 64)]
    scores = load(files, tmp_path / "mps.pth").score(images, PROMPTS[:1])
    assert scores.equal(tiny("mps").score(images, PROMPTS[:1]))


def test_state_without_cross_attention_is_refused(tiny_files: Files, tmp_path: Path) -> None:
    files = tiny_files("mps")
    state = {key: value for key, value in official_state(files).items() if key.startswith("model.")}
    torch.save(state, tmp_path / "clip.pth")
    with pytest.raises(MismatchError, match=r"cross_model\.layers\.0\.0\.fn\.ff\.0\.weight: missing"):
        load(files, tmp_path / "clip.pth")


class Trap(nn.Linear):
    """A module that leaves a trace if it is unpickled."""

    trace: Path

    def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
        return Path.touch, (str(self.trace),)  # type: ignore[return-value]


def test_pickled_official_module_is_refused_without_running_it(tiny_files: Files, tmp_path: Path) -> None:
    module = Trap(1, 1)
    module.trace = tmp_path / "trace"
    torch.save(module, tmp_path / "MPS_overall_checkpoint.pth")
    with pytest.raises(MismatchError, match=r"is a pickled module, .*model\.safetensors of RE-N-Y/mpsv1"):
        load(tiny_files("mps"), tmp_path / "MPS_overall_checkpoint.pth")
    assert not module.trace.exists()


def test_damaged_checkpoint_is_refused(tiny_files: Files, tmp_path: Path) -> None:
    files = tiny_files("mps")
    whole = tmp_path / "whole.pth"
    torch.save(official_state(files), whole)
    torn = tmp_path / "torn.pth"
    shutil.copy(whole, torn)
    with torn.open("r+b") as file:
        file.truncate(whole.stat().st_size // 2)
    with pytest.raises(MismatchError, match="fetch it again"):
        load(files, torn)
