"""Checkpoints of random weights in the official layout, which the official packages and ours both read.

The weights are chosen so that scores spread. All embeddings of a random CLIP point almost the same way:
scores would be nearly equal, and agreement would say nothing. So the mean embedding over some images and
texts is subtracted in the bias of the last norms, and what is left differs from image to image and from text
to text.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from rewards.backbones.blip import BlipConfig, BlipRanker
from rewards.backbones.tokens import OpenClipTokenizer, bert_tokenizer
from rewards.info import RewardInfo, WeightsFile
from rewards.models.imagereward import PUBLISHED
from rewards.verification.official.environment import run_official
from rewards.verification.tiny.vocabularies import write_tiny_tokenizer
from rewards.weights.locate import locate_weights
from tcbench.errors import MissingFiles

_SMALL_CLIP = {
    "embed_dim": 64,
    "vision_cfg": {"image_size": 224, "layers": 4, "width": 128, "head_width": 32, "patch_size": 16},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 96, "heads": 4, "layers": 4},
}
_SMALL_BLIP = replace(PUBLISHED, vision_width=128, vision_layers=4, vision_heads=4, text_layers=3)
"""Small but for the text's width, which the official code fixes at 768."""

_GAIN = 2.0
"""Factor on the random weights: otherwise attention is almost uniform and activations are almost linear."""

_TEXTS = ("cat", "large horse", "river at dawn", "seventeen geese", "oil", "cup on a table", "rocket", "mist")


@dataclass(frozen=True)
class _OfficialCheckpoint:
    """Random weights of one reward in the official layout, with what each side needs to read them."""

    record: RewardInfo
    """The reward with the checkpoint's architecture and without the published hashes."""
    files: Mapping[str, Path]
    """Paths by the keys of the record's weights."""
    package: str
    """Name of the official package on PyPI."""
    job: Mapping[str, Any]
    """The checkpoint's part of a job of `rewards.verification.official.runner`."""

    def score(self, images: Sequence[Path], prompts: Sequence[str], **options: Any) -> dict[str, Any]:
        """Return the official code's answer (see `rewards.verification.official.runner`)."""
        inputs = {"images": list(map(str, images)), "prompts": list(prompts)}
        return run_official({**self.job, **inputs, **options})


def _write_hpsv2(record: RewardInfo, folder: Path, *, full: bool) -> _OfficialCheckpoint:
    """Write a small CLIP, or the published ViT-H/14 if ``full``, under the key "state_dict"."""
    import open_clip
    from open_clip.model import CLIP

    name = "ViT-H-14" if full else "tcbench-small"
    job: dict[str, Any] = {"reward": "hpsv2", "antialias": record.profile.endswith("antialias")}
    if not full:
        config = folder / f"{name}.json"
        config.write_text(json.dumps(_SMALL_CLIP), encoding="utf-8")
        open_clip.add_model_config(config)
        job["architecture"] = str(config)
    torch.manual_seed(0)
    model = CLIP(**open_clip.get_model_config(name)).eval()
    with torch.no_grad():
        _strengthen(model)
        noise = torch.nn.functional.interpolate(torch.randn(8, 3, 12, 12), 224, mode="bicubic")
        texts = OpenClipTokenizer()([f"{text} number {i}" for i, text in enumerate(_TEXTS)]).ids
        _centre(model.visual.ln_post, lambda: model.encode_image(noise))
        _centre(model.ln_final, lambda: model.encode_text(texts), at=texts.argmax(dim=-1))
    path = folder / record.weights[0].file
    torch.save({"state_dict": {k: v.half() for k, v in model.state_dict().items()}}, path)
    options = {**record.options, "architecture": name}
    files = tuple(replace(file, sha256="") for file in record.weights)
    job["checkpoint"] = str(path)
    record = replace(record, options=options, weights=files)
    return _OfficialCheckpoint(record, {"checkpoint": path}, "hpsv2", job)


def _write_imagereward(record: RewardInfo, folder: Path, *, full: bool) -> _OfficialCheckpoint:
    """Write a small BLIP ranker, or one of the published size if ``full``, with BLIP's pretraining heads.

    Where BERT's vocabulary is not on this machine, one of single letters takes its place.
    """
    config = PUBLISHED if full else _SMALL_BLIP
    vocabulary = _local_vocabulary(record) or write_tiny_tokenizer(
        "bert", folder / "vocab.txt", config.max_tokens
    )
    torch.manual_seed(0)
    ranker = BlipRanker(config).eval()
    with torch.no_grad():
        _strengthen(ranker)
        tokens = bert_tokenizer(vocabulary, config.max_tokens)([f"a {text}" for text in _TEXTS])
        noise = torch.nn.functional.interpolate(torch.randn(8, 3, 12, 12), 224, mode="bicubic")
        raw = ranker(noise, *tokens)
        # Standardise the scores through the last layer, as the published ones are.
        last: Any = ranker.mlp.layers[-1]
        last.weight /= raw.std()
        last.bias -= raw.mean() / raw.std()
    state = ranker.state_dict()
    for tower, width in (("vision", config.vision_width), ("text", config.text_width)):
        state |= {
            f"blip.{tower}_proj.weight": torch.randn(256, width),
            f"blip.{tower}_proj.bias": torch.randn(256),
        }
    path = folder / "ImageReward.pt"
    torch.save(state, path)
    sizes = folder / "config.json"
    sizes.write_text(json.dumps(asdict(config)), encoding="utf-8")
    job: dict[str, Any] = {"reward": "imagereward", "checkpoint": str(path), "vocabulary": str(vocabulary)}
    job["med_config"] = str(_write_med_config(folder / "med_config.json", config))
    if not full:
        job["architecture"] = {
            "width": config.vision_width,
            "depth": config.vision_layers,
            "heads": config.vision_heads,
        }
    files = {"checkpoint": path, "vocabulary": vocabulary, "config": sizes}
    weights = (
        *(replace(file, sha256="") for file in record.weights),
        WeightsFile("config", file="config.json"),
    )
    return _OfficialCheckpoint(replace(record, weights=weights), files, "image-reward", job)


def _write_med_config(path: Path, config: BlipConfig) -> Path:
    """Write the sizes as BLIP's configuration file of a BERT with cross-attention (its ``med_config``)."""
    settings = {
        "architectures": ["BertModel"],
        "model_type": "bert",
        "hidden_act": "gelu",
        "attention_probs_dropout_prob": 0.1,
        "hidden_dropout_prob": 0.1,
        "initializer_range": 0.02,
        "layer_norm_eps": 1e-12,
        "pad_token_id": 0,
        "type_vocab_size": 2,
        "add_cross_attention": True,
        "hidden_size": config.text_width,
        "intermediate_size": 4 * config.text_width,
        "num_attention_heads": config.text_heads,
        "num_hidden_layers": config.text_layers,
        "max_position_embeddings": config.max_positions,
        "vocab_size": config.vocab_size,
        "encoder_width": config.vision_width,
    }
    path.write_text(json.dumps(settings), encoding="utf-8")
    return path


def _local_vocabulary(record: RewardInfo) -> Path | None:
    """Return BERT's vocabulary if it is on this machine; it is not downloaded."""
    file = next(file for file in record.weights if file.key == "vocabulary")
    try:
        return locate_weights(replace(record, weights=(file,)), fetch=False)["vocabulary"]
    except MissingFiles:
        return None


def _strengthen(model: nn.Module) -> None:
    for name, parameter in model.named_parameters():
        if parameter.ndim == 2 and "embedding" not in name:
            parameter.mul_(_GAIN)


def _centre(norm: nn.Module, embed: Callable[[], Any], at: Tensor | None = None) -> None:
    """Subtract from the bias of ``norm`` the mean of its outputs while ``embed`` runs.

    Args:
        norm: The last norm of a tower.
        embed: Runs the tower once.
        at: Token (B,) of each text whose state is its embedding; None: all states count.
    """
    outputs: list[Tensor] = []
    with norm.register_forward_hook(lambda _module, _inputs, output: outputs.append(output)):
        embed()
    states = outputs[0] if at is None else outputs[0][torch.arange(len(at)), at]
    bias: Any = norm.bias
    bias -= states.flatten(0, -2).mean(dim=0)


OFFICIAL: Mapping[str, Callable[..., _OfficialCheckpoint]] = {
    "rewards.models.hpsv2:HPSv2": _write_hpsv2,
    "rewards.models.imagereward:ImageReward": _write_imagereward,
}
"""By reward class that an official package implements too: ``write(record, folder, full=...)``."""
