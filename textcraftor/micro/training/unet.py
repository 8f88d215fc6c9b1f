"""The micro pipeline's UNet and a text encoder, trained together on the world's latents.

The shipped text encoder is distilled from this one (`textcraftor.micro.training.text`).

The text encoder starts as world-clip's pre-trained text tower and is trained further at a lower rate. Some
captions are replaced by the empty prompt, so that classifier-free guidance works (Ho & Salimans 2022).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import DDIMScheduler, UNet2DConditionModel
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel

from rewards.world.scenes import Scene, Style
from rewards.world.training import data
from rewards.world.training.clip import TEXT_PLAN, WEIGHTS, transformers_keys
from rewards.world.training.fit import Losses, TrainingPlan, fit_model
from rewards.world.training.tokenizer import CONTEXT_LENGTH, TOKENIZER, CaptionTokenizer
from textcraftor.micro.training.vae import CHANNELS, patch_latents

PLAN = TrainingPlan("unet", steps=8000, lr=8e-4, batch=32, seed=31, warmup=200, ema=0.998)
LOOKS_PLAN = TrainingPlan("unet-looks", steps=850, lr=4e-4, batch=32, seed=34, warmup=30, ema=0.99)
TEXT_LR_SCALE = 0.3
"""Learning rate of the text encoder, as a share of the UNet's."""

NULL_CAPTIONS = 0.1
"""Share of captions that are replaced by the empty prompt."""


def noise_scheduler() -> DDIMScheduler:
    """Return Stable Diffusion 1.5's noise schedule with v-prediction, sampled at trailing timesteps."""
    return DDIMScheduler(
        num_train_timesteps=1000,
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
        prediction_type="v_prediction",
        timestep_spacing="trailing",
    )


def _build_unet(channels: int = CHANNELS) -> UNet2DConditionModel:
    """The UNet with random weights: latents of 8 x 8, cross-attention at both resolutions."""
    return UNet2DConditionModel(
        sample_size=8,
        in_channels=channels,
        out_channels=channels,
        block_out_channels=(64, 128),
        layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=128,
        # diffusers' historical name: this is the number of heads, as in Stable Diffusion 1.5
        attention_head_dim=4,
    )


def build_text_encoder(tokens: CaptionTokenizer) -> CLIPTextModel:
    """Return a text encoder with random weights, in the shape of world-clip's text tower."""
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokens),
            hidden_size=128,
            intermediate_size=512,
            num_hidden_layers=3,
            num_attention_heads=4,
            max_position_embeddings=CONTEXT_LENGTH,
            projection_dim=128,
            hidden_act="gelu",
            bos_token_id=tokens.tokenizer.bos_token_id,
            eos_token_id=tokens.tokenizer.eos_token_id,
            pad_token_id=tokens.tokenizer.pad_token_id,
        )
    )


class _ConditionedUNet(nn.Module):
    """The UNet and the text encoder that conditions it as one module, with random weights.

    Args:
        tokens: Tokenizer of the text encoder.
    """

    def __init__(self, tokens: CaptionTokenizer) -> None:
        super().__init__()
        self.unet, self.text_encoder = _build_unet(), build_text_encoder(tokens)

    def forward(self, noisy: Tensor, timestep: Tensor, ids: Tensor) -> Tensor:
        """Predict v (B, 16, 8, 8) from noisy latents (B, 16, 8, 8), timesteps (B,) and token ids (B, 48)."""
        context = self.text_encoder(input_ids=ids).last_hidden_state
        predicted: Tensor = self.unet(noisy, timestep, context).sample
        return predicted


def unet_captions(rng: np.random.Generator, scenes: list[Scene]) -> list[str]:
    """Return a caption of each scene as the UNet sees them: good pictures are more often called good."""
    return data.caption_batch(rng, scenes, style=0.4, detail=0.92, good_style=0.85)


def train_unet(folder: Path, plan: TrainingPlan = PLAN, looks: TrainingPlan = LOOKS_PLAN) -> _ConditionedUNet:
    """Train UNet and text encoder, the latter from ``folder/world-clip-read``; resumes.

    The result is in the state file ``folder/unet-looks.safetensors``; `load_trained_unet` reads it.

    Args:
        folder: Folder of the build.
        plan: Plan for both on images whose looks go together.
        looks: Plan for the UNet alone on images whose looks are independent. After the first plan alone,
            words for two looks pull the others along until they reach the best quality. After a training
            with independent looks from the start, text has hardly an effect on looks that it cannot name.
    """
    tokens, latent, noise = CaptionTokenizer(folder / TOKENIZER), patch_latents(folder), noise_scheduler()
    torch.manual_seed(plan.seed)
    model = _ConditionedUNet(tokens)
    tower = transformers_keys(
        load_file(folder / TEXT_PLAN.name / WEIGHTS, device=str(torch.get_default_device()))
    )
    _load_text_weights(model.text_encoder, {k: v for k, v in tower.items() if k.startswith("text_model.")})

    def loss(rng: np.random.Generator, count: int, style: Callable[[np.random.Generator], Style]) -> Losses:
        scenes = data.random_scenes(rng, count, looks=style)
        clean = latent.encode(data.render_batch(scenes)) * latent.factor
        texts = unet_captions(rng, scenes)
        texts = [
            "" if drop else text for text, drop in zip(texts, rng.random(count) < NULL_CAPTIONS, strict=True)
        ]
        timestep, epsilon = _random_timesteps(count), torch.randn_like(clean)
        predicted = model(noise.add_noise(clean, epsilon, timestep), timestep, tokens(texts))
        error = (predicted - noise.get_velocity(clean, epsilon, timestep)).square().mean(dim=(1, 2, 3))
        high = timestep >= 500
        parts = {"high_noise": error[high].mean(), "low_noise": error[~high].mean()}
        return {"loss": error.mean(), **{k: v for k, v in parts.items() if not torch.isnan(v)}}

    groups: list[dict[str, Any]] = [
        {"params": list(model.unet.parameters())},
        {"params": list(model.text_encoder.parameters()), "scale": TEXT_LR_SCALE},
    ]
    fit_model(plan, model, lambda rng: loss(rng, plan.batch, Style.together), folder, groups)
    model.text_encoder.requires_grad_(False)
    fit_model(looks, model, lambda rng: loss(rng, looks.batch, Style.random), folder, groups[:1])
    return model


def load_trained_unet(folder: Path) -> _ConditionedUNet:
    """Load the averaged weights of a finished `train_unet`."""
    model = _ConditionedUNet(CaptionTokenizer(folder / TOKENIZER))
    state = load_file(folder / f"{LOOKS_PLAN.name}.safetensors")
    prefix = "average."
    model.load_state_dict({k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)})
    return model


def unet_seconds(channels: int = CHANNELS, batch: int = 16, passes: int = 9) -> float:
    """Return the median duration in seconds of a UNet pass with random weights.

    Args:
        channels: Latent channels.
        batch: Latents of a pass.
        passes: Number of passes.
    """
    unet = _build_unet(channels).eval()
    latents, states = torch.randn(batch, channels, 8, 8), torch.randn(batch, CONTEXT_LENGTH, 128)
    seconds = []
    with torch.inference_mode():
        for _ in range(passes):
            began = time.perf_counter()
            unet(latents, 500, states)
            seconds.append(time.perf_counter() - began)
    return float(np.median(seconds))


def _load_text_weights(model: nn.Module, weights: dict[str, Tensor]) -> None:
    """Load ``text_model.``-prefixed weights strictly; some transformers versions have no such prefix."""
    state = model.state_dict()
    plain = not any(key.startswith("text_model.") for key in state)
    renamed = {k.removeprefix("text_model.") if plain else k: v.float() for k, v in weights.items()}
    renamed |= {k: v for k, v in state.items() if k.endswith("position_ids")}  # a buffer, not a weight
    model.load_state_dict(renamed)


def _random_timesteps(count: int) -> Tensor:
    """Random timesteps (count,) int64 in [0, 999]."""
    # Logit-normal (Esser et al. 2024, section 3.1), shifted to high noise, where shapes and positions are
    # decided.
    return (1000 * torch.sigmoid(1.15 * torch.randn(count) + 0.9)).long().clamp(0, 999)
