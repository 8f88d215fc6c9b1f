"""world-aesthetic: the head of the LAION v2 predictor on world-clip's image embedding.

It is fitted to the world's aesthetic rule on rendered pictures, so it is to the rule what the LAION
predictor is to people's ratings: a differentiable imitation that can be over-optimised.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch.nn import functional as F

from rewards.backbones.head import ScoreHead
from rewards.world.aesthetics import judge
from rewards.world.pixels import to_bytes
from rewards.world.training import clip, data
from rewards.world.training.fit import Losses, Plan, fit

PLAN = Plan("world-aesthetic", steps=3000, lr=1e-3, batch=256, seed=17, warmup=50, weight_decay=0.1)
PICTURES = 12000
"""Rendered pictures the rule has judged; the head sees their embeddings again and again."""


def train(tokenizer: Path, base: Path, folder: Path, plan: Plan = PLAN) -> ScoreHead:
    """Fit the head upon the world-clip in ``base``, resuming from ``folder``."""
    model: Any = clip.load(base, len(clip.Tokens(tokenizer)))
    rng = np.random.default_rng(plan.seed)
    images = data.soften(rng, data.pictures(rng, data.random_scenes(rng, PICTURES)))
    target = torch.tensor([judge(image).score for image in to_bytes(images)])
    with torch.no_grad():
        embedded = torch.cat([model.encode_image(clip.normalise(part)) for part in torch.split(images, 200)])
    embedded = F.normalize(embedded, dim=-1)
    torch.manual_seed(plan.seed)
    head = ScoreHead(embedded.shape[1])
    with torch.no_grad():
        head.state_dict()["layers.7.bias"].fill_(target.mean())  # else the first steps only learn the mean

    def loss(rng: np.random.Generator) -> Losses:
        rows = torch.from_numpy(rng.integers(len(embedded), size=plan.batch)).to(embedded.device)
        return {"loss": F.mse_loss(head(embedded[rows]), target[rows])}

    fit(plan, head, loss, folder)
    return head


def save(head: ScoreHead, folder: Path) -> None:
    """Write float16 weights under the published key names."""
    folder.mkdir(parents=True, exist_ok=True)
    save_file({k: v.half().contiguous() for k, v in head.state_dict().items()}, folder / "head.safetensors")
