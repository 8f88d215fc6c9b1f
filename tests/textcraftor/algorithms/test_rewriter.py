"""A prompt rewriter trained on rewards: probabilities, loss by hand, and that it learns."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from accelerate import Accelerator

from benchmarks.execution import execute_plan
from benchmarks.planning import Request, plan_run
from benchmarks.systems import System
from leaderboards.run_state import RunState
from rewards.combine.mix import RewardMix
from rewards.combine.panel import Panel
from rewards.combine.terms import MixTerm
from tcbench.errors import ConfigError
from tcbench.files import read_lines
from tcbench.progress import Silent
from textcraftor.algorithms.base import ClippedOptimiser
from textcraftor.algorithms.latent_scores import LatentScorer
from textcraftor.algorithms.rewriter import RewriterAlgorithm, RewriterPolicy
from textcraftor.algorithms.rollouts import RolloutStart
from textcraftor.config import TrainConfig, make_config
from textcraftor.diffusion.loading import load_pipeline
from textcraftor.diffusion.sampling import Denoiser
from textcraftor.io.checkpoint import LOG, TrainFolder
from textcraftor.rewriters import REWRITES_FILE, Rewriter, RewriterModel, Rewrites
from textcraftor.sources import Batch, PromptSource, SampleOrder
from textcraftor.training import train

# inside diffusers
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

PROMPTS = ["a red circle on a white backdrop", "a large blue star", "a green ring on the left", "a star"]
SHORT = ["a b", "c", "d e", "f"]
"""Prompts short enough that the tiny pipeline, which reads 16 letters, reads the appended words too."""

REWARDS = """
from rewards import Reward, RewardInfo, register

@register(RewardInfo("rewriting-bright", uses_prompt=False, differentiable=False))
class Bright(Reward):
    def _score(self, pixels, prompts):
        return pixels.mean((1, 2, 3)).detach()
"""
REWARD = "Bright"
CONFIG = {
    "steps": 2, "tuned_steps": 2, "eval_tuned_steps": 2, "guidance": 3.0, "algorithm": "rewriting",
    "parts": ("rewriter",), "rewriter": "world-extend", "batch": 8, "group": 4, "updates": 2, "lr": 1e-3,
    "ratio_clip": 0.2, "drift_penalty": 0.1, "every": 0, "save_every": 1,
}  # fmt: skip


def algorithm_for(pipeline: Path, config: TrainConfig, toys: Path, lr: float = 0.1) -> RewriterAlgorithm:
    pipe = load_pipeline(pipeline, device="cpu", dtype="float32", sampler="ddim")
    mix = RewardMix(Panel([f"{toys}:Bright"]), {f"{toys}:Bright": MixTerm(1.0)})
    policy = RewriterPolicy(pipe, config.trainable.rewriter, guided=True)
    parameters = list(policy.trained_parameters().values())
    optimiser = torch.optim.AdamW(parameters, lr=lr) if lr < 0.1 else torch.optim.SGD(parameters, lr=lr)
    return RewriterAlgorithm(
        policy,
        RolloutStart(Denoiser(pipe.unet, 3.0), pipe, (4, 8, 8), config.schedule),
        LatentScorer(pipe.vae, mix),
        ClippedOptimiser(
            Accelerator(cpu=True), optimiser, parameters, 1.0 if lr < 0.1 else 0.0, lr=lambda update: lr
        ),
        config.algorithm,
        group=config.data.group,
        seed=config.seed,
        micro_batch=config.memory.micro_batch,
    )


def batch(texts: list[str], update: int, count: int) -> Batch:
    return SampleOrder(PromptSource.from_texts("toy", texts), 0, group=4).batch(update, count)


@pytest.mark.parametrize("name", ["world-extend", "world-promptist"])
def test_world_rewriters_append_style_words(name: str) -> None:
    rewriter = Rewriter.find(name)
    model = RewriterModel(rewriter, rewriter.find_model(), "cpu")
    rewrites = model.rewrite(PROMPTS, [1, 2, 3, 4])
    assert model.rewrite(PROMPTS[2:], [3, 4]).texts == rewrites.texts[2:]
    assert all(text.startswith(f"{prompt}, ") for prompt, text in zip(PROMPTS, rewrites.texts, strict=True))
    style = {"dull", "faded", "vivid", "vibrant", "flat", "shaded", "glossy"}
    words = [w for p, t in zip(PROMPTS, rewrites.texts, strict=True) for w in t[len(p) + 2 :].split(", ")]
    assert set(words) <= style
    assert all(ids[-1] == model.tokenizer.eos_token_id for ids in rewrites.answers)


def test_log_probs_do_not_depend_on_padding(
    tiny_pipeline: Path, config_for: Callable[..., TrainConfig], toys: Path
) -> None:
    policy = algorithm_for(tiny_pipeline, config_for(), toys).trainable
    rewrites = policy.sample(PROMPTS, [1, 2, 3, 4])
    with torch.no_grad():
        log_probs, divergence, rows = policy.log_probs(rewrites)
    assert divergence.abs().max() < 1e-5  # the model has not been trained yet
    for row, (question, answer) in enumerate(zip(rewrites.questions, rewrites.answers, strict=True)):
        ids = torch.tensor([[*question, *answer]])
        with torch.no_grad():
            logits = policy.model(ids, attention_mask=torch.ones_like(ids)).logits[0].log_softmax(dim=-1)
        alone = [float(logits[len(question) - 1 + k, token]) for k, token in enumerate(answer)]
        assert log_probs[rows == row].tolist() == pytest.approx(alone, abs=1e-4)


def test_loss_equals_ppo_computed_by_hand(
    tiny_pipeline: Path, config_for: Callable[..., TrainConfig], toys: Path
) -> None:
    algorithm = algorithm_for(tiny_pipeline, config_for(), toys)
    policy = algorithm.trainable
    rewrites = policy.sample(PROMPTS[:2], [1, 2])
    with torch.no_grad():
        old = policy.log_probs(rewrites)[0]
        for parameter in policy.trained_parameters().values():
            parameter.mul_(1.05)
        now, divergence, rows = policy.log_probs(rewrites)
        loss, total_divergence = algorithm.loss(rewrites, old, torch.tensor([1.5, -2.0]))
    total = 0.0
    for token, row in enumerate(rows.tolist()):
        advantage = (1.5, -2.0)[row]
        ratio = float(np.exp(float(now[token]) - float(old[token])))
        bounded = min(max(ratio, 0.8), 1.2)
        total += max(-advantage * ratio, -advantage * bounded)
    assert len(rows) == sum(map(len, rewrites.answers))
    assert float(divergence.sum()) == pytest.approx(float(total_divergence))
    assert float(total_divergence) > 0
    assert float(loss) == pytest.approx(total + 0.1 * float(total_divergence), rel=1e-4)


def test_micro_batches_give_the_step_of_the_whole_batch(
    tiny_pipeline: Path, config_for: Callable[..., TrainConfig], toys: Path
) -> None:
    weights = []
    for size in (0, 3):
        algorithm = algorithm_for(tiny_pipeline, config_for(policy_updates=1, micro_batch=size), toys)
        result = algorithm.step(batch(SHORT, 0, 8))
        assert result.scores.total[:4].std() > 1e-4
        weights.append([p.detach().clone() for p in algorithm.trainable.trained_parameters().values()])
    for whole, sliced in zip(*weights, strict=True):
        torch.testing.assert_close(whole, sliced, rtol=1e-3, atol=1e-5)


def test_rewrites_of_a_prompt_share_a_noise_and_are_compared(
    tiny_pipeline: Path, config_for: Callable[..., TrainConfig], toys: Path
) -> None:
    algorithm, samples = algorithm_for(tiny_pipeline, config_for(), toys), batch(SHORT, 0, 8).samples
    rewrites, scores, _ = algorithm.sample(samples)
    assert scores.total[:4].std() > 1e-4  # differences beyond rounding
    assert len(set(rewrites.texts)) > 2
    same = [replace(sample, text="f") for sample in samples[:4]]
    algorithm.trainable.sample = lambda texts, seeds: Rewrites(texts, [[1]] * 4, [[0]] * 4)  # type: ignore[method-assign]
    assert algorithm.sample(same)[1].total.std() < 1e-6  # one noise and one text give one image


def test_rewarded_words_become_more_frequent(
    tiny_pipeline: Path, config_for: Callable[..., TrainConfig], toys: Path
) -> None:
    """The reward is whether a rewrite has the word "vivid", in place of the image's score."""
    algorithm = algorithm_for(tiny_pipeline, config_for(batch=32), toys, lr=2e-3)
    sample = algorithm.sample

    def sample_with_word_reward(samples: Any) -> Any:
        rewrites, scores, drift = sample(samples)
        total = torch.tensor([float("vivid" in text) for text in rewrites.texts])
        return rewrites, replace(scores, total=total), drift

    algorithm.sample = sample_with_word_reward  # type: ignore[method-assign]
    shares = [float(algorithm.step(batch(PROMPTS, n, 32)).scores.total.mean()) for n in range(8)]
    assert np.mean(shares[-2:]) > np.mean(shares[:2]) + 0.25


def test_trained_rewriter_resumes_exactly_and_is_a_system(
    tiny_pipeline: Path, config_for: Callable[..., TrainConfig], tmp_path: Path
) -> None:
    from safetensors.torch import load_file

    whole = train(config_for(), tmp_path / "whole")
    train(config_for(updates=1), tmp_path / "parts")
    train(config_for(), tmp_path / "parts")
    weights = [load_file(tmp_path / name / "best/rewriter/model.safetensors") for name in ("whole", "parts")]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    start = load_file(Rewriter.find("world-extend").find_model() / "model.safetensors")
    assert any((weights[0][name] != start[name].float()).any() for name in start)
    rows = TrainFolder(whole.path).rows(LOG)
    assert rows[-1]["samples"] == 16
    assert rows[-1]["unet"] == 16 * 2 * 2
    assert {"kl", "trained", "drift"} <= rows[-1].keys()
    system = System.find(str(whole.path))
    assert system.rewriter == str(whole.path / "best" / "rewriter")
    (declared,) = system.trained_on or ()
    assert re.fullmatch(r"custom:rewriting-bright@[0-9a-f]{64}", declared)
    assert Rewriter.find(system.rewriter).trained_on == (declared,)
    replace(system, name="named").save(tmp_path / "named")
    assert str(tmp_path) not in (tmp_path / "named" / "system.toml").read_text()  # it may move
    assert Path(System.find(str(tmp_path / "named")).rewriter).samefile(system.rewriter)
    prompts = tmp_path / "two.txt"
    prompts.write_text("\n".join(PROMPTS[:2]))
    request = Request(
        str(whole.path), prompts=prompts, rewards=["world-rule"], device="cpu", out=tmp_path / "r"
    )
    run = RunState(execute_plan(plan_run(request), Silent()).path)
    assert [row["text"].startswith(row["prompt"]) for row in read_lines(run.path / REWRITES_FILE)] == [
        True,
        True,
    ]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rewriter": ""}, "require each other"),
        ({"parts": ("text_encoder",)}, "require each other"),
        ({"algorithm": "chain"}, "require each other"),
        ({"lora_rank": 4}, "trains all weights of its model"),
        ({"group": 1}, "compares samples of one prompt"),
        ({"tuned_steps": 1}, "uses the rewrite in all steps"),
        ({"start": "folder"}, "does not apply to a rewriter"),
    ],
)
def test_conflicting_settings_are_refused(
    config_for: Callable[..., TrainConfig], changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        config_for(**changes)


def test_profile_starts_from_promptist() -> None:
    config = make_config("sd15", profile="rewriter")
    trainable = config.trainable
    assert (trainable.rewriter, trainable.parts, config.data.group) == ("promptist", ("rewriter",), 4)
