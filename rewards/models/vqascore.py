"""VQAScore: likelihood that a model answers "Yes" when asked whether an image shows a prompt.

Lin et al. 2024, "Evaluating Text-to-Visual Generation with Image-to-Text Generation", section 3. The model is
the authors' CLIP-FlanT5; question, padding and vocabulary are those of their code (linzhiqiu/t2v_metrics,
clip_t5_model.py and mm_utils.py). Shapes: B batch, S image side, T tokens, D width, A tokens of the answer,
V vocabulary.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from rewards.backbones.processor import read_json
from rewards.backbones.tokens import Tokens, tokenizer_errors
from rewards.base import Reward
from rewards.weights.tensors import load_state, read_tensors
from tcbench.errors import MismatchError

_SYSTEM = (
    "A chat between a curious user and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the user's questions."
)
_BEFORE_IMAGE = f"{_SYSTEM} USER: "
_AFTER_IMAGE = '\nDoes this figure show "{}"? Please answer yes or no. ASSISTANT: '
_ANSWER = "Yes"

_IMAGE = "<image>"
"""Placeholder that the authors' code replaces by the image, wherever it occurs."""
_CONTEXT = 2048
"""Tokens to which the authors' code cuts the whole question; the image counts as one of them."""
_PAD = 0
"""T5's padding token, with which its decoder also starts."""

_EXPECTED_CONFIG = {
    "mm_vision_select_layer": -2,
    "mm_vision_select_feature": "patch",
    "mm_projector_type": "mlp2x_gelu",
}
"""Settings of a configuration that `ClipFlanT5` implements; others are refused."""
_TOWER_PREFIX = "vision_tower.vision_tower.vision_model."
"""Prefix of the vision tower's keys in the published checkpoints."""
_TIED_KEYS = ("t5.encoder.embed_tokens.weight", "t5.decoder.embed_tokens.weight")
"""Keys that share the weights of "t5.shared.weight"."""
_UNUSED_KEYS = (".position_ids", "t5.embed_tokens.weight")
"""Endings of keys that no score depends on: position numbers, and another copy of the word embedding."""


class VqaScore(Reward):
    """Likelihood of the answer "Yes", 0 to 1: the geometric mean over its tokens, the end token included."""

    alone_in_half_precision = True

    def _build(self, files: Mapping[str, Path]) -> None:
        self.model = ClipFlanT5.from_folder(files["model"], files["tower"])
        self.questions = self.tokenizer = QuestionTokenizer(files["tokenizer"])
        if self.questions.size > self.model.t5.config.vocab_size:
            raise MismatchError(
                f"{files['tokenizer']} has {self.questions.size} tokens, but {files['model']} only "
                f"{self.model.t5.config.vocab_size}; use the tokenizer of the same Flan-T5"
            )

    def _score(self, pixels: Tensor, prompts: Sequence[str]) -> Tensor:
        before, answer = (
            torch.tensor(ids, device=pixels.device) for ids in (self.questions.before, self.questions.answer)
        )
        after = Tokens(*(part.to(pixels.device) for part in self.questions(prompts)))
        logits = self.model.answer(self.model.patches(pixels), before, after, answer)[1].float()
        # The model's vocabulary is rounded up; the authors' code cuts it to the tokenizer's, which changes
        # the normalisation.
        log_likelihoods = logits[..., : self.questions.size].log_softmax(dim=-1)
        of_answer = log_likelihoods.gather(-1, answer.expand(len(pixels), -1)[..., None])[..., 0]  # (B, A)
        # The authors' code takes exp(-loss) with the loss averaged over tokens, for one image at a time. Here
        # the mean is over the tokens of each row, so that a score does not depend on the batch.
        score: Tensor = of_answer.mean(dim=-1).exp()
        return score


class QuestionTokenizer:
    """Tokens of the question about a prompt: ``before`` the image (equal for all prompts), and after it.

    Args:
        path: A ``tokenizer.json`` of T5.

    Raises:
        MismatchError: If the file is unreadable.
    """

    def __init__(self, path: Path) -> None:
        from transformers import PreTrainedTokenizerFast

        with tokenizer_errors(path):
            self._tokenizer: Any = PreTrainedTokenizerFast(tokenizer_file=str(path))
        self.before, self.answer = self._ids([_BEFORE_IMAGE, _ANSWER])
        self.size = len(self._tokenizer)
        self.limit = _CONTEXT - len(self.before) - 1

    def __call__(self, prompts: Sequence[str]) -> Tokens:
        """Return the tokens after the image, cut to ``limit`` and padded to the longest."""
        rows = [torch.tensor(ids[: self.limit]) for ids in self._ids(self._questions(prompts))]
        ids = nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=_PAD)
        return Tokens(ids, (ids != _PAD).long())

    @property
    def vocabulary(self) -> dict[str, int]:
        """Piece -> id."""
        vocabulary: dict[str, int] = self._tokenizer.get_vocab()
        return vocabulary

    @staticmethod
    def words() -> list[str]:
        """Return the lower-case words and marks of the question and its answers, sorted."""
        text = " ".join([_BEFORE_IMAGE, _AFTER_IMAGE.format(""), _ANSWER, "No"])
        return sorted(set(re.findall(r"[a-z]+|[^a-z\s]", text.lower())))

    def encode(self, text: str) -> list[int]:
        """Return the token ids of a text, the end token included."""
        return self._ids([text])[0]

    def lengths(self, prompts: Sequence[str]) -> list[int]:
        return [len(ids) for ids in self._ids(self._questions(prompts))]

    def _questions(self, prompts: Sequence[str]) -> list[str]:
        if any(_IMAGE in prompt for prompt in prompts):
            raise ValueError(
                f"a prompt contains {_IMAGE}, the placeholder of the image in the question; remove it"
            )
        return [_AFTER_IMAGE.format(prompt) for prompt in prompts]

    def _ids(self, texts: list[str]) -> list[list[int]]:
        """Return the token ids of each text, the end token included."""
        ids: list[list[int]] = self._tokenizer(texts, verbose=False)["input_ids"]
        return ids


class ClipFlanT5(nn.Module):
    """A Flan-T5 whose encoder reads projected patch embeddings of a CLIP between the word embeddings.

    Args:
        t5: transformers' configuration of the T5; its weights are uninitialised until they are loaded.
        tower: transformers' configuration of the vision tower.
    """

    def __init__(self, t5: Mapping[str, Any], tower: Mapping[str, Any]) -> None:
        from transformers import CLIPVisionConfig, CLIPVisionModel

        super().__init__()
        self.tower: Any = CLIPVisionModel(CLIPVisionConfig.from_dict(dict(tower)))
        self.t5 = _empty_t5(t5)
        width = self.t5.config.d_model
        patch_width = self.tower.config.hidden_size
        self.projector = nn.Sequential(nn.Linear(patch_width, width), nn.GELU(), nn.Linear(width, width))

    @classmethod
    def from_folder(cls, folder: Path, tower: Path) -> ClipFlanT5:
        """Load a published folder and CLIP's configuration file ``tower``. Raises `MismatchError`."""
        from huggingface_hub.errors import StrictDataclassError

        config, vision = read_json(folder / "config.json"), read_json(tower)
        other = {k: config[k] for k, value in _EXPECTED_CONFIG.items() if config.get(k, value) != value}
        if other:
            raise MismatchError(f"{folder / 'config.json'} has {other}; expected {_EXPECTED_CONFIG}")
        try:
            model = cls(config, vision["vision_config"])
        except (ValueError, KeyError, TypeError, StrictDataclassError) as error:
            raise MismatchError(f"{folder} and {tower} do not describe a CLIP-FlanT5 ({error!r})") from error
        state = {model._rename(key): value for key, value in _read_folder(folder).items()}
        if "t5.shared.weight" in state:
            state |= dict.fromkeys(_TIED_KEYS, state["t5.shared.weight"])
        load_state(model, state, folder, ignore=_UNUSED_KEYS)
        return model

    def _rename(self, key: str) -> str:
        """Return the name in this module of a key of the published checkpoint."""
        if key.startswith("mm_projector."):
            return key.removeprefix("mm_")
        if key.startswith(_TOWER_PREFIX):
            # Later versions of transformers have the tower's modules one level higher.
            inner = "vision_model." if hasattr(self.tower, "vision_model") else ""
            return f"tower.{inner}{key.removeprefix(_TOWER_PREFIX)}"
        return f"t5.{key}"

    def published_state(self) -> dict[str, Tensor]:
        """Return the weights by the keys of the published checkpoint, shared ones once."""
        return {
            self._published_key(name): value
            for name, value in self.state_dict().items()
            if name not in _TIED_KEYS and not name.endswith(_UNUSED_KEYS)
        }

    def _published_key(self, name: str) -> str:
        if name.startswith("tower."):
            return _TOWER_PREFIX + name.removeprefix("tower.").removeprefix("vision_model.")
        return name.removeprefix("t5.") if name.startswith("t5.") else f"mm_{name}"

    def patches(self, pixels: Tensor) -> Tensor:
        """Return projected patch embeddings (B, T, D) of normalised images (B, 3, S, S)."""
        states = self.tower(pixel_values=pixels, output_hidden_states=True).hidden_states
        # The last layer but one, without the class token, as in LLaVA.
        projected: Tensor = self.projector(states[-2][:, 1:])
        return projected

    def answer(self, patches: Tensor, before: Tensor, after: Tokens, answer: Tensor) -> tuple[Tensor, Tensor]:
        """Return the encoder's states (B, T, D) of ``after``, and logits (B, A, V) of the answer.

        Args:
            patches: Projected patch embeddings (B, T, D).
            before: Token ids (T,) before the image.
            after: Tokens (B, T) after the image.
            answer: Token ids (A,) of the answer, or (B, A).
        """
        count, embed = len(patches), self.t5.shared
        inputs = torch.cat([embed(before).expand(count, -1, -1), patches, embed(after.ids)], dim=1)
        unmasked = after.mask.new_ones(count, len(before) + patches.shape[1])
        # Teacher forcing: the decoder reads the answer shifted by one, and predicts each of its tokens.
        answer = answer.expand(count, -1)
        shifted = torch.cat([answer.new_full((count, 1), _PAD), answer[:, :-1]], dim=1)
        output = self.t5(
            inputs_embeds=inputs,
            attention_mask=torch.cat([unmasked, after.mask], dim=1),
            decoder_input_ids=shifted,
            use_cache=False,
        )
        return output.encoder_last_hidden_state[:, unmasked.shape[1] :], output.logits


def _empty_t5(config: Mapping[str, Any]) -> Any:
    """Build a T5 without initialising its weights: random values for billions of them would take minutes."""
    from transformers import T5Config, T5ForConditionalGeneration

    with torch.device("meta"):
        t5 = T5ForConditionalGeneration(T5Config.from_dict(dict(config)))
        # Later versions of transformers tie this layer to the word embedding; a Flan-T5 has both.
        t5.lm_head = nn.Linear(t5.config.d_model, t5.config.vocab_size, bias=False)
    t5.to_empty(device=torch.get_default_device())
    t5.set_input_embeddings(t5.shared)
    return t5


def _read_folder(folder: Path) -> dict[str, Any]:
    """Read the tensors of a folder in transformers' layout: one file, or the shards that its index names.

    Raises:
        MismatchError: If a file is missing or damaged.
    """
    single, index = ("model.safetensors", "pytorch_model.bin"), next(folder.glob("*.index.json"), None)
    if index is None:
        names = [name for name in single if (folder / name).is_file()][:1]
    else:
        try:
            names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            raise MismatchError(f"{index} is not an index of weights ({error!r}); fetch it again") from error
    if not names:
        raise MismatchError(f"{folder} has no weights; expected {' or '.join(single)}, or an index of shards")
    lacking = [name for name in names if not (folder / name).is_file()]
    if lacking:
        some = MismatchError.listed(lacking)
        raise MismatchError(f"{folder} lacks {some}, which its index names; fetch it again")
    return {key: value for name in names for key, value in read_tensors(folder / name).items()}
