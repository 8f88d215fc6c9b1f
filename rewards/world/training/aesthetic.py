"""world-aesthetic: the head of the LAION v2 predictor on world-clip's image embedding.

It is fitted to the world's aesthetic rule on rendered images. So it is to the rule what the LAION predictor
is to people's ratings: a differentiable imitation that can be over-optimised.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch.nn import functional as F

from rewards.backbones.head import ScoreHead
from rewards.preprocess import to_bytes
from rewards.world.aesthetics import AestheticParts
from rewards.world.scenes import Style
from rewards.world.training import clip, data
from rewards.world.training.fit import Losses, TrainingPlan, fit_model
from rewards.world.training.tokenizer import TOKENIZER, CaptionTokenizer

PLAN = TrainingPlan("world-aesthetic", steps=3000, lr=1e-3, batch=256, seed=17, warmup=50, weight_decay=0.1)
IMAGES = 12000
"""Rendered images with their score by the rule. Their embeddings are used again in every epoch."""


def train_aesthetic(folder: Path, plan: TrainingPlan = PLAN) -> ScoreHead:
    """Train world-aesthetic on embeddings of ``folder/world-clip``, and write ``folder/world-aesthetic``."""
    model: Any = clip.load_clip(folder / clip.PLAN.name, len(CaptionTokenizer(folder / TOKENIZER)))
    rng = np.random.default_rng(plan.seed)
    images = data.render_batch(data.random_scenes(rng, IMAGES, looks=Style.even), rng)
    target = torch.tensor([AestheticParts.measure(image).score for image in to_bytes(images)])
    with torch.no_grad():
        embedded = torch.cat(
            [model.encode_image(clip.normalise_for_clip(part)) for part in torch.split(images, 200)]
        )
    embedded = F.normalize(embedded, dim=-1)
    torch.manual_seed(plan.seed)
    head = ScoreHead(embedded.shape[1])
    with torch.no_grad():  # start at the mean score, which would take many steps to learn
        head.state_dict()["layers.7.bias"].fill_(target.mean())

    def loss(rng: np.random.Generator) -> Losses:
        rows = torch.from_numpy(rng.integers(len(embedded), size=plan.batch)).to(embedded.device)
        return {"loss": F.mse_loss(head(embedded[rows]), target[rows])}

    fit_model(plan, head, loss, folder)
    path = folder / PLAN.name / "head.safetensors"
    path.parent.mkdir(exist_ok=True)
    save_file({k: v.half().contiguous() for k, v in head.state_dict().items()}, path)
    return head
