"""DiffusionNFT: its loss by hand, its gradient, and that it learns."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from tcbench.errors import ConfigError
from textcraftor.algorithms.nft import NFTAlgorithm, _nft_loss
from textcraftor.config import TrainConfig
from textcraftor.diffusion.forward_process import ForwardProcess
from textcraftor.io.checkpoint import LOG, TrainFolder
from textcraftor.sources import Batch
from textcraftor.training import train

# inside diffusers
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

REWARDS = """
from rewards import Reward, RewardInfo, register

@register(RewardInfo("nft-red", uses_prompt=False, differentiable=False))
class Red(Reward):
    def _score(self, pixels, prompts):
        return (pixels[:, 0] - pixels[:, 1:].mean(1)).mean((1, 2)).detach()
"""
REWARD = "Red"
MakeAlgorithm = Callable[[TrainConfig], NFTAlgorithm]
MakeBatch = Callable[..., Batch]

PROMPTS = ["a cat", "a dog", "a hen", "a cow"]
CONFIG = {
    "steps": 4, "tuned_steps": 3, "eval_tuned_steps": 3, "guidance": 3.0, "algorithm": "nft", "batch": 8,
    "group": 4, "updates": 4, "lr": 1e-3, "every": 0, "save_every": 1,
}  # fmt: skip


def test_loss_equals_the_formula() -> None:
    random = np.random.default_rng(0)
    x0, now, old = (random.normal(size=(3, 2, 2, 2)) for _ in range(3))
    r = np.array([1.0, 0.25, 0.5])
    total = 0.0
    for row in range(3):
        for share, prediction in ((r[row], now[row]), (1 - r[row], 2 * old[row] - now[row])):
            error = prediction - x0[row]
            total += share * (error**2).mean() / np.abs(error).mean()
    ours = _nft_loss(*(torch.from_numpy(part) for part in (x0, now, old, r)))
    assert float(ours) == pytest.approx(total / 3, rel=1e-12)


def test_first_gradient_moves_predictions_towards_good_images_and_away_from_bad_ones() -> None:
    generator = torch.Generator().manual_seed(0)
    x0, old = (torch.randn(3, 4, 8, 8, generator=generator, dtype=torch.float64) for _ in range(2))
    now, r = old.clone().requires_grad_(), torch.tensor([1.0, 0.5, 0.2], dtype=torch.float64)
    (gradient,) = torch.autograd.grad(_nft_loss(x0, now, old, r), now)
    scale = (old - x0).abs().flatten(1).mean(1) * old[0].numel() * len(x0)
    expected = 2 * (2 * r - 1)[:, None, None, None] * (old - x0) / scale[:, None, None, None]
    torch.testing.assert_close(gradient, expected, rtol=1e-9, atol=1e-12)


def test_images_are_noised_by_the_forward_process_and_predicted_without_guidance(
    config_for: Callable[..., TrainConfig], algorithm_for: MakeAlgorithm, batch: MakeBatch
) -> None:
    algorithm, samples = algorithm_for(config_for(policy_steps=2)), batch(4, group=4).samples
    noised, scores, _ = algorithm.sample(samples, 0)
    assert len({int(part.t) for part in noised}) == 2
    assert scores.total.shape == (4,)
    part = noised[0]
    texts = [sample.text for sample in samples]
    with torch.no_grad():
        scheduler, c = part.rollout.scheduler, algorithm.trainable.encode(texts)
        hidden = c.embeds[len(texts) :]
        e = part.rollout.denoiser.unet(part.z, part.t, encoder_hidden_states=hidden).sample
        torch.testing.assert_close(
            part.old, ForwardProcess(scheduler).predict_x0(e, part.t, part.z), rtol=1e-4, atol=1e-5
        )
        signal = float(scheduler.alphas_cumprod[part.t])
        noise = (part.z - signal**0.5 * part.x0) / (1 - signal) ** 0.5
    assert float(noise.std()) == pytest.approx(1, abs=0.1)
    alone = algorithm.sample(samples[3:], 0)[0]
    torch.testing.assert_close(part.z[3:], alone[0].z, rtol=1e-4, atol=1e-4)
    chosen = [frozenset(int(p.t) for p in algorithm.sample(samples, update)[0]) for update in range(6)]
    assert len(set(chosen)) > 1


def test_resumed_runs_learn_the_same(config_for: Callable[..., TrainConfig], tmp_path: Path) -> None:
    weights = {}
    for name, starts in {"whole": [3], "parts": [1, 3]}.items():
        for updates in starts:
            train(config_for(updates=updates), tmp_path / name, device="cpu")
        newest = TrainFolder(tmp_path / name).newest()
        assert newest is not None
        weights[name] = load_file(newest.path / "text_encoder" / "model.safetensors")
    assert all(torch.equal(value, weights["parts"][key]) for key, value in weights["whole"].items())
    row = TrainFolder(tmp_path / "whole").rows(LOG)[-1]
    # 4 guided steps; 3 timesteps without guidance, predicted before and in training, and the gradient
    assert row["unet"] == 3 * 8 * (4 * 2 + 3 * 3)


def test_micro_batches_learn_the_same(
    config_for: Callable[..., TrainConfig], algorithm_for: MakeAlgorithm, batch: MakeBatch
) -> None:
    """With plain gradient steps, which show the scale of gradients."""
    weights = []
    for size in (0, 3):
        algorithm = algorithm_for(config_for(policy_updates=2))
        algorithm.micro_batch = size
        algorithm.step(batch(8, group=4))
        weights.append([p.detach().clone() for p in algorithm.trainable.trained_parameters().values()])
    start = algorithm_for(config_for()).trainable.trained_parameters().values()
    moved = max(float((a - b.detach()).abs().max()) for a, b in zip(weights[0], start, strict=True))
    for together, apart in zip(*weights, strict=True):
        torch.testing.assert_close(together, apart, rtol=0, atol=0.01 * moved)


def test_predictions_move_towards_images_with_higher_rewards(
    config_for: Callable[..., TrainConfig], algorithm_for: MakeAlgorithm, batch: MakeBatch
) -> None:
    algorithm, samples = algorithm_for(config_for(policy_updates=1)), batch(8, group=4)
    noised, scores, _ = algorithm.sample(samples.samples, 0)
    algorithm.step(samples)
    gains = torch.zeros(8)
    with torch.no_grad():
        for part in noised:
            c = algorithm.trainable.encode([sample.text for sample in part.samples])
            e = part.rollout.output(part.z, part.t, c.of_prompts(8))
            now = ForwardProcess(part.rollout.scheduler).predict_x0(e, part.t, part.z)
            gains += ((part.old - part.x0).square() - (now - part.x0).square()).flatten(1).mean(1)
    groups = scores.total.view(2, 4)
    advantage = (groups - groups.mean(dim=1, keepdim=True)).flatten()
    assert float(gains @ advantage) > 0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"eta": 1.0}, "other algorithms require eta = 0"),
        ({"group": 1}, '"nft" compares samples of one prompt'),
        ({"sampler": "euler"}, 'set schedule.sampler = "ddim"'),
    ],
)
def test_conflicting_settings_are_refused(
    config_for: Callable[..., TrainConfig], changes: dict[str, object], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        config_for(**changes)


def test_more_policy_updates_than_timesteps_are_refused(
    config_for: Callable[..., TrainConfig], tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match="policy_updates is 3, but an update trains on 2 timesteps"):
        train(config_for(policy_updates=3, policy_steps=2), tmp_path / "out", device="cpu")
