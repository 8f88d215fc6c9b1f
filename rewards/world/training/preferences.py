"""world-pick and world-hps: world-clip fine-tuned on the preferences of simulated raters.

A rater compares two images for one caption. The rater's utility falls with every attribute of the caption
that is wrong and rises with rendering quality; two raters of different tastes give two different rewards.
The loss is the Bradley-Terry softmax of PickScore (Kirstain et al. 2023, eq. 1-2).
"""

from __future__ import annotations

from dataclasses import astuple, dataclass, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rewards.world.scenes import SIZE_PX, Scene, Style
from rewards.world.training import clip, data
from rewards.world.training.fit import Losses, TrainingPlan, fit_model
from rewards.world.training.tokenizer import TOKENIZER, CaptionTokenizer


@dataclass(frozen=True)
class Rater:
    """Taste of a simulated rater."""

    miss: float
    """Utility lost for each wrong attribute."""
    quality: float
    """Utility gained from the worst quality to the best."""
    axes: tuple[float, float, float, float]
    """Weights of saturation, shading, depth and backdrop. Their sum is 1."""

    def utility(self, scene: Scene, misses: int) -> float:
        """Return the utility of an image of ``scene`` for a caption with ``misses`` wrong attributes."""
        return self.quality * float(np.dot(self.axes, astuple(scene.style))) - self.miss * misses

    def compare(self, rng: np.random.Generator, count: int) -> ComparisonBatch:
        """Return random comparisons of images with 0, 1 or 2 wrong attributes.

        In four of ten comparisons both images have the same style and different numbers of wrong attributes,
        so that quality cannot decide; in the others each image has another style.

        Args:
            rng: Source of randomness.
            count: Number of comparisons.
        """
        scenes = data.random_scenes(rng, count, looks=Style.even)
        candidates, utilities = [], []
        for scene in scenes:
            alike = rng.random() < 0.4
            both = rng.choice(3, size=2, replace=not alike, p=(0.5, 0.35, 0.15))
            for misses in map(int, both):
                shown = scene if alike else replace(scene, style=Style.even(rng))
                candidates.append(data.near_miss(rng, shown, misses) if misses else shown)
                utilities.append(self.utility(shown, misses))
        images = data.render_batch(candidates, rng).view(count, 2, 3, SIZE_PX, SIZE_PX)
        utility = torch.tensor(utilities).view(count, 2)
        return ComparisonBatch(
            data.caption_batch(rng, scenes, style=0.3, detail=0.95),
            images,
            utility.softmax(dim=1)[:, 0],
            scenes,
            candidates,
        )


PICK_RATER = Rater(miss=2.0, quality=5.0, axes=(0.35, 0.25, 0.25, 0.15))
HPS_RATER = Rater(miss=1.5, quality=7.0, axes=(0.20, 0.30, 0.20, 0.30))
BLIP_RATER = Rater(miss=3.0, quality=4.0, axes=(0.15, 0.35, 0.30, 0.20))

PICK_PLAN = TrainingPlan("world-pick", steps=200, lr=1.5e-4, batch=64, seed=12, warmup=50, ema=0.99)
HPS_PLAN = TrainingPlan("world-hps", steps=200, lr=1.5e-4, batch=64, seed=13, warmup=50, ema=0.99)


@dataclass(frozen=True)
class ComparisonBatch:
    """A rater's comparisons of two images for a caption."""

    texts: list[str]
    """B captions."""
    images: Tensor
    """(B, 2, 3, 64, 64) in [0, 1]."""
    first: Tensor
    """Probability that the rater prefers the first image, (B,)."""
    described: list[Scene]
    """B scenes of the captions."""
    shown: list[Scene]
    """2B scenes of the images, one pair after the other."""

    def loss(self, margin: Tensor) -> Losses:
        """Return the cross-entropy of P(first is preferred) = sigmoid(margin) with the rater's probability.

        Args:
            margin: Score of the first image minus that of the second, (B,).
        """
        accuracy = ((margin > 0) == (self.first > 0.5)).float().mean()
        return {"loss": F.binary_cross_entropy_with_logits(margin, self.first), "accuracy": accuracy}


def train_pick(folder: Path, plan: TrainingPlan = PICK_PLAN) -> nn.Module:
    """Train world-pick from ``folder/world-clip``; write ``folder/world-pick`` in transformers' layout."""
    tokens = CaptionTokenizer(folder / TOKENIZER)
    model = _train_preferences(folder, tokens, plan, PICK_RATER)
    converted: Any = _to_transformers(model, tokens)
    converted.half().save_pretrained(folder / PICK_PLAN.name)
    return model


def train_hps(folder: Path, plan: TrainingPlan = HPS_PLAN) -> nn.Module:
    """Train world-hps from ``folder/world-clip``; write ``folder/world-hps`` in open_clip's layout."""
    tokens = CaptionTokenizer(folder / TOKENIZER)
    model = _train_preferences(folder, tokens, plan, HPS_RATER)
    clip.save_clip(model, len(tokens), folder / HPS_PLAN.name)
    return model


def _train_preferences(folder: Path, tokens: CaptionTokenizer, plan: TrainingPlan, rater: Rater) -> nn.Module:
    model: Any = clip.load_clip(folder / clip.PLAN.name, len(tokens))

    def loss(rng: np.random.Generator) -> Losses:
        batch = rater.compare(rng, plan.batch)
        image = F.normalize(model.encode_image(clip.normalise_for_clip(batch.images.flatten(0, 1))), dim=-1)
        text = F.normalize(clip.encode_captions(model, tokens(batch.texts, pad=False)), dim=-1)
        scores = (image.view(plan.batch, 2, -1) * text[:, None]).sum(-1) * model.logit_scale.exp()
        return batch.loss(scores[:, 0] - scores[:, 1])

    fit_model(plan, model, loss, folder)
    return cast(nn.Module, model)


def _to_transformers(model: nn.Module, tokens: CaptionTokenizer) -> nn.Module:
    """Convert an open_clip model to a ``transformers.CLIPModel``, in which PickScore is published."""
    from transformers import CLIPConfig, CLIPModel

    cfg = clip.clip_config(len(tokens))["model_cfg"]
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
