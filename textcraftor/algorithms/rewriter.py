"""Prompt engineering that is learnt by reward: a language model rewrites, the pipeline draws, rewards pay.

The recipe of Promptist (Hao et al. 2023, "Optimizing Prompts for Text-to-Image Generation", section 2): a
model that was taught by examples is trained on by proximal policy optimisation, kept near its start by a
Kullback-Leibler penalty, and images of rewrites are always scored against the original prompt. What an image
is worth is compared with those of other rewrites of the same prompt, drawn from the same noise, in place of
the learnt value of each token that Promptist has.
"""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from tcbench.errors import ConfigError
from tcbench.quiet import quiet
from textcraftor.algorithms.ddpo import policy_loss
from textcraftor.algorithms.goal import look
from textcraftor.algorithms.learners import Made, Stepper, check_shares, chunks, worth
from textcraftor.algorithms.objective import LATER_NOISE, Objective, Outcome, drifted
from textcraftor.config import TrainConfig
from textcraftor.diffusion.conditioning import Conditioning, encode_prompts
from textcraftor.diffusion.prompts import noise_seed
from textcraftor.io.system import optimised_for
from textcraftor.rewriters import Rewriter, Writer, Written, find_model, find_rewriter, write_settings
from textcraftor.sources import Sample

FOLDER = "rewriter"
"""Of a checkpoint: the language model."""


class TunedWriter(nn.Module):
    """A frozen pipeline, and a language model that is trained to rewrite what it is told.

    Takes the place of `tuned.Tuned`: its conditioning is of the rewrite, seeded by the text.
    """

    def __init__(self, pipe: Any, config: TrainConfig, guided: bool) -> None:
        super().__init__()
        self.guided, self.seed = guided, config.seed
        optimised = optimised_for(config)
        self._optimised = None if optimised is None else tuple(optimised)
        self.rewriter = find_rewriter(config.rewriter)
        for component in pipe.components.values():
            if isinstance(component, nn.Module):
                component.requires_grad_(False)
        writer = Writer(self.rewriter, find_model(self.rewriter), str(pipe.device))
        self.model = writer.model.requires_grad_(True)
        start = copy.deepcopy(writer.model).requires_grad_(False)
        self._frozen = _Frozen(pipe, writer, start)

    @property
    def original(self) -> Any:
        """The pipeline."""
        return self._frozen.pipe

    @property
    def writer(self) -> Writer:
        """The language model with its tokenizer."""
        return self._frozen.writer

    def encode(self, texts: list[str]) -> Conditioning:
        """The conditioning of the texts' rewrites."""
        digests = [hashlib.sha256(text.encode()).digest() for text in texts]
        seeds = [noise_seed(self.seed, int.from_bytes(digest[:4]), 0) for digest in digests]
        return self.encode_original(list(self.writer.write(texts, seeds).texts))

    def encode_original(self, texts: list[str]) -> Conditioning:
        """That of the texts as they are."""
        with torch.no_grad():
            return encode_prompts(self.original, texts, guided=self.guided)

    def sample(self, texts: Sequence[str], seeds: Sequence[int]) -> Written:
        """Rewrites with the model's own probabilities, whatever its usual decoding is."""
        plain = {name: getattr(Rewriter, name) for name in ("beams", "temperature", "top_k", "top_p")}
        drawing = replace(self.rewriter, **plain, repetition_penalty=1.0)
        return self.writer.by(drawing).write(texts, seeds)

    def log_probs(self, written: Written) -> tuple[Tensor, Tensor, Tensor]:
        """Of all answered tokens (T,), a row's after another's: logarithms of their probabilities, the
        divergence of the model from its start there, and whose row they are.
        """
        rows = [[*a, *b] for a, b in zip(written.asked, written.answered, strict=True)]
        ids, attention = _padded(rows, self.model.device)
        logits = self.model(input_ids=ids, attention_mask=attention).logits.log_softmax(dim=-1)
        with torch.no_grad():
            start = self._frozen.start(input_ids=ids, attention_mask=attention).logits.log_softmax(dim=-1)
        divergence = (logits.exp() * (logits - start)).sum(dim=-1)[:, :-1]
        found = logits[:, :-1].gather(2, ids[:, 1:, None]).squeeze(2)
        places = torch.arange(ids.shape[1] - 1, device=ids.device)
        begins = torch.tensor([len(asked) - 1 for asked in written.asked], device=ids.device)
        ends = torch.tensor([len(row) - 1 for row in rows], device=ids.device)
        answered = (places >= begins[:, None]) & (places < ends[:, None])
        return found[answered], divergence[answered], answered.nonzero()[:, 0]

    def trained(self) -> dict[str, nn.Parameter]:
        """The language model's parameters by name."""
        return dict(self.named_parameters())

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Put values into them. Raises KeyError for one that is not there."""
        with torch.no_grad():
            for name, parameter in self.trained().items():
                parameter.copy_(state[name])

    def start_from(self, folder: Path) -> None:
        """Raises ConfigError: it begins with its language model."""
        raise ConfigError(
            f'a rewriter begins with its language model: set rewriter = "{folder}", and no start'
        )

    def save(self, folder: Path, values: Mapping[str, Tensor] | None = None) -> None:
        """Write the language model, with ``values`` in it, as a rewriter's folder."""
        model = copy.deepcopy(self.model)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                parameter.copy_((values or self.trained())[f"model.{name}"])
        with quiet("transformers"):
            model.save_pretrained(folder / FOLDER)
            self.writer.tokenizer.save_pretrained(folder / FOLDER)
        write_settings(replace(self.rewriter, trained_on=self._optimised), folder / FOLDER)


@dataclass(frozen=True)
class _Frozen:
    """No module, so that what is frozen is no part of the state."""

    pipe: Any
    writer: Writer
    start: Any


class Answers(nn.Module):
    """What was written to its loss. Holds the trained parameters."""

    def __init__(self, objective: Objective) -> None:
        super().__init__()
        self.objective = objective

    @property
    def tuned(self) -> TunedWriter:
        """The language model."""
        found = self.objective.tuned
        assert isinstance(found, TunedWriter)
        return found

    def forward(self, written: Written, old: Tensor, advantages: Tensor) -> tuple[Tensor, Tensor]:
        """PPO's clipped loss with the penalty, the sum over tokens, and their divergence (a scalar).

        ``old`` (T,) is what the tokens' log-probabilities were, ``advantages`` (B,) are the rewrites'.
        """
        config = self.objective.config
        found, divergence, rows = self.tuned.log_probs(written)
        far = divergence.sum()
        loss = policy_loss(found, old, advantages[rows], config.ratio_clip) * len(rows)
        return loss + config.drift_penalty * far, far.detach()

    @torch.no_grad()
    def draw(self, samples: Sequence[Sample]) -> tuple[Written, Outcome]:
        """Rewrite, draw and score. Rewrites of one prompt share a noise."""
        objective, config = self.objective, self.objective.config
        texts = [sample.text for sample in samples]
        written = self.tuned.sample(texts, [sample.noise_seed for sample in samples])
        alike = [
            replace(s, noise_seed=noise_seed(config.seed, s.prompt, LATER_NOISE + s.number // config.group))
            for s in samples
        ]
        with objective.precision():
            c = self.tuned.encode_original(list(written.texts))
            rollout, z = objective.start(alike, c)
            graded = look(
                rollout.run(z, c),
                texts,
                vae=self.tuned.original.vae,
                mix=objective.mix,
                slices=config.decode_slice,
                pool=config.reward_pool,
            )
        drift = float(drifted(c, self.tuned.encode_original(texts)))
        return written, Outcome(graded, drift, 1, graded.skipped)


class WritingLearner:
    """Several steps by what a batch of rewrites was worth."""

    def __init__(self, objective: Objective) -> None:
        self.module = Answers(objective)

    def update(self, module: nn.Module, samples: Sequence[Sample], update: int, stepper: Stepper) -> Made:
        config = self.module.objective.config
        check_shares(config.policy_updates, len(samples))
        drawn = [self.module.draw(part) for part in chunks(samples, config.micro_batch)]
        written = _joined([one for one, _ in drawn])
        advantages = self._advantages(samples, [outcome for _, outcome in drawn], stepper.accelerator)
        order = np.random.default_rng([config.seed, update]).permutation(len(samples))
        size = config.micro_batch or len(samples)
        old: list[Tensor] = []
        with torch.no_grad():
            for start in range(0, len(samples), size):
                part = _rows(written, range(start, min(start + size, len(samples))))
                found = self.module.tuned.log_probs(part)[0]
                old += torch.split(found, [len(answer) for answer in part.answered])
        norms, far = [], []
        for share in np.array_split(order, config.policy_updates):
            jobs = np.array_split(np.sort(share), -(-len(share) // size))
            tokens = sum(len(written.answered[row]) for row in share)
            for number, job in enumerate(jobs):
                rows = job.tolist()

                def loss(rows: Sequence[int] = rows, tokens: int = tokens) -> tuple[Tensor, Tensor]:
                    before = torch.cat([old[row] for row in rows])
                    value, divergence = module(_rows(written, rows), before, advantages[rows])
                    return value / tokens, divergence / tokens

                far.append(float(stepper.accumulate(module, loss, last=number == len(jobs) - 1)))
            norms.append(stepper.step())
        outcomes = [
            (part, outcome)
            for part, (_, outcome) in zip(chunks(samples, config.micro_batch), drawn, strict=True)
        ]
        return Made(outcomes, float(np.mean(norms)), {"kl": sum(far) / config.policy_updates})

    def _advantages(self, samples: Sequence[Sample], outcomes: Sequence[Outcome], accelerator: Any) -> Tensor:
        """Of this process's rewrites (B,): over the mean of their prompt's, in the deviation of all; 0 for
        one without finite rewards.
        """
        own = worth(outcomes)
        group = self.module.objective.config.group
        numbers = torch.tensor([sample.number // group for sample in samples], device=own.device)
        rewards, groups = accelerator.gather(own), accelerator.gather(numbers)
        means = torch.stack([rewards[groups == number].nanmean() for number in numbers.tolist()])
        every = torch.stack([rewards[groups == number].nanmean() for number in groups.tolist()])
        rest = rewards - every
        spread = rest[rest.isfinite()].std(correction=0)
        advantages: Tensor = ((own - means) / (spread + 1e-6)).nan_to_num(0.0)
        return advantages

    def tensors(self) -> dict[str, Tensor]:
        return {}

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """There is nothing."""


def _padded(rows: Sequence[Sequence[int]], device: Any) -> tuple[Tensor, Tensor]:
    """Ids and attention mask (B, n), padded at the end: no model counts its places from elsewhere then."""
    width = max(map(len, rows))
    ids = torch.tensor([[*row, *[0] * (width - len(row))] for row in rows], device=device)
    lengths = torch.tensor([len(row) for row in rows], device=device)
    return ids, (torch.arange(width, device=device) < lengths[:, None]).long()


def _joined(parts: Sequence[Written]) -> Written:
    return Written(
        [text for part in parts for text in part.texts],
        [ids for part in parts for ids in part.asked],
        [ids for part in parts for ids in part.answered],
    )


def _rows(written: Written, rows: Sequence[int]) -> Written:
    return Written(
        [written.texts[row] for row in rows],
        [written.asked[row] for row in rows],
        [written.answered[row] for row in rows],
    )
