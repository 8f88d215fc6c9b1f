"""Foreign two-tower models behind two functions: unit embeddings (B, D) of images and of prompts.

open_clip and transformers are adapted here, once, so that a reward says only what its paper adds.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rewards.backbones.processor import OPEN_CLIP_CONFIG, read_json
from rewards.backbones.tokens import OpenClipTokenizer, Tokenizer, transformers_tokenizer
from rewards.weights.tensors import load_state, read_tensors, state_mismatch
from tcbench.errors import MismatchError
from tcbench.quiet import quiet

if TYPE_CHECKING:
    from rewards.base import Reward

Shared = TypeVar("Shared", bound="Towers")

OPEN_CLIP_WEIGHTS = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin")
TRANSFORMERS_WEIGHTS = "model.safetensors"

ARCHITECTURES = {"clip": "CLIPModel", "siglip": "SiglipModel"}
"""Classes of transformers by the "model_type" of a configuration."""

PROMPTS_KEPT = 4096
"""Embeddings of prompts that `Towers.keep_prompts` keeps: 16 MB of 1,024 floats each."""


class Towers(nn.Module, ABC):
    """Unit embeddings of images and of prompts, made once for all rewards that share the towers.

    Nothing is kept unless `keep_prompts` is asked for it: a reward used by itself computes each score afresh.
    """

    model: Any
    tokenizer: Tokenizer

    def __init__(self) -> None:
        super().__init__()
        self._seen: list[tuple[Tensor, Tensor]] | None = None
        self._read: OrderedDict[str, Tensor] | None = None

    @property
    def logit_scale(self) -> Tensor:
        """The learnt factor of the cosine."""
        return wide(self.model.logit_scale).exp()

    def logits(self, cosines: Tensor) -> Tensor:
        """The model's own logits (B,) of ``cosines`` (B,): scaled, and moved where it learnt a bias."""
        bias: Tensor | None = getattr(self.model, "logit_bias", None)
        scaled = cosines * self.logit_scale
        return scaled if bias is None else scaled + bias

    def embed_images(self, pixels: Tensor) -> Tensor:
        """``pixels`` (B, 3, S, S) normalised to unit embeddings (B, D)."""
        if self._seen is None:
            return self._embed_images(pixels)
        for known, embedding in self._seen:
            if known is pixels:
                return embedding
        self._seen.append((pixels, self._embed_images(pixels)))
        return self._seen[-1][1]

    def embed_prompts(self, prompts: Sequence[str]) -> Tensor:
        """Unit embeddings (B, D); a prompt that comes several times is read once."""
        if self._read is None:
            places = {prompt: place for place, prompt in enumerate(dict.fromkeys(prompts))}
            return self._embed_prompts(list(places))[[places[prompt] for prompt in prompts]]
        new = [prompt for prompt in dict.fromkeys(prompts) if prompt not in self._read]
        if new:
            # never inference tensors, which a later call with gradients could not use
            with torch.inference_mode(False), torch.no_grad():
                self._read.update(zip(new, self._embed_prompts(new), strict=True))
        for prompt in prompts:
            self._read.move_to_end(prompt)
        embeddings = torch.stack([self._read[prompt] for prompt in prompts])
        while len(self._read) > PROMPTS_KEPT:
            self._read.popitem(last=False)
        return embeddings

    def keep_prompts(self) -> None:
        """Keep embeddings of prompts from now on, those used last, up to `PROMPTS_KEPT`."""
        self._read = OrderedDict()

    @contextmanager
    def one_pass(self) -> Iterator[None]:
        """Within it, the same tensor of pixels is embedded once."""
        self._seen = []
        try:
            yield
        finally:
            self._seen = None

    def _apply(self, fn: Any, recurse: bool = True) -> Any:
        before = self.model.logit_scale.dtype
        moved = super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        if self._read and self.model.logit_scale.dtype != before:
            self._read.clear()  # they were made in another precision
        elif self._read:
            self._read = OrderedDict((prompt, fn(embedding)) for prompt, embedding in self._read.items())
        return moved

    @abstractmethod
    def _embed_images(self, pixels: Tensor) -> Tensor: ...

    @abstractmethod
    def _embed_prompts(self, prompts: Sequence[str]) -> Tensor: ...


def tower_embeddings(reward: Reward, images: Tensor) -> Tensor | None:
    """Unit embeddings (B, D) of images (B, 3, H, W) by a reward's towers, or None if it has none."""
    towers = [module for module in reward.modules() if isinstance(module, Towers)]
    if not towers:
        return None
    device = towers[0].logit_scale.device
    return torch.cat([towers[0].embed_images(part) for part in reward.pixels([images.to(device)])])


_shared: ContextVar[dict[tuple[object, ...], Towers] | None] = ContextVar("shared towers", default=None)


@contextmanager
def shared_towers() -> Iterator[None]:
    """Within it, towers that are loaded from the same files are the same module."""
    token = _shared.set({})
    try:
        yield
    finally:
        _shared.reset(token)


def _share(key: tuple[object, ...], make: Callable[[], Shared]) -> Shared:
    pool = _shared.get()
    if pool is None:
        return make()
    if key not in pool:
        pool[key] = make()
    return cast("Shared", pool[key])


def towers_in(folder: Path, tokenizer: Path | None = None) -> Towers:
    """The CLIP or SigLIP in a folder of either library's layout (see `shared_towers`).

    Without a ``tokenizer`` folder, it is what the model's folder holds or names. Raises `MismatchError`.
    """
    if (folder / OPEN_CLIP_CONFIG).is_file():
        return OpenClip.from_folder(folder, tokenizer)
    return TransformersTowers.from_folder(folder, tokenizer)


class OpenClip(Towers):
    """A CLIP or SigLIP of the open_clip library with the tokenizer it was trained with."""

    def __init__(self, config: Mapping[str, Any], tokenizer: Tokenizer | None = None) -> None:
        """``config`` is open_clip's "model_cfg"; without a ``tokenizer``, OpenAI's vocabulary."""
        from open_clip.model import CLIP, CustomTextCLIP

        super().__init__()
        settings = {**config, "vision_cfg": dict(config["vision_cfg"])}
        if "timm_model_name" in settings["vision_cfg"]:
            settings["vision_cfg"]["timm_model_pretrained"] = False  # its weights come with the rest
        self.model = (CustomTextCLIP if settings.pop("custom_text", False) else CLIP)(**settings)
        self.tokenizer = tokenizer or OpenClipTokenizer(int(config["text_cfg"].get("context_length", 77)))

    @classmethod
    def from_folder(cls, folder: Path, tokenizer: Path | None = None) -> OpenClip:
        """The model in a folder of open_clip's own layout (see `shared_towers`). Raises `MismatchError`."""
        key = (cls, folder.resolve(), tokenizer.resolve() if tokenizer else None)
        return _share(key, lambda: cls._from_folder(folder, tokenizer))

    @classmethod
    def _from_folder(cls, folder: Path, tokenizer: Path | None) -> OpenClip:
        path = folder / OPEN_CLIP_CONFIG
        config = read_json(path)
        try:
            model, text = config["model_cfg"], config["model_cfg"]["text_cfg"]
            if "multimodal_cfg" in model or "hf_model_name" in text:
                raise ValueError("its text tower is not open_clip's own")
            towers = cls(model, _tokenizer(text, folder, tokenizer))
        except MismatchError:
            raise
        except (ValueError, KeyError, TypeError, AttributeError, RuntimeError) as error:
            raise MismatchError(
                f"{path} describes no CLIP of open_clip ({error!r}); fetch it again"
            ) from error
        weights = next((folder / n for n in OPEN_CLIP_WEIGHTS if (folder / n).is_file()), folder)
        load_state(towers.model, read_tensors(weights), weights)
        return towers

    @classmethod
    def from_checkpoint(cls, architecture: str, checkpoint: Path) -> OpenClip:
        """A model that open_clip knows by name, with the weights under a checkpoint's "state_dict"."""
        key = (cls, architecture, checkpoint.resolve())
        return _share(key, lambda: cls._from_checkpoint(architecture, checkpoint))

    @classmethod
    def _from_checkpoint(cls, architecture: str, checkpoint: Path) -> OpenClip:
        from open_clip import get_model_config

        tensors = read_tensors(checkpoint)
        if not isinstance(tensors.get("state_dict"), Mapping):
            raise MismatchError(f"{checkpoint} has no state_dict; expected the published checkpoint")
        towers = cls(get_model_config(architecture))
        load_state(towers.model, tensors["state_dict"], checkpoint)
        return towers

    def _embed_images(self, pixels: Tensor) -> Tensor:
        embedding: Tensor = self.model.encode_image(pixels, normalize=True)
        return embedding

    def _embed_prompts(self, prompts: Sequence[str]) -> Tensor:
        ids = self.tokenizer(prompts).ids.to(self.model.logit_scale.device)
        embedding: Tensor = self.model.encode_text(ids, normalize=True)
        return embedding


def _tokenizer(text: Mapping[str, Any], folder: Path, tokenizer: Path | None) -> Tokenizer:
    """What open_clip reads prompts with by its "text_cfg": a given folder's, the model's own, or OpenAI's."""
    limit, settings = int(text.get("context_length", 77)), dict(text.get("tokenizer_kwargs", {}))
    if tokenizer is not None:
        return transformers_tokenizer(tokenizer, limit)
    name = text.get("hf_tokenizer_name")
    if not name:
        return OpenClipTokenizer(limit, **settings)
    if not (folder / "tokenizer_config.json").is_file():
        raise MismatchError(f"{folder} lacks the tokenizer it names: put the files of {name} there")
    return OpenClipTokenizer(limit, folder, **settings)


class TransformersTowers(Towers):
    """A CLIP or SigLIP of the transformers library with the tokenizer it was trained with."""

    def __init__(self, model: Any, tokenizer: Path) -> None:
        super().__init__()
        self.model = model
        limit = int(model.config.text_config.max_position_embeddings)
        self.tokenizer = transformers_tokenizer(tokenizer, limit)

    @classmethod
    def from_folder(cls, folder: Path, tokenizer: Path | None = None) -> TransformersTowers:
        """The model and, if no other is given, the tokenizer in a folder of transformers' layout."""
        import transformers

        words = tokenizer or folder
        path = folder / "config.json"
        kind = read_json(path).get("model_type")
        if kind not in ARCHITECTURES:
            raise MismatchError(f"{path} describes a {kind}, expected one of {', '.join(ARCHITECTURES)}")
        return cls.of(getattr(transformers, ARCHITECTURES[kind]), folder, words)

    @classmethod
    def of(cls, architecture: type[Any], folder: Path, tokenizer: Path) -> TransformersTowers:
        """A model of that class of transformers (see `shared_towers`)."""
        key = (cls, folder.resolve(), tokenizer.resolve())
        return _share(key, lambda: cls(from_pretrained(architecture, folder), tokenizer))

    def _embed_images(self, pixels: Tensor) -> Tensor:
        return F.normalize(self.model.get_image_features(pixel_values=pixels).pooler_output, dim=-1)

    def _embed_prompts(self, prompts: Sequence[str]) -> Tensor:
        # No mask is given. CLIP's text tower is causal and pools at the first end token, so the padding after
        # the longest prompt changes nothing and is left out; SigLIP was trained to read its padding.
        ids, mask = self.tokenizer(prompts)
        if self.model.config.model_type == "clip":
            ids = ids[:, : int(mask.sum(dim=1).max())]
        ids = ids.to(self.model.logit_scale.device)
        return F.normalize(self.model.get_text_features(input_ids=ids).pooler_output, dim=-1)


def from_pretrained(architecture: type[Any], folder: Path, ignore: Iterable[str] = ()) -> Any:
    """A transformers model from a folder, float32. Raises `MismatchError` where transformers only warns.

    ``ignore`` lists beginnings of keys that may be left over, such as those of a half that is not made.
    """
    source, beginnings = folder / TRANSFORMERS_WEIGHTS, tuple(ignore)
    try:
        with quiet("transformers"):
            model, report = architecture.from_pretrained(
                folder,
                local_files_only=True,
                use_safetensors=True,
                dtype="float32",
                output_loading_info=True,
                ignore_mismatched_sizes=True,  # transformers' own error does not name the keys
            )
    except Exception as error:  # torn files make transformers raise nearly anything
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise MismatchError(f"{source} does not fit {architecture.__name__}: {reason}") from error
    wrong = {str(key): "missing" for key in report["missing_keys"]}
    wrong |= {
        key: "not expected"
        for key in map(str, report["unexpected_keys"])
        if not key.startswith(beginnings) and not key.endswith(".position_ids")
    }
    wrong |= {
        str(key): f"shape {tuple(given)}, not {tuple(own)}" for key, given, own in report["mismatched_keys"]
    }
    if wrong:
        raise state_mismatch(source, architecture, wrong)
    return model


def wide(values: Tensor) -> Tensor:
    """At least float32. A model in half precision gives embeddings; what is made of them needs more digits,
    or pictures tie: between 16 and 32, where PickScore lies, bfloat16 has steps of 1/8.
    """
    return values.to(torch.promote_types(values.dtype, torch.float32))


def cosine(images: Tensor, texts: Tensor) -> Tensor:
    """Cosine (B,) of each unit image embedding with its own unit text embedding, both (B, D)."""
    return (wide(images) * wide(texts)).sum(dim=-1)
