"""VQAScore: how likely a model that sees the picture answers "Yes" when asked whether it shows the prompt.

Lin et al. 2024, "Evaluating Text-to-Visual Generation with Image-to-Text Generation", section 3. The model is
the authors' CLIP-FlanT5; question, padding and vocabulary are those of their code (linzhiqiu/t2v_metrics,
clip_t5_model.py and mm_utils.py). Shapes: B batch, T tokens, D width, A tokens of the answer, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from rewards.backbones.processor import read_json
from rewards.backbones.tokens import Tokens
from rewards.base import Reward
from rewards.weights.tensors import load_state, read_folder_tensors
from tcbench.errors import MismatchError

SYSTEM = (
    "A chat between a curious user and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the user's questions."
)
BEFORE = f"{SYSTEM} USER: "
AFTER = '\nDoes this figure show "{}"? Please answer yes or no. ASSISTANT: '
ANSWER = "Yes"

IMAGE = "<image>"
"""What the authors' code replaces by the picture, wherever it finds it."""
CONTEXT = 2048
"""Tokens that the authors' code keeps of the whole question, in which the picture still counts as one."""
PAD = 0
"""T5's padding, which is also what its decoder starts with."""

TRAINED = {
    "mm_vision_select_layer": -2,
    "mm_vision_select_feature": "patch",
    "mm_projector_type": "mlp2x_gelu",
}
"""What a configuration may say of how the picture is read, which is what `ClipFlanT5` does."""
TOWER = "vision_tower.vision_tower.vision_model."
"""What the tower's keys begin with in the published checkpoints."""
COPIES = ("t5.encoder.embed_tokens.weight", "t5.decoder.embed_tokens.weight")
UNUSED = (".position_ids", "t5.embed_tokens.weight")
"""Endings of keys that no score depends on: stored position numbers, one more copy of the words' table."""


class VqaScore(Reward):
    """The likelihood of the answer "Yes", 0 to 1: the geometric mean over its tokens, the end included."""

    def _build(self, files: Mapping[str, Path]) -> None:
        self.model = ClipFlanT5.from_folder(files["model"], files["tower"])
        self.questions = self.tokenizer = Questions(files["tokenizer"])
        if self.questions.words > self.model.t5.config.vocab_size:
            raise MismatchError(
                f"{files['tokenizer']} has {self.questions.words} words, but {files['model']} only "
                f"{self.model.t5.config.vocab_size}; take the tokenizer of the same Flan-T5"
            )

    def _score(self, pixels: Tensor, prompts: Sequence[str]) -> Tensor:
        before, answer = (
            torch.tensor(ids, device=pixels.device) for ids in (self.questions.before, self.questions.answer)
        )
        after = Tokens(*(part.to(pixels.device) for part in self.questions(prompts)))
        logits = self.model(pixels, before, after, answer).float()
        # The authors' code cuts the model's vocabulary, which is rounded up, to that of the tokenizer.
        likelihoods = logits[..., : self.questions.words].log_softmax(dim=-1)
        own = likelihoods.gather(-1, answer.expand(len(pixels), -1)[..., None])[..., 0]
        score: Tensor = own.mean(dim=-1).exp()
        return score


class Questions:
    """The question of a prompt, as T5's tokens: those before the picture, the same for all, and after it."""

    def __init__(self, path: Path) -> None:
        """``path`` is a ``tokenizer.json``. Raises `MismatchError`."""
        from transformers import PreTrainedTokenizerFast

        try:
            self._tokenizer: Any = PreTrainedTokenizerFast(tokenizer_file=str(path))
        except Exception as error:  # the tokenizers library raises nothing more exact
            raise MismatchError(f"{path} cannot be read as a tokenizer ({error}); fetch it again") from error
        self.before, self.answer = self._ids([BEFORE, ANSWER])
        self.words = len(self._tokenizer)
        self.limit = CONTEXT - len(self.before) - 1

    def __call__(self, prompts: Sequence[str]) -> Tokens:
        """What is after the picture, cut to ``limit`` and padded to the longest: ids and mask (B, T)."""
        rows = [torch.tensor(ids[: self.limit]) for ids in self._ids(self._questions(prompts))]
        ids = nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=PAD)
        return Tokens(ids, (ids != PAD).long())

    def lengths(self, prompts: Sequence[str]) -> list[int]:
        return [len(ids) for ids in self._ids(self._questions(prompts))]

    def _questions(self, prompts: Sequence[str]) -> list[str]:
        if any(IMAGE in prompt for prompt in prompts):
            raise ValueError(
                f"a prompt holds {IMAGE}, which stands for the picture in the question; remove it"
            )
        return [AFTER.format(prompt) for prompt in prompts]

    def _ids(self, texts: list[str]) -> list[list[int]]:
        """Tokens of each text, the end included."""
        ids: list[list[int]] = self._tokenizer(texts, verbose=False)["input_ids"]
        return ids


class ClipFlanT5(nn.Module):
    """A Flan-T5 whose encoder reads, among the words' embeddings, those of a CLIP's patches."""

    def __init__(self, t5: Mapping[str, Any], tower: Mapping[str, Any]) -> None:
        """Transformers' configurations. The T5 has no values before its weights are loaded."""
        from transformers import CLIPVisionConfig, CLIPVisionModel

        super().__init__()
        self.tower: Any = CLIPVisionModel(CLIPVisionConfig.from_dict(dict(tower)))
        self.t5 = _empty_t5(t5)
        width = self.t5.config.d_model
        seen = self.tower.config.hidden_size
        self.projector = nn.Sequential(nn.Linear(seen, width), nn.GELU(), nn.Linear(width, width))

    @classmethod
    def from_folder(cls, folder: Path, tower: Path) -> ClipFlanT5:
        """The model in a folder as published, with CLIP's own configuration file. Raises `MismatchError`."""
        from huggingface_hub.errors import StrictDataclassError

        config, vision = read_json(folder / "config.json"), read_json(tower)
        other = {key: config[key] for key, value in TRAINED.items() if config.get(key, value) != value}
        if other:
            raise MismatchError(f"{folder / 'config.json'} has {other}; expected {TRAINED}")
        try:
            model = cls(config, vision["vision_config"])
        except (ValueError, KeyError, TypeError, StrictDataclassError) as error:
            raise MismatchError(f"{folder} and {tower} describe no CLIP-FlanT5 ({error!r})") from error
        state = {model._own(key): value for key, value in read_folder_tensors(folder).items()}
        if "t5.shared.weight" in state:
            state |= dict.fromkeys(COPIES, state["t5.shared.weight"])
        load_state(model, state, folder, ignore=UNUSED)
        return model

    def _own(self, key: str) -> str:
        """What a key of the published checkpoint is called here."""
        if key.startswith("mm_projector."):
            return key.removeprefix("mm_")
        if key.startswith(TOWER):
            # later versions of transformers have the tower's modules one level higher
            inner = "vision_model." if hasattr(self.tower, "vision_model") else ""
            return f"tower.{inner}{key.removeprefix(TOWER)}"
        return f"t5.{key}"

    def forward(self, pixels: Tensor, before: Tensor, after: Tokens, answer: Tensor) -> Tensor:
        """Logits (B, A, V) of ``answer`` (A,), given ``pixels`` (B, 3, S, S) and the words around them, ids
        ``before`` (T,) and ``after`` (B, T).
        """
        states = self.tower(pixel_values=pixels, output_hidden_states=True).hidden_states
        patches = self.projector(states[-2][:, 1:])  # the last layer but one, without CLS: (B, T, D)
        count, words = len(pixels), self.t5.shared
        read = torch.cat([words(before).expand(count, -1, -1), patches, words(after.ids)], dim=1)
        seen = after.mask.new_ones(count, len(before) + patches.shape[1])
        given = torch.cat([answer.new_tensor([PAD]), answer[:-1]]).expand(count, -1)
        logits: Tensor = self.t5(
            inputs_embeds=read,
            attention_mask=torch.cat([seen, after.mask], dim=1),
            decoder_input_ids=given,
            use_cache=False,
        ).logits
        return logits


def _empty_t5(config: Mapping[str, Any]) -> Any:
    """A T5 whose memory is there but not set, since to draw billions of random weights takes minutes."""
    from transformers import T5Config, T5ForConditionalGeneration

    with torch.device("meta"):
        t5 = T5ForConditionalGeneration(T5Config.from_dict(dict(config)))
        # Later versions of transformers make this layer the words' table; in a Flan-T5 they are two.
        t5.lm_head = nn.Linear(t5.config.d_model, t5.config.vocab_size, bias=False)
    t5.to_empty(device="cpu")
    t5.set_input_embeddings(t5.shared)
    return t5
