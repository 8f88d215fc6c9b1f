"""world-clip: a small CLIP in open_clip's architecture, trained on the world from scratch.

Training is contrastive (Radford et al. 2021, figure 3) with near misses among the negatives (Yuksekgonul et
al. 2023) and with two renders of each scene, so that a plain caption is as true of a good picture as of a bad
one (`rewards.world.training.data.AlignmentBatch`). Before that, each tower alone is pre-trained to answer
questions about scenes (`pretraining`), the text tower from captions and the vision tower from images. The
pre-trained text tower is also the start of the text encoder that is trained with the micro pipeline's UNet.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F

from rewards.preprocess import CLIP_MEAN, CLIP_STD
from rewards.world.scenes import Style
from rewards.world.training import data
from rewards.world.training.fit import Losses, TrainingPlan, fit_model
from rewards.world.training.pretraining import (
    QUESTIONS,
    WEIGHT,
    SceneQuestions,
    position_embeddings,
)
from rewards.world.training.tokenizer import CONTEXT_LENGTH, TOKENIZER, CaptionTokenizer

WEIGHTS = "open_clip_model.safetensors"

TEXT_PLAN = TrainingPlan(
    "world-clip-read", steps=600, lr=1e-3, batch=64, seed=11, warmup=50, weight_decay=0.05, ema=0.98
)
VISION_PLAN = TrainingPlan(
    "world-clip-look", steps=600, lr=1.5e-3, batch=64, seed=18, warmup=50, weight_decay=0.05, ema=0.98
)
PLAN = TrainingPlan(
    "world-clip", steps=650, lr=8e-4, batch=128, seed=19, warmup=50, weight_decay=0.05, ema=0.98
)
EVEN_PLAN = TrainingPlan(
    "world-clip-even", steps=220, lr=4e-4, batch=128, seed=29, warmup=20, weight_decay=0.05, ema=0.97
)
_EVENNESS = 10.0
"""Weight of the variance of a caption's logits over images of which it is true. A cosine falls with
everything that an embedding says beside the caption, also with good quality; this term takes that back.
"""

_STYLE = 0.6
"""Share of the text tower's captions that name the style. With a small share it hardly represents style."""


def clip_config(vocab_size: int) -> dict[str, Any]:
    """Return the open_clip configuration of the world's CLIP models."""
    return {
        "model_cfg": {
            "embed_dim": 128,
            "vision_cfg": {"image_size": 64, "layers": 4, "width": 128, "head_width": 32, "patch_size": 8},
            "text_cfg": {
                "context_length": CONTEXT_LENGTH,
                "vocab_size": vocab_size,
                "width": 128,
                "heads": 4,
                "layers": 3,
            },
        },
        "preprocess_cfg": {
            "mean": list(CLIP_MEAN),
            "std": list(CLIP_STD),
            "interpolation": "bicubic",
            "resize_mode": "shortest",
        },
    }


def _build_clip(vocab_size: int) -> nn.Module:
    """Return the model with random weights."""
    from open_clip.model import CLIP

    model: nn.Module = CLIP(**clip_config(vocab_size)["model_cfg"])
    return model


def normalise_for_clip(images: Tensor) -> Tensor:
    """Normalise images (B, 3, 64, 64) in [0, 1] for CLIP. World images already have the model's size."""
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (CLIP_MEAN, CLIP_STD))
    return (images - mean) / std


def train_clip_text(folder: Path, plan: TrainingPlan = TEXT_PLAN) -> nn.Module:
    """Pre-train the text tower alone, and write ``folder/world-clip-read``; the vision tower stays random.

    The tower answers the questions about the scene (`pretraining`) after every token, also after those of
    the padding, so that each holds everything said before it: a UNet attends to all of them.
    """
    tokens = CaptionTokenizer(folder / TOKENIZER)
    torch.manual_seed(plan.seed)
    model: Any = _build_clip(len(tokens))
    student = nn.ModuleDict({"model": model, "questions": nn.Linear(model.visual.output_dim, QUESTIONS)})

    def loss(rng: np.random.Generator) -> Losses:
        scenes = data.random_scenes(rng, plan.batch, looks=Style.even)
        states = _text_states(model, tokens(data.caption_batch(rng, scenes, _STYLE)))
        answers = student["questions"](states @ model.text_projection)
        return {"loss": WEIGHT * SceneQuestions.answers_loss(answers, scenes)}

    fit_model(plan, student, loss, folder)
    save_clip(model.eval(), len(tokens), folder / TEXT_PLAN.name)
    return cast(nn.Module, model)


def train_clip(
    folder: Path,
    vision: TrainingPlan = VISION_PLAN,
    plan: TrainingPlan = PLAN,
    even: TrainingPlan = EVEN_PLAN,
) -> nn.Module:
    """Train world-clip from ``folder/world-clip-read``, and write ``folder/world-clip``.

    Args:
        folder: Folder of the build.
        vision: Plan for the vision tower's pre-training.
        plan: Plan for both towers together.
        even: Plan for both towers with the term of `_EVENNESS`.
    """
    tokens = CaptionTokenizer(folder / TOKENIZER)
    torch.manual_seed(vision.seed)
    model: Any = load_clip(folder / TEXT_PLAN.name, len(tokens)).train()
    positions = model.visual.positional_embedding
    questions = SceneQuestions(model.visual.output_dim, positions.shape[1])
    # "looker" is a key of the saved training state.
    student = nn.ModuleDict({"model": model, "looker": questions})
    with torch.no_grad():
        positions.copy_(position_embeddings(8, positions.shape[1], class_token=True))
    model.visual.output_tokens = True

    def encode(images: Tensor) -> tuple[Tensor, Tensor]:
        embedded, patches = model.visual(normalise_for_clip(images))
        return embedded, patches

    def loss(rng: np.random.Generator, count: int, evenness: float, levels: float) -> Losses:
        batch = data.AlignmentBatch.random(rng, count, levels=levels)
        embedded, patches = encode(batch.images)
        text = F.normalize(encode_captions(model, tokens(batch.texts, pad=False)), dim=-1)
        scale = model.logit_scale.clamp(max=np.log(100.0)).exp()  # CLIP's limit of the inverse temperature
        embedded_unit = F.normalize(embedded, dim=-1)
        matched = contrastive_loss(embedded_unit, text, scale, batch)
        spread = batch.spread(scale * embedded_unit @ text.T)
        # The questions stay on, or the vision tower would forget shapes and positions again.
        asked = questions.loss(embedded, patches, batch.scenes)
        total = matched["loss"] + asked + evenness * spread
        return {"loss": total, "accuracy": matched["accuracy"], "questions": asked, "spread": spread}

    questions.pretrain(vision, student, encode, folder)
    fit_model(plan, student, lambda rng: loss(rng, plan.batch, 0.0, 0.0), folder)
    fit_model(even, student, lambda rng: loss(rng, even.batch, _EVENNESS, 0.5), folder)
    model.visual.output_tokens = False
    save_clip(model.eval(), len(tokens), folder / PLAN.name)
    return cast(nn.Module, model)


def _text_states(model: Any, ids: Tensor) -> Tensor:
    """States (B, T, W) after open_clip's text tower and its last norm, of ids (B, T) with any T <= 48."""
    length = ids.shape[1]
    x = model.token_embedding(ids) + model.positional_embedding[:length]
    states: Tensor = model.ln_final(model.transformer(x, attn_mask=model.attn_mask[:length, :length]))
    return states


def encode_captions(model: Any, ids: Tensor) -> Tensor:
    """Embed token ids with open_clip's text tower; ids without padding take half of the time.

    Args:
        model: The CLIP model.
        ids: Token ids (B, T) with any T <= 48.

    Returns:
        Embeddings (B, D), not normalised.
    """
    # Attention is causal and pooling is at the end token, the highest id, so padding after it has no effect.
    x = _text_states(model, ids)
    embedding: Tensor = x[torch.arange(len(ids)), ids.argmax(dim=1)] @ model.text_projection
    return embedding


def contrastive_loss(image: Tensor, text: Tensor, scale: Tensor, batch: data.AlignmentBatch) -> Losses:
    """Return CLIP's symmetric cross-entropy with several true captions an image and images a caption.

    Args:
        image: Unit embeddings (N, D).
        text: Unit embeddings (N, D) of the captions.
        scale: Inverse temperature.
        batch: The images and captions.
    """
    logits = scale * image @ text.T
    to_text, to_image = batch.targets
    loss = (F.cross_entropy(logits, to_text) + F.cross_entropy(logits.T, to_image)) / 2
    accuracy = batch.matches.gather(1, logits.argmax(dim=1, keepdim=True)).mean()
    return {"loss": loss, "accuracy": accuracy}


def save_clip(model: nn.Module, vocab_size: int, folder: Path) -> None:
    """Write an open_clip "local-dir" folder with float16 weights."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "open_clip_config.json").write_text(
        json.dumps(clip_config(vocab_size), indent=1) + "\n", encoding="utf-8"
    )
    half = {k: v.half().contiguous() if v.is_floating_point() else v for k, v in model.state_dict().items()}
    save_file(half, folder / WEIGHTS)


def load_clip(folder: Path, vocab_size: int) -> nn.Module:
    """Load a model of `save_clip` in float32 and eval mode."""
    model = _build_clip(vocab_size)
    weights = load_file(folder / WEIGHTS, device=str(torch.get_default_device()))
    model.load_state_dict({k: v.float() if v.is_floating_point() else v for k, v in weights.items()})
    return model.eval()


def transformers_keys(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Convert open_clip's keys and layouts to those of ``transformers.CLIPModel``."""
    renamed = {
        "logit_scale": weights["logit_scale"],
        "text_projection.weight": weights["text_projection"].T,
        "visual_projection.weight": weights["visual.proj"].T,
        "text_model.embeddings.token_embedding.weight": weights["token_embedding.weight"],
        "text_model.embeddings.position_embedding.weight": weights["positional_embedding"],
        "vision_model.embeddings.class_embedding": weights["visual.class_embedding"],
        "vision_model.embeddings.patch_embedding.weight": weights["visual.conv1.weight"],
        "vision_model.embeddings.position_embedding.weight": weights["visual.positional_embedding"],
    }
    for kind in ("weight", "bias"):
        renamed[f"text_model.final_layer_norm.{kind}"] = weights[f"ln_final.{kind}"]
        renamed[f"vision_model.pre_layrnorm.{kind}"] = weights[f"visual.ln_pre.{kind}"]
        renamed[f"vision_model.post_layernorm.{kind}"] = weights[f"visual.ln_post.{kind}"]
    renamed |= _blocks(weights, "transformer.resblocks.", "text_model.encoder.layers.")
    renamed |= _blocks(weights, "visual.transformer.resblocks.", "vision_model.encoder.layers.")
    return {name: value.detach().contiguous() for name, value in renamed.items()}


def _blocks(weights: dict[str, Tensor], old: str, new: str) -> dict[str, Tensor]:
    """Rename the transformer blocks below prefix ``old`` to ``new``, and split the fused q, k, v weights."""
    names = {
        "attn.out_proj": "self_attn.out_proj",
        "ln_1": "layer_norm1",
        "ln_2": "layer_norm2",
        "mlp.c_fc": "mlp.fc1",
        "mlp.c_proj": "mlp.fc2",
    }
    renamed = {}
    for key, value in weights.items():
        if not key.startswith(old):
            continue
        layer, _, rest = key.removeprefix(old).partition(".")
        if rest.startswith("attn.in_proj_"):
            kind = rest.removeprefix("attn.in_proj_")
            for part, piece in zip("qkv", value.chunk(3), strict=True):
                renamed[f"{new}{layer}.self_attn.{part}_proj.{kind}"] = piece
        else:
            module, _, kind = rest.rpartition(".")
            renamed[f"{new}{layer}.{names[module]}.{kind}"] = value
    return renamed
