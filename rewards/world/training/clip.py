"""world-clip: a small CLIP in open_clip's own architecture, trained on the world from scratch.

Contrastive (Radford et al. 2021, figure 3) with one false caption an image as an extra negative
(Yuksekgonul et al. 2023). Each tower first learns alone to answer questions about scenes (see `looking`), the
text tower from captions and the vision tower from pictures; then both are trained together. The text tower
that can `read` is also where the pipeline's text encoder starts.
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

from rewards.world.training import data
from rewards.world.training.fit import Losses, Plan, fit
from rewards.world.training.looking import QUESTIONS, WEIGHT, Looker, after_class_token, questions_loss, teach
from rewards.world.training.tokenizer import CONTEXT_LENGTH

WEIGHTS = "open_clip_model.safetensors"

READ = Plan("world-clip-read", steps=600, lr=1e-3, batch=64, seed=11, warmup=50, weight_decay=0.05, ema=0.98)
LOOK = Plan(
    "world-clip-look", steps=600, lr=1.5e-3, batch=64, seed=18, warmup=50, weight_decay=0.05, ema=0.98
)
PLAN = Plan("world-clip", steps=650, lr=8e-4, batch=128, seed=19, warmup=50, weight_decay=0.05, ema=0.98)

STYLE = 0.6
"""Share of captions that name the quality: seldom named, it is hardly in the embedding."""


def config(vocab_size: int) -> dict[str, Any]:
    """The open_clip configuration file of the world's CLIP models."""
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
            "mean": [0.48145466, 0.4578275, 0.40821073],
            "std": [0.26862954, 0.26130258, 0.27577711],
            "interpolation": "bicubic",
            "resize_mode": "shortest",
        },
    }


def build(vocab_size: int) -> nn.Module:
    """The model with random weights."""
    from open_clip.model import CLIP

    model: nn.Module = CLIP(**config(vocab_size)["model_cfg"])
    return model


def normalise(images: Tensor) -> Tensor:
    """[0, 1] RGB to CLIP's input space; world pictures already have the model's size."""
    cfg = config(0)["preprocess_cfg"]
    mean, std = (torch.tensor(cfg[name]).view(1, 3, 1, 1) for name in ("mean", "std"))
    return (images - mean) / std


class Tokens:
    """Texts to token ids (B, T) int64 on torch's default device.

    T = 48, or the longest text's length unpadded.
    """

    def __init__(self, folder: Path) -> None:
        from transformers import CLIPTokenizer

        self.tokenizer = CLIPTokenizer.from_pretrained(folder)

    def __len__(self) -> int:
        return len(self.tokenizer)

    def __call__(self, texts: list[str], pad: bool = True) -> Tensor:
        padding = "max_length" if pad else "longest"
        batch = self.tokenizer(
            texts, padding=padding, truncation=True, max_length=CONTEXT_LENGTH, return_tensors="pt"
        )
        ids: Tensor = batch["input_ids"]
        return ids.to(torch.get_default_device())


def read(tokenizer: Path, folder: Path, plan: Plan = READ) -> nn.Module:
    """Teach the text tower alone, from scratch, resuming from ``folder``; the vision tower stays random.

    After every token it is asked the questions about the scene (see `looking`), so that every token, those of
    the padding too, holds what was said up to there: a UNet attends to them all.
    """
    tokens = Tokens(tokenizer)
    torch.manual_seed(plan.seed)
    model: Any = build(len(tokens))
    student = nn.ModuleDict({"model": model, "questions": nn.Linear(model.visual.output_dim, QUESTIONS)})

    def loss(rng: np.random.Generator) -> Losses:
        scenes = data.random_scenes(rng, plan.batch)
        states = text_states(model, tokens(data.captions(rng, scenes, STYLE)))
        answers = student["questions"](states @ model.text_projection)
        return {"loss": WEIGHT * questions_loss(answers, scenes)}

    fit(plan, student, loss, folder)
    return cast(nn.Module, model.eval())


def train(tokenizer: Path, start: Path, folder: Path, look: Plan = LOOK, plan: Plan = PLAN) -> nn.Module:
    """Train the model in ``start``, which can `read`: first its eyes, then both towers; resumes."""
    tokens = Tokens(tokenizer)
    torch.manual_seed(look.seed)
    model: Any = load(start, len(tokens)).train()
    places = model.visual.positional_embedding
    looker = Looker(model.visual.output_dim, places.shape[1])
    student = nn.ModuleDict({"model": model, "looker": looker})
    with torch.no_grad():
        places.copy_(after_class_token(8, places.shape[1]))
    model.visual.output_tokens = True

    def see(images: Tensor) -> tuple[Tensor, Tensor]:
        embedded, patches = model.visual(normalise(images))
        return embedded, patches

    def loss(rng: np.random.Generator) -> Losses:
        scenes = data.random_scenes(rng, plan.batch)
        embedded, patches = see(data.soften(rng, data.pictures(rng, scenes)))
        texts = data.captions(rng, scenes, STYLE) + data.false_captions(rng, scenes, STYLE)
        text = F.normalize(encode_text(model, tokens(texts, pad=False)), dim=-1)
        scale = model.logit_scale.clamp(max=np.log(100.0)).exp()
        found = contrastive(F.normalize(embedded, dim=-1), text, scale)
        asked = looker.loss(embedded, patches, scenes)
        return {"loss": found["loss"] + asked, "accuracy": found["accuracy"], "questions": asked}

    teach(look, student, looker, see, folder)
    fit(plan, student, loss, folder)
    model.visual.output_tokens = False
    return cast(nn.Module, model.eval())


def text_states(model: Any, ids: Tensor) -> Tensor:
    """States (B, T, W) of ids (B, T) of any T <= 48 after open_clip's text tower and its last norm."""
    length = ids.shape[1]
    x = model.token_embedding(ids) + model.positional_embedding[:length]
    states: Tensor = model.ln_final(model.transformer(x, attn_mask=model.attn_mask[:length, :length]))
    return states


def encode_text(model: Any, ids: Tensor) -> Tensor:
    """Embed ids (B, T) of any T <= 48 with open_clip's text tower: (B, D), not normalised. Half of its work.

    Attention is causal and pooling is at the end token, so the padding that is left out changes nothing.
    """
    x = text_states(model, ids)
    embedding: Tensor = x[torch.arange(len(ids)), ids.argmax(dim=1)] @ model.text_projection
    return embedding


def contrastive(image: Tensor, text: Tensor, scale: Tensor) -> Losses:
    """Symmetric cross-entropy of unit embeddings: image (B, D), text (2B, D), right captions first."""
    logits = scale * image @ text.T
    target = torch.arange(len(image))
    to_text, to_image = F.cross_entropy(logits, target), F.cross_entropy(logits[:, : len(image)].T, target)
    right = (logits.argmax(dim=1) == target).float().mean()
    return {"loss": (to_text + to_image) / 2, "accuracy": right}


def save(model: nn.Module, vocab_size: int, folder: Path) -> None:
    """Write an open_clip "local-dir" folder with float16 weights."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "open_clip_config.json").write_text(
        json.dumps(config(vocab_size), indent=1) + "\n", encoding="utf-8"
    )
    half = {k: v.half().contiguous() if v.is_floating_point() else v for k, v in model.state_dict().items()}
    save_file(half, folder / WEIGHTS)


def load(folder: Path, vocab_size: int) -> nn.Module:
    """The model saved in an open_clip folder, as float32."""
    model = build(vocab_size)
    weights = load_file(folder / WEIGHTS, device=str(torch.get_default_device()))
    model.load_state_dict({k: v.float() if v.is_floating_point() else v for k, v in weights.items()})
    return model.eval()


def transformers_keys(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """open_clip's key names and layouts -> those of ``transformers.CLIPModel``."""
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
    """The transformer blocks below prefix ``old``, renamed below ``new``; the fused q, k, v are split."""
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
