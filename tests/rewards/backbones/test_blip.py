"""The ranker against independent implementations: timm's ViT and transformers' BLIP text model."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import pytest
import torch
from timm.models.vision_transformer import VisionTransformer as TimmVisionTransformer
from transformers.models.blip.configuration_blip import BlipTextConfig
from transformers.models.blip.modeling_blip_text import BlipTextModel

from rewards.backbones.blip import BlipConfig, BlipRanker

CONFIG = BlipConfig(
    image_size=64,
    patch_size=16,
    vision_width=24,
    vision_layers=2,
    vision_heads=2,
    text_width=32,
    text_layers=2,
    text_heads=4,
    vocab_size=50,
    max_positions=16,
    max_tokens=12,
)


@pytest.fixture
def ranker() -> BlipRanker:
    torch.manual_seed(0)
    return BlipRanker(CONFIG).eval()


def test_vision_transformer_matches_timm(ranker: BlipRanker) -> None:
    reference = TimmVisionTransformer(
        img_size=64, patch_size=16, embed_dim=24, depth=2, num_heads=2, num_classes=0
    ).eval()
    reference.load_state_dict(ranker.blip["visual_encoder"].state_dict())  # the same keys
    pixels = torch.randn(2, 3, 64, 64)
    torch.testing.assert_close(ranker.blip["visual_encoder"](pixels), reference.forward_features(pixels))


@pytest.fixture
def reference(ranker: BlipRanker) -> BlipTextModel:
    """transformers' BLIP text model with the ranker's weights."""
    config = BlipTextConfig(
        vocab_size=50,
        hidden_size=32,
        encoder_hidden_size=24,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=16,
        is_decoder=True,  # required for the cross-attention
    )
    model = BlipTextModel(config, add_pooling_layer=False).eval()
    model.load_state_dict(ranker.blip["text_encoder"].state_dict(), strict=False)
    return model


@pytest.mark.parametrize("with_image", [True, False])
def test_text_encoder_matches_transformers(
    ranker: BlipRanker, reference: BlipTextModel, with_image: bool
) -> None:
    ids, mask = torch.randint(5, 50, (2, 12)), torch.ones(2, 12, dtype=torch.long)
    mask[1, 7:] = 0
    image = torch.randn(2, 17, 24) if with_image else None
    expected = reference(
        input_ids=ids, attention_mask=mask, encoder_hidden_states=image, is_decoder=False
    ).last_hidden_state
    torch.testing.assert_close(ranker.blip["text_encoder"](ids, mask, image), expected, rtol=1e-4, atol=1e-5)


def test_keys_match_the_published_checkpoint(ranker: BlipRanker) -> None:
    """The published keys are written out, so that a renamed module is noticed."""
    both = [f"{n}.{k}" for n in ("query", "key", "value") for k in ("weight", "bias")]
    dense = ["output.dense.weight", "output.dense.bias", "output.LayerNorm.weight", "output.LayerNorm.bias"]
    attention = [*(f"self.{name}" for name in both), *dense]
    layer = [f"{kind}.{name}" for kind in ("attention", "crossattention") for name in attention]
    layer += ["intermediate.dense.weight", "intermediate.dense.bias", *dense]
    block = [
        f"{n}.{k}"
        for n in ("norm1", "attn.qkv", "attn.proj", "norm2", "mlp.fc1", "mlp.fc2")
        for k in ("weight", "bias")
    ]
    vision = [
        "cls_token",
        "pos_embed",
        "patch_embed.proj.weight",
        "patch_embed.proj.bias",
        "norm.weight",
        "norm.bias",
    ]
    vision += [f"blocks.{i}.{name}" for i in range(2) for name in block]
    text = [f"embeddings.{n}.weight" for n in ("word_embeddings", "position_embeddings", "LayerNorm")]
    text += ["embeddings.LayerNorm.bias", *(f"encoder.layer.{i}.{name}" for i in range(2) for name in layer)]
    expected = {f"blip.visual_encoder.{name}" for name in vision} | {
        f"blip.text_encoder.{name}" for name in text
    }
    expected |= {f"mlp.layers.{i}.{k}" for i in (0, 2, 4, 6, 7) for k in ("weight", "bias")}
    assert set(ranker.state_dict()) == expected


def test_default_config_has_imagerewards_sizes() -> None:
    with torch.device("meta"):
        state = BlipRanker(BlipConfig()).state_dict()
    assert state["blip.visual_encoder.pos_embed"].shape == (1, 197, 1024)
    assert state["blip.visual_encoder.blocks.23.attn.qkv.weight"].shape == (3072, 1024)
    assert state["blip.text_encoder.encoder.layer.11.crossattention.self.key.weight"].shape == (768, 1024)
    assert state["blip.text_encoder.embeddings.word_embeddings.weight"].shape == (30524, 768)
    assert state["mlp.layers.0.weight"].shape == (1024, 768)


def test_padding_does_not_change_a_reward(ranker: BlipRanker) -> None:
    pixels, ids = torch.randn(1, 3, 64, 64), torch.randint(5, 50, (1, 6))
    padded = torch.cat([ids, torch.zeros(1, 6, dtype=torch.long)], dim=1)
    mask = (padded > 0).long()
    torch.testing.assert_close(ranker(pixels, padded, mask), ranker(pixels, ids, mask[:, :6]))


def test_config_file_round_trip_and_unknown_fields(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text(json.dumps(asdict(CONFIG)), encoding="utf-8")
    assert BlipConfig.read(path) == CONFIG
    path.write_text(json.dumps({"hidden_size": 3}), encoding="utf-8")
    with pytest.raises(
        ValueError, match=r"config\.json has unknown fields: hidden_size; available: image_size"
    ):
        BlipConfig.read(path)
