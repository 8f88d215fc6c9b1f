"""Rendered preferences and the two rewards that learn them: world-pick and world-hps.

A simulated rater compares two pictures for one caption. The rater's utility falls with every stated
attribute that is wrong and rises with rendering quality; two raters with different tastes make two
different rewards. Both fine-tune world-clip with the Bradley-Terry softmax of PickScore (Kirstain et al.
2023, eq. 1-2).
"""

from __future__ import annotations

from dataclasses import astuple, dataclass, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rewards.world.scenes import SIZE_PX, Scene, random_style
from rewards.world.training import clip, data
from rewards.world.training.fit import Losses, Plan, fit


@dataclass(frozen=True)
class Rater:
    """A taste: utility lost for each wrong attribute, and gained from the worst quality to the best.

    ``axes`` weigh saturation, sharpness, cleanness and glow and add up to 1.
    """

    miss: float
    quality: float
    axes: tuple[float, float, float, float]

    def utility(self, scene: Scene, misses: int) -> float:
        """Utility of a picture of ``scene`` for a caption of which ``misses`` attributes are wrong."""
        return self.quality * float(np.dot(self.axes, astuple(scene.style))) - self.miss * misses


PICK_RATER = Rater(miss=2.0, quality=5.0, axes=(0.40, 0.30, 0.20, 0.10))
HPS_RATER = Rater(miss=1.5, quality=7.0, axes=(0.25, 0.20, 0.25, 0.30))
BLIP_RATER = Rater(miss=3.0, quality=4.0, axes=(0.30, 0.30, 0.30, 0.10))

PICK_PLAN = Plan("world-pick", steps=200, lr=1.5e-4, batch=64, seed=12, warmup=50, ema=0.99)
HPS_PLAN = Plan("world-hps", steps=200, lr=1.5e-4, batch=64, seed=13, warmup=50, ema=0.99)


@dataclass(frozen=True)
class Comparison:
    """Captions (B), two pictures each (B, 2, 3, 64, 64) and the chance that the first is preferred (B,).

    ``told`` are the scenes that the captions tell of (B), ``shown`` those of the pictures, one pair
    after the other (2B).
    """

    texts: list[str]
    images: Tensor
    first: Tensor
    told: list[Scene]
    shown: list[Scene]


def comparisons(rng: np.random.Generator, count: int, rater: Rater) -> Comparison:
    """``count`` comparisons: candidates have 0, 1 or 2 wrong attributes and styles of their own.

    In four of ten both have one style and different numbers of wrong attributes, so quality cannot decide.
    """
    scenes = data.random_scenes(rng, count)
    candidates, utilities = [], []
    for scene in scenes:
        alike = rng.random() < 0.4
        both = rng.choice(3, size=2, replace=not alike, p=(0.5, 0.35, 0.15))
        for misses in map(int, both):
            shown = scene if alike else replace(scene, style=random_style(rng))
            candidates.append(data.near_miss(rng, shown, misses) if misses else shown)
            utilities.append(rater.utility(shown, misses))
    images = data.soften(rng, data.pictures(rng, candidates)).view(count, 2, 3, SIZE_PX, SIZE_PX)
    utility = torch.tensor(utilities).view(count, 2)
    return Comparison(
        data.captions(rng, scenes, style=0.3, detail=0.95),
        images,
        utility.softmax(dim=1)[:, 0],
        scenes,
        candidates,
    )


def train(tokenizer: Path, base: Path, folder: Path, plan: Plan, rater: Rater) -> nn.Module:
    """Fine-tune the world-clip in ``base`` on a rater's comparisons, resuming from ``folder``."""
    tokens = clip.Tokens(tokenizer)
    model: Any = clip.load(base, len(tokens))

    def loss(rng: np.random.Generator) -> Losses:
        batch = comparisons(rng, plan.batch, rater)
        image = F.normalize(model.encode_image(clip.normalise(batch.images.flatten(0, 1))), dim=-1)
        text = F.normalize(clip.encode_text(model, tokens(batch.texts, pad=False)), dim=-1)
        scores = (image.view(plan.batch, 2, -1) * text[:, None]).sum(-1) * model.logit_scale.exp()
        return bradley_terry(scores[:, 0] - scores[:, 1], batch.first)

    fit(plan, model, loss, folder)
    return cast(nn.Module, model)


def bradley_terry(margin: Tensor, first: Tensor) -> Losses:
    """Cross-entropy of the preference P(first) = sigmoid(margin) with the rater's probability, both (B,)."""
    right = ((margin > 0) == (first > 0.5)).float().mean()
    return {"loss": F.binary_cross_entropy_with_logits(margin, first), "accuracy": right}


def as_transformers(model: nn.Module, tokens: clip.Tokens) -> nn.Module:
    """The same CLIP as a ``transformers.CLIPModel``, the layout PickScore is published in."""
    from transformers import CLIPConfig, CLIPModel

    cfg = clip.config(len(tokens))["model_cfg"]
    vision, text = cfg["vision_cfg"], cfg["text_cfg"]
    special = tokens.tokenizer
    sizes = {"projection_dim": cfg["embed_dim"], "hidden_act": "gelu"}
    config = CLIPConfig(
        text_config=sizes
        | {
            "vocab_size": len(tokens),
            "hidden_size": text["width"],
            "intermediate_size": 4 * text["width"],
            "num_hidden_layers": text["layers"],
            "num_attention_heads": text["heads"],
            "max_position_embeddings": text["context_length"],
            "bos_token_id": special.bos_token_id,
            "eos_token_id": special.eos_token_id,
            "pad_token_id": special.pad_token_id,
        },
        vision_config=sizes
        | {
            "hidden_size": vision["width"],
            "intermediate_size": 4 * vision["width"],
            "num_hidden_layers": vision["layers"],
            "num_attention_heads": vision["width"] // vision["head_width"],
            "image_size": vision["image_size"],
            "patch_size": vision["patch_size"],
        },
        projection_dim=cfg["embed_dim"],
    )
    converted: nn.Module = CLIPModel(config)
    converted.load_state_dict(clip.transformers_keys(model.state_dict()), strict=True)
    return converted.eval()
