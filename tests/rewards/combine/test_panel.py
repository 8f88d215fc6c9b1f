"""A panel gives the scores and gradients of single rewards and computes shared parts once."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

import rewards
from rewards.backbones import towers
from rewards.base import Reward
from rewards.combine.panel import Panel
from rewards.verification.tiny.checkpoints import tiny_record

PROMPTS = ["a red circle", "a blue star", "a red circle"]
CLIPS = ("aesthetic-v1", "aesthetic-v2", "clip")
"""Three rewards on one CLIP."""

Files = Callable[[str], Mapping[str, Path]]


@pytest.fixture(scope="module")
def images() -> Tensor:
    rng = np.random.default_rng(3)
    coarse = rng.integers(0, 256, (3, 6, 8, 3), dtype=np.uint8)
    shown = [np.asarray(Image.fromarray(array).resize((100, 72))) for array in coarse]
    return torch.from_numpy(np.stack(shown)).permute(0, 3, 1, 2).float() / 255


@pytest.fixture
def panel_of(tiny_files: Files) -> Callable[..., Panel]:
    def make(*names: str, **options: Any) -> Panel:
        weights = {name: dict(tiny_files(name)) for name in names}
        backbone = next((files["backbone"] for files in weights.values() if "backbone" in files), None)
        for name in CLIPS:
            if name in weights:
                weights[name]["backbone"] = backbone
        return Panel([tiny_record(rewards.info(name)) for name in names], weights=weights, **options)

    return make


def counted(panel: Panel, monkeypatch: pytest.MonkeyPatch) -> dict[str, list[int]]:
    """Number of images or prompts in each call of a tower."""
    calls: dict[str, list[int]] = {"images": [], "prompts": []}
    for module in panel.modules():
        if isinstance(module, towers.Towers):
            for kind in calls:
                single = getattr(module, f"_embed_{kind}")

                def spy(given: Any, single: Any = single, kind: str = kind) -> Tensor:
                    calls[kind].append(len(given))
                    result: Tensor = single(given)
                    return result

                monkeypatch.setattr(module, f"_embed_{kind}", spy)
    return calls


@pytest.mark.parametrize("offload", [False, True])
def test_panel_scores_equal_single_rewards(
    panel_of: Callable[..., Panel], tiny: Callable[[str], Reward], images: Tensor, offload: bool
) -> None:
    names = ("aesthetic-v2", "pickscore", "hpsv2.1", "imagereward", "world-oracle")
    panel = panel_of(*names, offload=offload)
    assert panel.names == names
    panel_scores = panel.score(images, PROMPTS)
    assert list(panel_scores) == list(names)
    for name in names:
        torch.testing.assert_close(
            panel_scores[name], tiny(name).score(images, PROMPTS), rtol=1e-5, atol=1e-5, equal_nan=True
        )


def test_panel_gradients_equal_single_rewards(
    panel_of: Callable[..., Panel], tiny: Callable[[str], Reward], images: Tensor
) -> None:
    leaf = images.clone().requires_grad_()
    sum(scores.sum() for scores in panel_of("hpsv2.1", "pickscore").score(leaf, PROMPTS).values()).backward()
    expected = torch.zeros_like(images)
    for name in ("hpsv2.1", "pickscore"):
        single = images.clone().requires_grad_()
        tiny(name).score(single, PROMPTS).sum().backward()
        assert single.grad is not None
        expected += single.grad
    torch.testing.assert_close(leaf.grad, expected, rtol=1e-4, atol=1e-7)


def test_shared_tower_embeds_each_image_once(
    panel_of: Callable[..., Panel], images: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    panel = panel_of(*CLIPS)
    assert len([m for m in panel.modules() if isinstance(m, towers.Towers)]) == 1
    calls = counted(panel, monkeypatch)
    leaf = images.clone().requires_grad_()
    panel.score(leaf, PROMPTS)["aesthetic-v1"].sum().backward()
    assert calls["images"] == [3]
    panel.score(images, PROMPTS)
    assert calls["images"] == [3, 3]  # images are not cached between passes


def test_prompts_are_embedded_once_for_all_calls(
    panel_of: Callable[..., Panel], images: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    panel = panel_of("clip")
    calls = counted(panel, monkeypatch)
    with torch.inference_mode():
        first = panel.score(images, PROMPTS)["clip"]
    assert calls["prompts"] == [2]
    leaf = images.clone().requires_grad_()
    again = panel.score(leaf, PROMPTS)["clip"]  # with gradients, from embeddings cached in inference mode
    again.sum().backward()
    torch.testing.assert_close(again.detach(), first)
    panel.score(images[:1], ["a third"])
    assert calls["prompts"] == [2, 1]
    panel.to(torch.float64)
    panel.score(images[:1], ["a third"])
    assert calls["prompts"] == [2, 1, 1]  # embedded again in another precision


def test_least_recently_used_prompts_are_dropped(
    panel_of: Callable[..., Panel], images: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(towers, "CACHED_PROMPTS", 2)
    panel = panel_of("clip")
    calls = counted(panel, monkeypatch)
    for prompt, read in (("a", 1), ("b", 1), ("a", 0), ("c", 1), ("a", 0), ("b", 1)):
        before = sum(calls["prompts"])
        panel.score(images[:1], [prompt])
        assert sum(calls["prompts"]) - before == read, prompt
    three = panel.score(images, ["d", "e", "f"])["clip"]  # more prompts than the cache holds
    assert three.shape == (3,)


def test_single_reward_caches_nothing(tiny: Callable[[str], Reward], images: Tensor) -> None:
    reward: Any = tiny("clip")
    reward.score(images, PROMPTS)
    assert reward.towers._prompt_cache is None
    assert reward.towers._image_cache is None


def test_offloaded_panel_refuses_backward(panel_of: Callable[..., Panel], images: Tensor) -> None:
    panel = panel_of("clip", offload=True)
    with pytest.raises(ValueError, match=r"has no gradients by backward.*RewardMix\.gradient"):
        panel.score(images.clone().requires_grad_(), PROMPTS)
    with torch.no_grad():
        assert panel.score(images.clone().requires_grad_(), PROMPTS)["clip"].shape == (3,)


def test_towers_of_one_checkpoint_are_shared(tiny_files: Files) -> None:
    """For every layout of a checkpoint."""
    for pair in (("hpsv2", "hpsv2-antialias"), ("siglip", "siglip-again"), ("pickscore", "pickscore-again")):
        records = [replace(tiny_record(rewards.info(pair[0])), name=name) for name in pair]
        panel = Panel(records, weights=dict.fromkeys(pair, tiny_files(pair[0])))
        first, second = (panel[name].towers for name in pair)
        assert first is second


def test_offloaded_panel_caches_prompts(
    panel_of: Callable[..., Panel], images: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    panel = panel_of("pickscore", offload=True)
    calls = counted(panel, monkeypatch)
    with torch.no_grad():
        first = panel.score(images, PROMPTS)
        second = panel.score(images, PROMPTS)
    assert calls["prompts"] == [2]
    assert torch.equal(first["pickscore"], second["pickscore"])


def test_change_of_precision_clears_cached_prompts(panel_of: Callable[..., Panel], images: Tensor) -> None:
    panel = panel_of("pickscore")
    with torch.no_grad():
        panel.score(images, PROMPTS)
        half = panel.to(torch.bfloat16).score(images, PROMPTS)
        fresh = panel_of("pickscore").to(torch.bfloat16).score(images, PROMPTS)
    assert torch.equal(half["pickscore"], fresh["pickscore"])


def test_panel_refuses_no_reward_and_duplicates() -> None:
    with pytest.raises(ValueError, match="has no reward; name at least one"):
        Panel([])
    with pytest.raises(ValueError, match="has world-clip twice"):
        Panel(["world-clip", "world-clip"])
