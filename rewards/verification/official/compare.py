"""Native rewards against the official packages, both on ONE checkpoint of random weights.

The weights are chosen for scores that spread: of a random CLIP all embeddings point almost the same way, so
their mean over some pictures and texts is taken off by the biases of the last norms, and what is left differs
from picture to picture and from text to text.
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
from rewards.verification.official.environment import run
from rewards.verification.tiny.vocabularies import write_word_pieces
from rewards.weights.locate import locate_weights
from tcbench.errors import MissingFiles

SMALL_CLIP = {
    "embed_dim": 64,
    "vision_cfg": {"image_size": 224, "layers": 4, "width": 128, "head_width": 32, "patch_size": 16},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 96, "heads": 4, "layers": 4},
}
SMALL_BLIP = replace(PUBLISHED, vision_width=128, vision_layers=4, vision_heads=4, text_layers=3)
"""The official code fixes the text's width at 768."""

GAIN = 2.0
"""Of random weights over their usual size: attention that looks somewhere, gates that are not linear."""


@dataclass(frozen=True)
class Checkpoint:
    """One reward's random weights in the official layout, and what each side needs to read them."""

    record: RewardInfo
    files: Mapping[str, Path]
    package: str
    """The official package."""
    job: Mapping[str, Any]
    """What `rewards.verification.official.runner` needs to know of it."""

    def official(self, images: Sequence[Path], prompts: Sequence[str], **options: Any) -> dict[str, Any]:
        """What the official code answers (see `rewards.verification.official.runner`)."""
        return run({**self.job, "images": list(map(str, images)), "prompts": list(prompts), **options})


def hpsv2_checkpoint(record: RewardInfo, folder: Path, *, full: bool) -> Checkpoint:
    """A CLIP under "state_dict", of the published ViT-H/14 or of a small architecture."""
    import open_clip
    from open_clip.model import CLIP

    name = "ViT-H-14" if full else "tcbench-small"
    job: dict[str, Any] = {"reward": "hpsv2", "antialias": record.profile.endswith("antialias")}
    if not full:
        config = folder / f"{name}.json"
        config.write_text(json.dumps(SMALL_CLIP), encoding="utf-8")
        open_clip.add_model_config(config)
        job["architecture"] = str(config)
    torch.manual_seed(0)
    model = CLIP(**open_clip.get_model_config(name)).eval()
    with torch.no_grad():
        _strengthen(model)
        noise = torch.nn.functional.interpolate(torch.randn(8, 3, 12, 12), 224, mode="bicubic")
        texts = OpenClipTokenizer()([f"{word} number {i}" for i, word in enumerate(_WORDS)]).ids
        _centre(model.visual.ln_post, lambda: model.encode_image(noise))
        _centre(model.ln_final, lambda: model.encode_text(texts), at=texts.argmax(dim=-1))
    path = folder / record.weights[0].file
    torch.save({"state_dict": {k: v.half() for k, v in model.state_dict().items()}}, path)
    options = {**record.options, "architecture": name}
    files = tuple(replace(file, sha256="") for file in record.weights)
    job["checkpoint"] = str(path)
    return Checkpoint(replace(record, options=options, weights=files), {"checkpoint": path}, "hpsv2", job)


def imagereward_checkpoint(record: RewardInfo, folder: Path, *, full: bool) -> Checkpoint:
    """A BLIP ranker with the projections that only BLIP's training needs, of the published sizes or small.

    A text is read letter by letter where BERT's own vocabulary is not on this machine.
    """
    config = PUBLISHED if full else SMALL_BLIP
    vocabulary = _vocabulary(record) or write_word_pieces(folder / "vocab.txt")
    torch.manual_seed(0)
    ranker = BlipRanker(config).eval()
    with torch.no_grad():
        _strengthen(ranker)
        tokens = bert_tokenizer(vocabulary, config.max_tokens)([f"a {word}" for word in _WORDS])
        noise = torch.nn.functional.interpolate(torch.randn(8, 3, 12, 12), 224, mode="bicubic")
        raw = ranker(noise, *tokens)
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
    job["med_config"] = str(_med_config(folder / "med_config.json", config))
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
    return Checkpoint(replace(record, weights=weights), files, "image-reward", job)


def _med_config(path: Path, config: BlipConfig) -> Path:
    """The sizes as BLIP's own configuration file of a BERT with cross-attention."""
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


def _vocabulary(record: RewardInfo) -> Path | None:
    """BERT's vocabulary, where it is; it is not fetched for this."""
    file = next(file for file in record.weights if file.key == "vocabulary")
    try:
        return locate_weights(replace(record, weights=(file,)), fetch=False)["vocabulary"]
    except MissingFiles:
        return None


def _strengthen(model: nn.Module) -> None:
    for name, parameter in model.named_parameters():
        if parameter.ndim == 2 and "embedding" not in name:
            parameter.mul_(GAIN)


def _centre(norm: nn.Module, embed: Any, at: Tensor | None = None) -> None:
    """Take the mean of what ``norm`` gives while ``embed`` runs off its bias; ``at`` picks a token a text."""
    seen: list[Tensor] = []
    with norm.register_forward_hook(lambda _module, _inputs, output: seen.append(output)):
        embed()
    states = seen[0] if at is None else seen[0][torch.arange(len(at)), at]
    bias: Any = norm.bias
    bias -= states.flatten(0, -2).mean(dim=0)


_WORDS = ("cat", "large horse", "river at dawn", "seventeen geese", "oil", "cup on a table", "rocket", "mist")

OFFICIAL: Mapping[str, Callable[..., Checkpoint]] = {
    "rewards.models.hpsv2:HPSv2": hpsv2_checkpoint,
    "rewards.models.imagereward:ImageReward": imagereward_checkpoint,
}
"""Who writes the checkpoint of a class that an official package can read too."""
