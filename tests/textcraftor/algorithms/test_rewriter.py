"""A prompt rewriter that learns by reward: its probabilities, its loss by hand, and that it learns."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from accelerate import Accelerator

from benchmarks.execution import execute_plan
from benchmarks.mixes import save_system
from benchmarks.planning import Request, plan_run
from benchmarks.systems import find_system
from leaderboards.run_state import RunState
from rewards.combine.mix import RewardMix
from rewards.combine.panel import Panel
from rewards.combine.terms import MixTerm
from tcbench.errors import ConfigError
from tcbench.files import read_lines
from tcbench.progress import Silent
from textcraftor.algorithms.learners import Stepper
from textcraftor.algorithms.objective import Objective
from textcraftor.algorithms.rewriter import Answers, TunedWriter, WritingLearner
from textcraftor.config import TrainConfig, make_config
from textcraftor.diffusion.pipeline import load_pipeline
from textcraftor.diffusion.sampling import Denoiser
from textcraftor.io.checkpoint import LOG, TrainFolder
from textcraftor.rewriters import KEPT, Writer, Written, find_model, find_rewriter
from textcraftor.sources import Order, of_texts
from textcraftor.train import train

# inside diffusers
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

PROMPTS = ["a red circle on a white backdrop", "a large blue star", "a green ring on the left", "a star"]
SHORT = ["a b", "c", "d e", "f"]
"""The tiny pipeline reads 16 letters: of these it reads what is put behind them too."""

REWARDS = """
from rewards import Reward, RewardInfo, register

@register(RewardInfo("rewriting-bright", uses_prompt=False, differentiable=False))
class Bright(Reward):
    def _score(self, pixels, prompts):
        return pixels.mean((1, 2, 3)).detach()
"""
REWARD = "Bright"
CONFIG = {
    "steps": 2, "tuned_steps": 2, "drawn_tuned_steps": 2, "guidance": 3.0, "estimator": "rewriting",
    "trains": ("rewriter",), "rewriter": "world-extend", "batch": 8, "group": 4, "updates": 2, "lr": 1e-3,
    "ratio_clip": 0.2, "drift_penalty": 0.1, "validate_every": 0, "save_every": 1,
}  # fmt: skip


def answers(pipeline: Path, config: TrainConfig, toys: Path) -> Answers:
    pipe = load_pipeline(pipeline, device="cpu", dtype="float32", sampler="ddim")
    mix = RewardMix(Panel([f"{toys}:Bright"]), {f"{toys}:Bright": MixTerm(1.0)})
    tuned = TunedWriter(pipe, config, guided=True)
    return Answers(Objective(tuned, config, mix, Denoiser(pipe.unet, 3.0), (4, 8, 8)))


@pytest.mark.parametrize("name", ["world-extend", "world-promptist"])
def test_the_worlds_rewriters_go_on_with_style_words(name: str) -> None:
    rewriter = find_rewriter(name)
    writer = Writer(rewriter, find_model(rewriter), "cpu")
    found = writer.write(PROMPTS, [1, 2, 3, 4])
    again = writer.write(PROMPTS[2:], [3, 4])
    assert again.texts == found.texts[2:]
    assert all(text.startswith(f"{prompt}, ") for prompt, text in zip(PROMPTS, found.texts, strict=True))
    known = {"dull", "faded", "vivid", "vibrant", "soft", "blurry", "crisp", "sharp", "noisy", "grainy",
             "clean", "flat", "glowing"}  # fmt: skip
    words = [w for p, t in zip(PROMPTS, found.texts, strict=True) for w in t[len(p) + 2 :].split(", ")]
    assert set(words) <= known
    assert all(ids[-1] == writer.tokenizer.eos_token_id for ids in found.answered)


def test_probabilities_are_the_models_whatever_the_padding(
    tiny_pipeline: Path, config_for: Callable[..., TrainConfig], toys: Path
) -> None:
    module = answers(tiny_pipeline, config_for(), toys)
    written = module.tuned.sample(PROMPTS, [1, 2, 3, 4])
    with torch.no_grad():
        found, divergence, rows = module.tuned.log_probs(written)
    assert divergence.abs().max() < 1e-5  # it is its own start
    for row, (asked, answer) in enumerate(zip(written.asked, written.answered, strict=True)):
        ids = torch.tensor([[*asked, *answer]])
        with torch.no_grad():
            logits = (
                module.tuned.model(ids, attention_mask=torch.ones_like(ids)).logits[0].log_softmax(dim=-1)
            )
        alone = [float(logits[len(asked) - 1 + k, token]) for k, token in enumerate(answer)]
        assert found[rows == row].tolist() == pytest.approx(alone, abs=1e-4)


def test_the_loss_is_ppos_in_a_straight_line(
    tiny_pipeline: Path, config_for: Callable[..., TrainConfig], toys: Path
) -> None:
    module = answers(tiny_pipeline, config_for(), toys)
    written = module.tuned.sample(PROMPTS[:2], [1, 2])
    with torch.no_grad():
        old = module.tuned.log_probs(written)[0]
        for parameter in module.tuned.trained().values():
            parameter.mul_(1.05)
        now, divergence, rows = module.tuned.log_probs(written)
        loss, far = module(written, old, torch.tensor([1.5, -2.0]))
    total = 0.0
    for place, row in enumerate(rows.tolist()):
        advantage = (1.5, -2.0)[row]
        ratio = float(np.exp(float(now[place]) - float(old[place])))
        bounded = min(max(ratio, 0.8), 1.2)
        total += max(-advantage * ratio, -advantage * bounded)
    assert len(rows) == sum(map(len, written.answered))
    assert float(divergence.sum()) == pytest.approx(float(far))
    assert float(far) > 0
    assert float(loss) == pytest.approx(total + 0.1 * float(far), rel=1e-4)


def test_slices_and_shares_make_the_step_of_the_whole(
    tiny_pipeline: Path, config_for: Callable[..., TrainConfig], toys: Path
) -> None:
    weights = []
    for size in (0, 3):
        config = config_for(policy_updates=1, micro_batch=size)
        learner = WritingLearner(answers(tiny_pipeline, config, toys).objective)
        parameters = learner.module.tuned.trained()
        optimiser = torch.optim.SGD(parameters.values(), lr=0.1)
        stepper = Stepper(Accelerator(cpu=True), optimiser, parameters.values(), 0.0)
        samples = Order(of_texts("toy", SHORT), 0, group=4).batch(0, 8)
        made = learner.update(learner.module, samples, 0, stepper)
        assert torch.cat([outcome.graded.total for _, outcome in made.outcomes])[:4].std() > 1e-4
        weights.append([p.detach().clone() for p in parameters.values()])
    for whole, sliced in zip(*weights, strict=True):
        torch.testing.assert_close(whole, sliced, rtol=1e-3, atol=1e-5)


def test_rewrites_of_a_prompt_share_a_noise_and_are_paid_by_their_difference(
    tiny_pipeline: Path, config_for: Callable[..., TrainConfig], toys: Path
) -> None:
    module = answers(tiny_pipeline, config_for(), toys)
    learner = WritingLearner(module.objective)
    samples = Order(of_texts("toy", SHORT), 0, group=4).batch(0, 8)
    written, outcome = module.draw(samples)
    assert outcome.graded.total[:4].std() > 1e-4  # what they were paid for is no rounding
    same = [replace(sample, text="f") for sample in samples[:4]]
    module.tuned.sample = lambda texts, seeds: Written(texts, [[1]] * 4, [[0]] * 4)  # type: ignore[method-assign]
    _, alike = module.draw(same)
    assert alike.graded.total.std() < 1e-6  # one noise, one text: one picture
    found = learner._advantages(samples, [outcome], Accelerator(cpu=True))
    totals = outcome.graded.total.double().view(2, 4)
    rest = totals - totals.mean(dim=1, keepdim=True)
    assert found.tolist() == pytest.approx(
        (rest / (rest.std(correction=0) + 1e-6)).flatten().tolist(), abs=1e-3
    )
    assert len(set(written.texts)) > 2


def test_it_learns_to_say_what_pays(
    tiny_pipeline: Path, config_for: Callable[..., TrainConfig], toys: Path
) -> None:
    """The reward is how often it says "vivid": the images are set aside."""
    learner = WritingLearner(answers(tiny_pipeline, config_for(batch=32), toys).objective)
    module = learner.module
    draw = module.draw

    def paid(samples: Any) -> Any:
        written, outcome = draw(samples)
        said = torch.tensor([float("vivid" in text) for text in written.texts])
        return written, replace(outcome, graded=replace(outcome.graded, total=said))

    module.draw = paid  # type: ignore[method-assign]
    parameters = module.tuned.trained()
    stepper = Stepper(
        Accelerator(cpu=True), torch.optim.AdamW(parameters.values(), lr=2e-3), parameters.values(), 1.0
    )
    order = Order(of_texts("toy", PROMPTS), 0, group=4)
    shares = []
    for update in range(8):
        made = learner.update(module, order.batch(update, 32), update, stepper)
        shares.append(float(torch.cat([outcome.graded.total for _, outcome in made.outcomes]).mean()))
    assert np.mean(shares[-2:]) > np.mean(shares[:2]) + 0.25


def test_a_trained_rewriter_is_a_system_and_goes_on_exactly(
    tiny_pipeline: Path, config_for: Callable[..., TrainConfig], tmp_path: Path
) -> None:
    from safetensors.torch import load_file

    whole = train(config_for(), tmp_path / "whole")
    train(config_for(updates=1), tmp_path / "parts")
    train(config_for(), tmp_path / "parts")
    weights = [load_file(tmp_path / name / "best/rewriter/model.safetensors") for name in ("whole", "parts")]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    start = load_file(find_model(find_rewriter("world-extend")) / "model.safetensors")
    assert any((weights[0][name] != start[name].float()).any() for name in start)
    rows = TrainFolder(whole.path).rows(LOG)
    assert rows[-1]["samples"] == 16
    assert rows[-1]["unet"] == 16 * 2 * 2
    assert {"kl", "trained", "drift"} <= rows[-1].keys()
    system = find_system(str(whole.path))
    assert system.rewriter == str(whole.path / "best" / "rewriter")
    assert system.trained_on == ("rewriting-bright",)
    assert find_rewriter(system.rewriter).trained_on == ("rewriting-bright",)
    save_system(replace(system, name="named"), tmp_path / "named")
    assert str(tmp_path) not in (tmp_path / "named" / "system.toml").read_text()  # it may move
    assert Path(find_system(str(tmp_path / "named")).rewriter).samefile(system.rewriter)
    prompts = tmp_path / "two.txt"
    prompts.write_text("\n".join(PROMPTS[:2]))
    request = Request(
        str(whole.path), prompts=prompts, rewards=["world-rule"], device="cpu", out=tmp_path / "r"
    )
    run = RunState(execute_plan(plan_run(request), Silent()).path)
    assert [row["text"].startswith(row["prompt"]) for row in read_lines(run.path / KEPT)] == [True, True]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rewriter": ""}, "need each other"),
        ({"trains": ("text_encoder",)}, "need each other"),
        ({"estimator": "chain"}, "need each other"),
        ({"lora_rank": 4}, "trains all weights of its model"),
        ({"group": 1}, "compares rewrites of one prompt"),
        ({"tuned_steps": 1}, "compares rewrites of one prompt"),
    ],
)
def test_what_does_not_go_together_is_refused(
    config_for: Callable[..., TrainConfig], changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        config_for(**changes)


def test_a_start_is_refused_and_the_profile_is_promptists(
    config_for: Callable[..., TrainConfig], tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match="a rewriter begins with its language model"):
        train(config_for(start=str(tmp_path)), tmp_path / "x")
    made = make_config("sd15", profile="rewriter", rewards="pickscore=1", prompts="x.txt")
    assert (made.rewriter, made.trains, made.group) == ("promptist", ("rewriter",), 4)
