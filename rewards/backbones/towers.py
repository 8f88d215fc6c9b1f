"""Two-tower models (CLIP, SigLIP) of open_clip and transformers behind one interface.

Both libraries are adapted here once, so that a reward states only what its paper adds. Shapes: B batch, S
side in pixels, D width of the embeddings.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from rewards.backbones.processor import OPEN_CLIP_CONFIG, read_json
from rewards.backbones.tokens import CLIP_LIMIT, OpenClipTokenizer, Tokenizer, transformers_tokenizer
from rewards.weights.tensors import from_pretrained, load_state, read_tensors
from tcbench.errors import MismatchError

_AnyTowers = TypeVar("_AnyTowers", bound="Towers")

_OPEN_CLIP_WEIGHTS = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin")

_ARCHITECTURES = {"clip": "CLIPModel", "siglip": "SiglipModel"}
"""Classes of transformers by the "model_type" of a configuration."""

CACHED_PROMPTS = 4096
"""Prompt embeddings that `Towers.keep_prompts` keeps: 16 MB at a width of 1,024 in float32."""


_shared: ContextVar[dict[tuple[object, ...], Towers] | None] = ContextVar("shared towers", default=None)
"""Towers that were loaded within `Towers.shared`, by their files; None outside of it."""


class Towers(nn.Module, ABC):
    """A model with an image tower and a text tower.

    Embeddings are computed afresh in every call unless `keep_prompts` or `one_pass` asks for a cache.
    """

    model: Any
    tokenizer: Tokenizer

    def __init__(self) -> None:
        super().__init__()
        self._image_cache: list[tuple[Tensor, Tensor]] | None = None
        self._prompt_cache: OrderedDict[tuple[str, ...], Tensor] | None = None
        self._whole_batches = False

    @staticmethod
    @contextmanager
    def shared() -> Iterator[None]:
        """Load towers from the same files only once within the block: later loads return the same module."""
        token = _shared.set({})
        try:
            yield
        finally:
            _shared.reset(token)

    @staticmethod
    def load(folder: Path, tokenizer: Path | None = None) -> Towers:
        """Load a CLIP or SigLIP from a folder in open_clip's or transformers' layout.

        Args:
            folder: The model's folder.
            tokenizer: Folder of the tokenizer; by default the one that the model's folder holds or names.

        Raises:
            MismatchError: If the folder describes another model or its weights do not fit.
        """
        if (folder / OPEN_CLIP_CONFIG).is_file():
            return OpenClipTowers.from_folder(folder, tokenizer)
        return TransformersTowers.from_folder(folder, tokenizer)

    @property
    def logit_scale(self) -> Tensor:
        """Learnt factor of the cosine."""
        return at_least_float32(self.model.logit_scale).exp()

    def logits(self, cosines: Tensor) -> Tensor:
        """Return the model's logits (B,) for cosines (B,): scaled, plus a SigLIP's bias."""
        bias: Tensor | None = getattr(self.model, "logit_bias", None)
        scaled = cosines * self.logit_scale
        return scaled if bias is None else scaled + bias

    def embed_images(self, pixels: Tensor) -> Tensor:
        """Return unit embeddings (B, D) of normalised ``pixels`` (B, 3, S, S)."""
        if self._image_cache is None:
            return self._embed_images(pixels)
        # By identity, not by value: comparing pixels would cost time, and equal pixels of another graph would
        # carry gradients to other images. The list keeps the tensors alive, so an id is never reused.
        for cached, embedding in self._image_cache:
            if cached is pixels:
                return embedding
        self._image_cache.append((pixels, self._embed_images(pixels)))
        return self._image_cache[-1][1]

    def embed_prompts(self, prompts: Sequence[str]) -> Tensor:
        """Return unit embeddings (B, D) of prompts; a prompt that occurs several times is embedded once."""
        unique = tuple(dict.fromkeys(prompts))
        if self._prompt_cache is None:
            embeddings = self._embed_unlike(unique)
        elif self._whole_batches:
            embeddings = self._cached([unique])[unique]
        else:
            cache = self._cached([(prompt,) for prompt in unique])
            embeddings = torch.cat([cache[prompt,] for prompt in unique])
        # Only now, because one call may have more prompts than the cache holds.
        while self._prompt_cache and sum(map(len, self._prompt_cache)) > CACHED_PROMPTS:
            self._prompt_cache.popitem(last=False)
        rows = {prompt: row for row, prompt in enumerate(unique)}
        return embeddings[[rows[prompt] for prompt in prompts]]

    def keep_prompts(self, *, whole_batches: bool = False) -> None:
        """Keep the embeddings of the `CACHED_PROMPTS` most recently used prompts from now on.

        Args:
            whole_batches: Reuse embeddings only for a batch with the same prompts. The last digits of an
                embedding depend on the prompts that are embedded together with it, because the order of
                additions in a matrix product depends on its size. With whole batches, results do not depend
                on earlier calls.
        """
        self._prompt_cache, self._whole_batches = OrderedDict(), whole_batches

    def _embed_unlike(self, prompts: Sequence[str]) -> Tensor:
        """Return unit embeddings (B, D) of prompts that may have very different lengths."""
        if self.model.logit_scale.dtype.itemsize >= torch.float32.itemsize:
            return self._embed_prompts(prompts)
        # One by one: a batch is padded to its longest prompt, and half precision rounds visibly differently
        # in matrices of another size.
        return torch.cat([self._embed_prompts([prompt]) for prompt in prompts])

    def _cached(self, groups: Sequence[tuple[str, ...]]) -> Mapping[tuple[str, ...], Tensor]:
        """Embed the prompts that the cache lacks, in one batch, and return the cache."""
        assert self._prompt_cache is not None
        new = [group for group in groups if group not in self._prompt_cache]
        if new:
            # Inference tensors would be unusable in a later call with gradients.
            with torch.inference_mode(False), torch.no_grad():
                embeddings = self._embed_unlike([prompt for group in new for prompt in group])
            sizes = [len(group) for group in new]
            self._prompt_cache.update(zip(new, torch.split(embeddings, sizes), strict=True))
        for group in groups:
            self._prompt_cache.move_to_end(group)
        return self._prompt_cache

    @contextmanager
    def one_pass(self) -> Iterator[None]:
        """Embed the same tensor of pixels only once within the block."""
        self._image_cache = []
        try:
            yield
        finally:
            self._image_cache = None

    def _apply(self, fn: Any, recurse: bool = True) -> Any:
        before = self.model.logit_scale.dtype
        moved = super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        # Cached embeddings follow the model to another device. In another precision the model would compute
        # other ones, so they are dropped.
        if self._prompt_cache and self.model.logit_scale.dtype != before:
            self._prompt_cache.clear()
        elif self._prompt_cache:
            self._prompt_cache = OrderedDict(
                (prompts, fn(embedding)) for prompts, embedding in self._prompt_cache.items()
            )
        return moved

    @abstractmethod
    def _embed_images(self, pixels: Tensor) -> Tensor: ...

    @abstractmethod
    def _embed_prompts(self, prompts: Sequence[str]) -> Tensor: ...


def _load_once(key: tuple[object, ...], make: Callable[[], _AnyTowers]) -> _AnyTowers:
    pool = _shared.get()
    if pool is None:
        return make()
    if key not in pool:
        pool[key] = make()
    return cast("_AnyTowers", pool[key])


class OpenClipTowers(Towers):
    """A CLIP or SigLIP of open_clip with its tokenizer.

    Args:
        config: open_clip's "model_cfg".
        tokenizer: The tokenizer; by default OpenAI's vocabulary.
    """

    def __init__(self, config: Mapping[str, Any], tokenizer: Tokenizer | None = None) -> None:
        from open_clip.model import CLIP, CustomTextCLIP
        from open_clip.transformer import ResidualAttentionBlock, Transformer

        super().__init__()
        settings = {**config, "vision_cfg": dict(config["vision_cfg"])}
        if "timm_model_name" in settings["vision_cfg"]:
            # The checkpoint holds the image tower too, so timm must not download its own weights.
            settings["vision_cfg"]["timm_model_pretrained"] = False
        self.model = (CustomTextCLIP if settings.pop("custom_text", False) else CLIP)(**settings)
        self.model.output_dict = False  # `_embed_prompts` reads a tuple, whatever the configuration says
        # With the batch first, attention would transpose its input in every block, and torch multiplies what
        # is transposed token by token: pixel gradients took 1.5 times as long.
        for module in self.model.modules():
            if isinstance(module, Transformer):
                module.batch_first = False
            elif isinstance(module, ResidualAttentionBlock):
                module.attn.batch_first = False
        self.tokenizer = tokenizer or OpenClipTokenizer(_context_length(config["text_cfg"]))

    @classmethod
    def from_folder(cls, folder: Path, tokenizer: Path | None = None) -> OpenClipTowers:
        """Load a folder in open_clip's layout (see `Towers.shared`). Raises `MismatchError`."""
        key = (cls, folder.resolve(), tokenizer.resolve() if tokenizer else None)
        return _load_once(key, lambda: cls._from_folder(folder, tokenizer))

    @classmethod
    def _from_folder(cls, folder: Path, tokenizer: Path | None) -> OpenClipTowers:
        path = folder / OPEN_CLIP_CONFIG
        config = read_json(path)
        try:
            model, text = config["model_cfg"], config["model_cfg"]["text_cfg"]
            if "multimodal_cfg" in model or "hf_model_name" in text:
                raise ValueError("its text tower is not open_clip's own")
            towers = cls(model, _open_clip_tokenizer(text, folder, tokenizer))
        except MismatchError:
            raise
        except (ValueError, KeyError, TypeError, AttributeError, RuntimeError) as error:
            raise MismatchError(
                f"{path} does not describe a CLIP of open_clip ({error!r}); fetch it again"
            ) from error
        weights = next((folder / n for n in _OPEN_CLIP_WEIGHTS if (folder / n).is_file()), folder)
        load_state(towers.model, read_tensors(weights), weights)
        return towers

    @classmethod
    def from_checkpoint(cls, architecture: str, checkpoint: Path) -> OpenClipTowers:
        """Load a checkpoint of a model that open_clip knows by name; weights are under "state_dict"."""
        key = (cls, architecture, checkpoint.resolve())
        return _load_once(key, lambda: cls._from_checkpoint(architecture, checkpoint))

    @classmethod
    def _from_checkpoint(cls, architecture: str, checkpoint: Path) -> OpenClipTowers:
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
        from open_clip.model import CustomTextCLIP

        tokens = self.tokenizer(prompts)
        ids = tokens.ids.to(self.model.logit_scale.device)
        custom = isinstance(self.model, CustomTextCLIP)
        text: Any = self.model.text if custom else self.model
        # A class token stands behind the text, and its mask depends on the padding.
        if text.attn_mask is None or (custom and text.cls_emb is not None):
            embedding: Tensor = self.model.encode_text(ids, normalize=True)
            return embedding
        pooling = (text.pool_type, text.eos_id) if custom else (text.text_pool_type, text.text_eos_id)
        length = tokens.needed(*pooling)
        # The model adds all of its positions and its whole mask, so it gets the beginnings of both.
        cut = {"positional_embedding": text.positional_embedding[:length]}
        cut["attn_mask"] = text.attn_mask[:length, :length]
        parameters = {f"text.{name}" if custom else name: value for name, value in cut.items()}
        _, embedding, *_ = functional_call(self.model, parameters, (None, ids[:, :length]))
        return embedding


def _context_length(text: Mapping[str, Any]) -> int:
    return int(text.get("context_length", CLIP_LIMIT))


def _open_clip_tokenizer(text: Mapping[str, Any], folder: Path, tokenizer: Path | None) -> Tokenizer:
    """Return the tokenizer of a "text_cfg": a given folder's, the model's own, or OpenAI's."""
    limit, settings = _context_length(text), dict(text.get("tokenizer_kwargs", {}))
    if tokenizer is not None:
        return transformers_tokenizer(tokenizer, limit)
    name = text.get("hf_tokenizer_name")
    if not name:
        return OpenClipTokenizer(limit, **settings)
    if not (folder / "tokenizer_config.json").is_file():
        raise MismatchError(f"{folder} lacks the tokenizer it names; copy the files of {name} into it")
    return OpenClipTokenizer(limit, folder, **settings)


class TransformersTowers(Towers):
    """A CLIP or SigLIP of transformers with its tokenizer.

    Args:
        model: A CLIPModel or SiglipModel.
        tokenizer: Folder of its tokenizer.
    """

    def __init__(self, model: Any, tokenizer: Path) -> None:
        super().__init__()
        self.model = model
        limit = int(model.config.text_config.max_position_embeddings)
        self.tokenizer = transformers_tokenizer(tokenizer, limit)

    @classmethod
    def from_folder(cls, folder: Path, tokenizer: Path | None = None) -> TransformersTowers:
        """Load a folder in transformers' layout; the tokenizer is in it unless another folder is given."""
        import transformers

        path = folder / "config.json"
        kind = read_json(path).get("model_type")
        if kind not in _ARCHITECTURES:
            raise MismatchError(f"{path} describes a {kind}; expected one of {', '.join(_ARCHITECTURES)}")
        return cls.from_class(getattr(transformers, _ARCHITECTURES[kind]), folder, tokenizer or folder)

    @classmethod
    def from_class(cls, architecture: type[Any], folder: Path, tokenizer: Path) -> TransformersTowers:
        """Load a folder as a given class of transformers (see `Towers.shared`)."""
        key = (cls, folder.resolve(), tokenizer.resolve())
        return _load_once(key, lambda: cls(from_pretrained(architecture, folder), tokenizer))

    def _embed_images(self, pixels: Tensor) -> Tensor:
        return F.normalize(self.model.get_image_features(pixel_values=pixels).pooler_output, dim=-1)

    def _embed_prompts(self, prompts: Sequence[str]) -> Tensor:
        # Without a mask. CLIP's text tower is causal; SigLIP was trained to attend to its padding.
        tokens = self.tokenizer(prompts)
        ids = tokens.ids.to(self.model.logit_scale.device)
        if self.model.config.model_type == "clip":
            end = self.model.config.text_config.eos_token_id
            # Old configurations name a wrong end token, 2, for which transformers takes the largest id.
            ids = ids[:, : tokens.needed("argmax" if end == 2 else "eos", end)]
        return F.normalize(self.model.get_text_features(input_ids=ids).pooler_output, dim=-1)


def at_least_float32(values: Tensor) -> Tensor:
    """Convert half precision to float32.

    A model in half precision gives coarse embeddings, but what is computed from them needs more digits: from
    16 to 32, the range of PickScore, bfloat16 has steps of 1/8, and images would tie.
    """
    return values.to(torch.promote_types(values.dtype, torch.float32))


def cosine_similarity(images: Tensor, texts: Tensor) -> Tensor:
    """Return the cosine (B,) of each unit image embedding with its own unit text embedding, both (B, D)."""
    return (at_least_float32(images) * at_least_float32(texts)).sum(dim=-1)
