"""Prompt engineering learnt from rewards: a language model rewrites, the frozen pipeline generates.

The recipe of Promptist (Hao et al. 2023, "Optimizing Prompts for Text-to-Image Generation", section 2): a
language model that was fine-tuned on examples is trained further by PPO, kept near its start by a
Kullback-Leibler penalty. Images of rewrites are always scored against the original prompt. Advantages compare
an image with those of other rewrites of the same prompt, from the same noise; Promptist learns a value of
each token instead.
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
from numpy.typing import NDArray
from torch import Tensor

from tcbench.quiet import quiet
from textcraftor.algorithms.advantages import group_advantages
from textcraftor.algorithms.base import Algorithm, StepResult
from textcraftor.algorithms.latent_scores import LatentScores
from textcraftor.algorithms.policy_gradient import clipped_policy_loss
from textcraftor.diffusion.conditioning import Conditioning
from textcraftor.diffusion.prompts import noise_seed
from textcraftor.diffusion.sampling import EXTRA_NOISE, autocast
from textcraftor.rewriters import Rewriter, RewriterModel, Rewrites
from textcraftor.sources import Batch, Sample
from textcraftor.tuned import Trainable

FOLDER = "rewriter"
"""Folder of the language model in a checkpoint."""


class RewriterPolicy(Trainable):
    """A frozen pipeline and a language model that is trained to rewrite its prompts.

    Args:
        pipe: A diffusers pipeline; it is frozen.
        name: The rewriter to start from, a name or a folder.
        guided: Whether the pipeline samples with classifier-free guidance.
        seed: Seed of the rewrites that `encode` makes.
        trained_on: Rewards to record in checkpoints as trained on; None: undeclared.
    """

    def __init__(
        self, pipe: Any, name: str, *, guided: bool, seed: int = 0, trained_on: Sequence[str] | None = None
    ) -> None:
        super().__init__(pipe, guided=guided)
        self.seed = seed
        self._trained_on = None if trained_on is None else tuple(trained_on)
        self.rewriter = Rewriter.find(name)
        folder = self.rewriter.find_model()
        self.start_sha256 = str(self.rewriter.generation_settings(folder)["sha256"])
        model = RewriterModel(self.rewriter, folder, str(pipe.device))
        self.model = model.model.requires_grad_(True)
        start = copy.deepcopy(model.model).requires_grad_(False)
        self._frozen = _Frozen(model, start)

    @property
    def rewriter_model(self) -> RewriterModel:
        """The language model with its tokenizer."""
        return self._frozen.model

    def encode(self, texts: list[str]) -> Conditioning:
        """Encode rewrites of ``texts`` that depend on each text alone; without gradients."""
        digests = [hashlib.sha256(text.encode()).digest() for text in texts]
        seeds = [noise_seed(self.seed, int.from_bytes(digest[:4]), 0) for digest in digests]
        return self.encode_original(list(self.rewriter_model.rewrite(texts, seeds).texts))

    def sample(self, texts: Sequence[str], seeds: Sequence[int]) -> Rewrites:
        """Sample rewrites with the model's own probabilities, whatever its usual decoding is.

        Policy gradients need samples of the policy itself: no temperature, truncation or beam search.
        """
        plain = {name: getattr(Rewriter, name) for name in ("beams", "temperature", "top_k", "top_p")}
        decoding = replace(self.rewriter, **plain, repetition_penalty=1.0)
        return self.rewriter_model.with_decoding(decoding).rewrite(texts, seeds)

    def log_probs(self, rewrites: Rewrites) -> tuple[Tensor, Tensor, Tensor]:
        """Compute log probabilities of the answers' tokens.

        Returns:
            For all N answer tokens, one row's after another's: their log probabilities (N,), the
            Kullback-Leibler divergence of the model from its start at their position (N,), and the row that
            each belongs to (N,).
        """
        rows = [[*a, *b] for a, b in zip(rewrites.questions, rewrites.answers, strict=True)]
        ids, attention = _padded(rows, self.model.device)
        logits = self.model(input_ids=ids, attention_mask=attention).logits.log_softmax(dim=-1)
        with torch.no_grad():
            start = self._frozen.start(input_ids=ids, attention_mask=attention).logits.log_softmax(dim=-1)
        # over the whole vocabulary instead of the sampled token: exact, and with much less variance
        divergence = (logits.exp() * (logits - start)).sum(dim=-1)[:, :-1]
        # the output at a position predicts the token after it
        tokens = logits[:, :-1].gather(2, ids[:, 1:, None]).squeeze(2)
        positions = torch.arange(ids.shape[1] - 1, device=ids.device)
        first = torch.tensor([len(question) - 1 for question in rewrites.questions], device=ids.device)
        end = torch.tensor([len(row) - 1 for row in rows], device=ids.device)
        answered = (positions >= first[:, None]) & (positions < end[:, None])
        return tokens[answered], divergence[answered], answered.nonzero()[:, 0]

    def save(self, folder: Path, values: Mapping[str, Tensor]) -> None:
        """Write the language model, with ``values`` as its parameters, as a rewriter's folder."""
        model = copy.deepcopy(self.model)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                parameter.copy_(values[f"model.{name}"])
        with quiet("transformers"):
            model.save_pretrained(folder / FOLDER)
            self.rewriter_model.tokenizer.save_pretrained(folder / FOLDER)
        replace(self.rewriter, trained_on=self._trained_on).write(folder / FOLDER)


@dataclass(frozen=True)
class _Frozen:
    """Parts that are not trained. Not an nn.Module, so that they are no parameters of the policy."""

    model: RewriterModel
    start: Any


@dataclass
class RewriterAlgorithm(Algorithm):
    """Several PPO steps per update, on the rewrites that the update sampled.

    ``group`` is the number of rewrites of one prompt, at least 2.
    """

    trainable: RewriterPolicy

    def step(self, batch: Batch) -> StepResult:
        """Rewrite, generate and score, then make ``policy_updates`` optimiser steps on the rewrites."""
        samples, updates = batch.samples, self.settings.policy_updates
        parts, joined, drift = self.sample_parts(samples, self.sample)
        rewrites = Rewrites.join(parts)
        groups = [sample.number // self.group for sample in samples]
        advantages = self.gather_advantages(joined.rewards(), groups, group_advantages)
        old = self._old_log_probs(rewrites)

        # Each optimiser step uses its own random share of the rewrites
        order = np.random.default_rng([self.seed, batch.update]).permutation(len(samples))
        norms, divergence = [], []
        for share in np.array_split(order, updates):
            divergence += self._accumulate(rewrites, old, advantages, share)
            norms.append(self.optimiser.step())
        extra = {"kl": sum(divergence) / updates}
        return StepResult(samples, joined, drift, float(np.mean(norms)), extra=extra)

    @torch.no_grad()
    def sample(self, samples: Sequence[Sample]) -> tuple[Rewrites, LatentScores, float]:
        """Rewrite the prompts, generate an image of each rewrite, and score it against the original prompt.

        Returns:
            The rewrites, the scores of their images, and the drift of the embeddings.
        """
        texts = [sample.text for sample in samples]
        rewrites = self.trainable.sample(texts, [sample.noise_seed for sample in samples])
        # Rewrites of one prompt share a noise, so that their rewards differ by the rewrite alone
        shared = [
            replace(s, noise_seed=noise_seed(self.seed, s.prompt, EXTRA_NOISE + s.number // self.group))
            for s in samples
        ]
        with autocast(self.trainable.original.device, self.precision):
            c = self.trainable.encode_original(list(rewrites.texts))
            rollout, z = self.start(shared, c)
            scores = self.scorer.score_latents(rollout.run(z, c), texts)
        drift = float(c.drift(self.trainable.encode_original(texts)))
        return rewrites, scores, drift

    def loss(self, rewrites: Rewrites, old: Tensor, advantages: Tensor) -> tuple[Tensor, Tensor]:
        """Return PPO's clipped loss with the divergence penalty, and the divergence; sums over N tokens.

        Args:
            rewrites: B rewrites with N answer tokens in all.
            old: Log probabilities (N,) of the tokens when they were sampled.
            advantages: Advantages (B,); each token has that of its rewrite.
        """
        tokens, divergence, rows = self.trainable.log_probs(rewrites)
        total = divergence.sum()
        loss = clipped_policy_loss(tokens, old, advantages[rows], self.settings.ratio_clip) * len(rows)
        return loss + self.settings.drift_penalty * total, total.detach()

    def _old_log_probs(self, rewrites: Rewrites) -> list[Tensor]:
        """Return each rewrite's token log probabilities (its number of tokens,) before any optimiser step."""
        count = len(rewrites.texts)
        size = self.micro_batch or count
        old: list[Tensor] = []
        with torch.no_grad():
            for start in range(0, count, size):
                part = rewrites.rows(range(start, min(start + size, count)))
                tokens = self.trainable.log_probs(part)[0]
                old += torch.split(tokens, [len(answer) for answer in part.answers])
        return old

    def _accumulate(
        self, rewrites: Rewrites, old: Sequence[Tensor], advantages: Tensor, share: NDArray[np.int64]
    ) -> list[float]:
        """Accumulate the gradients of some rewrites; return parts of their mean divergence per token."""
        size = self.micro_batch or len(rewrites.texts)
        tokens = sum(len(rewrites.answers[row]) for row in share)
        divergence = []
        for part in np.array_split(np.sort(share), -(-len(share) // size)):
            rows = part.tolist()
            loss, part_divergence = self.loss(
                rewrites.rows(rows), torch.cat([old[row] for row in rows]), advantages[rows]
            )
            # losses are sums over tokens: dividing by all tokens of the share gives their mean
            (loss / tokens).backward()  # type: ignore[no-untyped-call]
            divergence.append(float(part_divergence / tokens))
        return divergence


def _padded(rows: Sequence[Sequence[int]], device: Any) -> tuple[Tensor, Tensor]:
    """Return token ids and attention mask (B, longest row), padded at the end.

    Padding at the end keeps the position of every token what it was when the row was sampled.
    """
    width = max(map(len, rows))
    ids = torch.tensor([[*row, *[0] * (width - len(row))] for row in rows], device=device)
    lengths = torch.tensor([len(row) for row in rows], device=device)
    return ids, (torch.arange(width, device=device) < lengths[:, None]).long()
