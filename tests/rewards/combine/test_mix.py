"""Totals, gradients and calibration of reward mixes."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import rewards
from rewards import Reward, RewardInfo, UnknownName
from rewards.base import score_id
from rewards.combine.calibration import WORLD_CALIBRATION, Calibration, RewardStatistics
from rewards.combine.mix import RewardMix
from rewards.combine.panel import Panel
from rewards.combine.terms import MixTerm, parse_mix
from rewards.world.training import data
from tcbench.errors import Problems

NAMES = ("world-clip", "world-aesthetic", "world-hps")


@pytest.fixture(scope="module")
def batch() -> tuple[Tensor, list[str]]:
    rng = np.random.default_rng(1)
    scenes = data.random_scenes(rng, 3)
    return data.render_batch(scenes), data.caption_batch(rng, scenes)


@pytest.fixture(scope="module")
def panel() -> Panel:
    return Panel(NAMES)


def test_mix_text_is_parsed() -> None:
    assert parse_mix("aesthetic-v2=1, pickscore=0.5,hpsv2=100@0.3") == {
        "aesthetic-v2": MixTerm(1.0),
        "pickscore": MixTerm(0.5),
        "hpsv2": MixTerm(100.0, cap=0.3),
    }


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "reward mix is empty"),
        ("clip", "invalid term 'clip'"),
        ("clip=", "invalid term 'clip='"),
        ("clip=much", "invalid term 'clip=much'"),
        ("clip=nan", "invalid term 'clip=nan'"),
        ("clip=1@", "invalid term 'clip=1@'"),
        ("clip=1@nan", "invalid term 'clip=1@nan'"),
        ("clip=1@x", "invalid term 'clip=1@x'"),
        ("clip=1,clip=2", "names clip twice"),
        ("clip=0", "clip has the weight 0"),
        ("clip=1,siglip=0.0@0.3", "siglip has the weight 0"),
    ],
)
def test_invalid_mix_text_is_refused(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_mix(text)


def test_unknown_reward_suggests_close_matches() -> None:
    with pytest.raises(UnknownName, match="did you mean pickscore"):
        parse_mix("pikscore=1")


def test_total_is_the_weighted_sum(panel: Panel, batch: tuple[Tensor, list[str]]) -> None:
    terms = {
        "world-clip": MixTerm(0.1),
        "world-aesthetic": MixTerm(2.0, mean=6.0, std=1.5),
        "world-hps": MixTerm(10.0),
    }
    result = RewardMix(panel, terms).score(*batch)
    single = panel.score(*batch)
    for name in NAMES:
        torch.testing.assert_close(result.scores[name], single[name])
    expected = (
        0.1 * single["world-clip"]
        + 2.0 * (single["world-aesthetic"] - 6.0) / 1.5
        + 10.0 * single["world-hps"]
    )
    torch.testing.assert_close(result.total, expected)
    torch.testing.assert_close(torch.stack(list(result.values.values())).sum(dim=0), expected)


def test_capped_reward_adds_no_value_and_no_gradient(panel: Panel, batch: tuple[Tensor, list[str]]) -> None:
    scores = panel.score(*batch)["world-aesthetic"].sort()
    cap = scores.values[1].item() - 1e-3  # below two of the three scores
    terms = {name: MixTerm(0.0) for name in NAMES} | {"world-aesthetic": MixTerm(1.0, cap=cap)}
    result = RewardMix(panel, terms).gradient(*batch)
    assert result.total[scores.indices[1:]].tolist() == pytest.approx([cap, cap])
    pulls = result.norms["world-aesthetic"][scores.indices]
    assert pulls[0] > 0
    assert pulls[1:].tolist() == [0, 0]


@pytest.mark.parametrize("offload", [False, True])
def test_gradient_equals_backward(offload: bool, batch: tuple[Tensor, list[str]]) -> None:
    terms = {"world-clip": MixTerm(0.1), "world-aesthetic": MixTerm(1.0), "world-hps": MixTerm(5.0)}
    mix = RewardMix(Panel(NAMES, offload=offload), terms)
    result = mix.gradient(*batch)
    leaf = batch[0].clone().requires_grad_()
    RewardMix(Panel(NAMES), terms).score(leaf, batch[1]).total.sum().backward()
    assert leaf.grad is not None
    wrong = (result.gradient - leaf.grad).flatten(1).norm(dim=1) / leaf.grad.flatten(1).norm(dim=1)
    assert wrong.max() < 1e-5  # single elements may be near zero, where sums of float32 cancel
    assert not result.total.requires_grad
    single = batch[0].clone().requires_grad_()
    (5.0 * mix.panel["world-hps"].score(single, batch[1])).sum().backward()
    assert single.grad is not None
    torch.testing.assert_close(
        result.norms["world-hps"], single.grad.flatten(1).norm(dim=1), rtol=1e-4, atol=1e-7
    )


def test_balanced_gradients_have_the_lengths_of_the_weights(
    panel: Panel, batch: tuple[Tensor, list[str]]
) -> None:
    scores = panel.score(*batch)["world-aesthetic"].sort()
    cap = scores.values[1].item() - 1e-3  # below two of the three scores
    for name in NAMES:
        alone = {other: MixTerm(1e-9) for other in NAMES} | {name: MixTerm(-3.0, std=7.0)}
        plain = RewardMix(panel, alone).gradient(*batch)
        result = RewardMix(panel, alone).gradient(*batch, balance=True)
        lengths = result.gradient.flatten(1).norm(dim=1)
        torch.testing.assert_close(lengths, torch.full_like(lengths, 3.0), rtol=1e-4, atol=0)
        cosine = torch.nn.functional.cosine_similarity(plain.gradient.flatten(1), result.gradient.flatten(1))
        torch.testing.assert_close(cosine, torch.ones_like(cosine), rtol=1e-4, atol=0)
        assert torch.equal(result.norms[name], plain.norms[name])
        assert torch.equal(result.total, plain.total)
    capped = {name: MixTerm(0.0) for name in NAMES} | {"world-aesthetic": MixTerm(1.0, cap=cap)}
    gradient = RewardMix(panel, capped).gradient(*batch, balance=True).gradient
    lengths = gradient[scores.indices].flatten(1).norm(dim=1)
    assert lengths.tolist() == pytest.approx([1, 0, 0], rel=1e-4)


def test_factors_scale_gradients_and_not_scores(panel: Panel, batch: tuple[Tensor, list[str]]) -> None:
    terms = {"world-clip": MixTerm(0.1), "world-aesthetic": MixTerm(1.0), "world-hps": MixTerm(5.0)}
    mix = RewardMix(panel, terms)
    changed = mix.gradient(*batch, factors={"world-clip": 3.0, "world-hps": 0.0})
    other = {"world-clip": MixTerm(0.3), "world-aesthetic": MixTerm(1.0), "world-hps": MixTerm(0.0)}
    expected = RewardMix(panel, other).gradient(*batch)
    torch.testing.assert_close(changed.gradient, expected.gradient, rtol=1e-4, atol=1e-7)
    assert torch.equal(changed.total, mix.gradient(*batch).total)


def test_reward_without_gradient_is_named(batch: tuple[Tensor, list[str]]) -> None:
    mix = RewardMix(
        Panel(["world-clip", "world-rule"]), {"world-clip": MixTerm(1.0), "world-rule": MixTerm(1.0)}
    )
    assert mix.score(*batch).total.isfinite().all()
    with pytest.raises(ValueError, match="no gradient: world-rule"):
        mix.gradient(*batch)


def test_several_problems_of_a_mix_are_reported_together() -> None:
    with pytest.raises(Problems) as caught:
        parse_mix("clip=0,pikscore=1,hpsv2")
    assert len(caught.value.errors) == 3


class Toy(Reward):
    """A user's reward, of the kind in its record's options."""

    def _score(self, pixels: Tensor, prompts: Sequence[str]) -> Any:
        brightness = pixels.mean((1, 2, 3))
        kinds: dict[str, Callable[[], Any]] = {
            "detaches": lambda: brightness.detach(),
            "uses numpy": lambda: torch.from_numpy(brightness.numpy()),
            "other leaf": lambda: torch.ones(len(pixels), requires_grad=True) * 2,
            "fails": lambda: {}["missing"],
            "returns a list": lambda: [0.0] * len(pixels),
            "cannot judge": lambda: brightness.new_full((len(pixels),), math.nan),
        }
        return kinds[str(self.info.options["kind"])]()


def toy_mix(kind: str) -> RewardMix:
    record = RewardInfo("toy", entry=f"{__name__}:Toy", options={"kind": kind})
    panel = Panel(["world-aesthetic", record])
    return RewardMix(panel, {name: MixTerm(1.0) for name in panel.names})


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("detaches", r"toy returned scores that do not depend on the images \(prompt '.+'\); compute them"),
        ("other leaf", r"toy returned scores that do not depend on the images \(prompt '.+'\); compute them"),
        ("uses numpy", r"toy failed on a batch that begins with the prompt '.+': RuntimeError: .*numpy"),
        ("fails", r"toy failed on a batch that begins with the prompt '.+': KeyError: 'missing'"),
        ("returns a list", r"toy returned no tensor for 3 images; expected \(3,\)"),
    ],
)
def test_a_reward_that_fails_is_named_with_the_prompt(
    kind: str, message: str, batch: tuple[Tensor, list[str]]
) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        toy_mix(kind).gradient(*batch)
    assert "\n" not in str(caught.value)


def test_a_reward_that_cannot_judge_a_batch_has_no_gradient(batch: tuple[Tensor, list[str]]) -> None:
    result = toy_mix("cannot judge").gradient(*batch)
    assert result.norms["toy"].tolist() == [0, 0, 0]
    assert result.scores["toy"].isnan().all()
    assert result.norms["world-aesthetic"].min() > 0


def test_terms_must_match_the_panel(panel: Panel) -> None:
    with pytest.raises(
        ValueError, match="the mix has the rewards world-clip, the panel has world-clip, world-aesthetic"
    ):
        RewardMix(panel, {"world-clip": MixTerm(1.0)})


def test_a_term_has_no_cap_by_default() -> None:
    assert math.isinf(MixTerm(1.0).cap)


def test_calibration_standardises_scores(panel: Panel, batch: tuple[Tensor, list[str]]) -> None:
    measured = {name: RewardStatistics(1.5, 0.25, 100, panel[name].score_id) for name in NAMES}
    calibration = Calibration(measured, "world", "5" * 64, "micro", "6" * 12)
    terms = {name: MixTerm(2.0) for name in NAMES}
    mix = RewardMix(panel, terms, calibration).score(*batch)
    for name in NAMES:
        torch.testing.assert_close(mix.values[name], 2 * (mix.scores[name] - 1.5) / 0.25)


def test_calibration_of_another_version_or_without_the_reward_is_refused(panel: Panel) -> None:
    terms = dict.fromkeys(NAMES, MixTerm(1.0))
    old = {name: RewardStatistics(0, 1, 100, "0" * 12) for name in NAMES}
    with pytest.raises(ValueError, match="calibration of world-clip has the score id 0000"):
        RewardMix(panel, terms, Calibration(old, "world", "5" * 64, "micro", "6" * 12))
    with pytest.raises(ValueError, match="the calibration on world has no world-clip"):
        RewardMix(panel, terms, Calibration({}, "world", "5" * 64, "micro", "6" * 12))


def test_shipped_calibration_matches_shipped_rewards() -> None:
    calibration = Calibration.read(WORLD_CALIBRATION)
    for name, measured in calibration.rewards.items():
        assert measured.score_id == score_id(rewards.info(name)), f"{name}: calibrate again"
        assert measured.count >= 400
        assert measured.std > 0


def test_calibration_round_trip(tmp_path: Path) -> None:
    calibration = Calibration(
        {"a": RewardStatistics(1.0, 2.0, 100, "0" * 12)},
        "world",
        "5" * 64,
        "micro",
        "6" * 12,
        ({"device": "cpu"},),
    )
    calibration.write(tmp_path / "calibration.json")
    assert Calibration.read(tmp_path / "calibration.json") == calibration
    (tmp_path / "calibration.json").write_text("{}", encoding="utf-8")
    with pytest.raises(ValueError, match=r"calibration\.json is not a calibration file"):
        Calibration.read(tmp_path / "calibration.json")
