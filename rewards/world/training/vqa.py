"""world-vqa: a judge of alignment alone, in the architecture of VQAScore's CLIP-FlanT5.

It is asked whether a picture shows a caption, and answers yes or no. Half of the questions are about near
misses, and captions name styles independently of quality, so a good picture gets no better answer. It shares
no weights with other rewards, and neither language model nor tokenizer with rewards that are trained on; its
vision tower is a CLIP's in another size.
"""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

from rewards.backbones.tokens import Tokens
from rewards.models.vqascore import ClipFlanT5, QuestionTokenizer
from rewards.world.training import clip, data
from rewards.world.training.align import align_text
from rewards.world.training.blip import word_pieces
from rewards.world.training.fit import Losses, TrainingPlan, fit_model
from rewards.world.training.mistakes import CaptionMistakes
from rewards.world.training.pretraining import SceneQuestions, position_embeddings

VISION_PLAN = TrainingPlan(
    "world-vqa-look", steps=500, lr=1.5e-3, batch=64, seed=27, warmup=50, weight_decay=0.05, ema=0.98
)
ALIGN_PLAN = TrainingPlan(
    "world-vqa-align", steps=400, lr=1e-3, batch=64, seed=36, warmup=40, weight_decay=0.05, ema=0.98
)
PLAN = TrainingPlan(
    "world-vqa", steps=1400, lr=1e-3, batch=32, seed=28, warmup=60, weight_decay=0.05, ema=0.99
)
AGAIN_PLAN = TrainingPlan(
    "world-vqa-again", steps=1200, lr=7e-4, batch=32, seed=38, warmup=60, weight_decay=0.05, ema=0.99
)

_WIDTH = 96
_TOWER = {
    "hidden_size": _WIDTH,
    "intermediate_size": 4 * _WIDTH,
    "num_hidden_layers": 5,  # VQAScore reads the states before the last layer
    "num_attention_heads": 4,
    "image_size": 64,
    "patch_size": 8,
}
_T5 = {
    "d_model": _WIDTH,
    "d_ff": 2 * _WIDTH,
    "d_kv": 24,
    "num_heads": 4,
    "num_layers": 4,
    "num_decoder_layers": 1,
    "feed_forward_proj": "gated-gelu",
    "dropout_rate": 0.0,
    "tie_word_embeddings": False,
    "decoder_start_token_id": 0,
    "pad_token_id": 0,
    "eos_token_id": 1,
}
_ANSWER = 4.0
"""Weight of the answer's loss beside those of mistakes and questions."""


class _Student(nn.Module):
    """The model with the layers of its auxiliary losses.

    Args:
        questions: The tokenizer.
    """

    def __init__(self, questions: QuestionTokenizer) -> None:
        super().__init__()
        self.questions = questions
        self.model = ClipFlanT5(_T5 | {"vocab_size": questions.size}, _TOWER)
        _initialise(self.model.t5)
        self.looker = SceneQuestions(_WIDTH, _WIDTH)
        self.mistakes = CaptionMistakes(_WIDTH, questions.vocabulary)
        tower: Any = getattr(self.model.tower, "vision_model", self.model.tower)
        with torch.no_grad():
            tower.embeddings.position_embedding.weight.copy_(position_embeddings(8, _WIDTH, class_token=True))

    def encode(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean embeddings (B, D) and projected patches (B, T, D) of images in [0, 1]."""
        patches = self.model.patches(clip.normalise_for_clip(images))
        return patches.mean(dim=1), patches

    def read(self, texts: list[str]) -> Tensor:
        """Return the encoder's last states (B, D) of questions without an image."""
        after = self._ask(texts)
        encoder = self.model.t5.encoder
        states: Tensor = encoder(input_ids=after.ids, attention_mask=after.mask).last_hidden_state
        return _last(states, after)

    def loss(self, rng: np.random.Generator, count: int) -> Losses:
        """Return the losses of questions about ``count`` new images."""
        batch = data.AlignmentBatch.random(rng, count, levels=0.5)
        embedded, patches = self.encode(batch.images)
        # Each picture is asked about its own caption, and about one of the other scene of its family.
        own = torch.arange(count)
        other = own - own % 4 + (own + 2) % 4
        image, text = own.repeat(2), torch.cat([own, other])
        true = batch.matches[image, text]
        after = self._ask([batch.texts[i] for i in text])
        before, yes, no = (
            torch.tensor(ids, device=true.device)
            for ids in (self.questions.before, self.questions.encode("Yes"), self.questions.encode("No"))
        )
        answers = torch.where(true[:, None] > 0, yes, no)
        states, logits = self.model.answer(patches[image], before, after, answers)
        answered = F.cross_entropy(logits.flatten(0, 1), answers.flatten())
        described, shown = ([batch.scenes[i] for i in rows] for rows in (text, image))
        missed = self.mistakes.loss(_last(states, after), states, after.ids, described, shown)
        asked = self.looker.loss(embedded, patches, batch.scenes)
        right = (logits[:, 0, yes[0]] > logits[:, 0, no[0]]) == (true > 0)
        return {
            "loss": _ANSWER * answered + missed + asked,
            "answer": answered,
            "accuracy": right.float().mean(),
            "mistakes": missed,
            "questions": asked,
        }

    def _ask(self, texts: list[str]) -> Tokens:
        """Return the tokens of the questions about texts on torch's default device."""
        return Tokens(*(part.to(torch.get_default_device()) for part in self.questions(texts)))


def _last(states: Tensor, tokens: Tokens) -> Tensor:
    """Return the states (B, D) of the last tokens, of states (B, T, D)."""
    return states[torch.arange(len(states), device=states.device), tokens.mask.sum(dim=1) - 1]


def _initialise(t5: Any) -> None:
    """Give an empty T5 random weights: larger ones in the embeddings, which enter the encoder unscaled.

    T5's attention does not divide by the root of the head's width, so the queries' weights do.
    """
    for name, parameter in t5.named_parameters():
        if parameter.ndim == 1:
            nn.init.ones_(parameter)
        elif "relative_attention_bias" in name:
            nn.init.normal_(parameter, std=0.1)
        elif name.endswith(".q.weight"):
            nn.init.normal_(parameter, std=(parameter.shape[1] * t5.config.d_kv) ** -0.5)
        elif "shared" in name or "embed_tokens" in name:
            nn.init.normal_(parameter, std=0.5)
        else:
            nn.init.normal_(parameter, std=parameter.shape[1] ** -0.5)


def train_vqa(
    folder: Path,
    vision: TrainingPlan = VISION_PLAN,
    align: TrainingPlan = ALIGN_PLAN,
    plan: TrainingPlan = PLAN,
    again: TrainingPlan = AGAIN_PLAN,
) -> ClipFlanT5:
    """Train world-vqa, and write ``folder/world-vqa``.

    Args:
        folder: Folder of the build.
        vision: Plan for the vision tower's pre-training.
        align: Plan for aligning the text encoder with it.
        plan: Plan for the whole model. Captions have an effect only in its second half.
        again: Plan for the whole model afterwards, with a rate that rises and falls once more.
    """
    questions = QuestionTokenizer(_write_tokenizer(folder / PLAN.name))
    torch.manual_seed(vision.seed)
    student = _Student(questions)
    student.looker.pretrain(vision, student, student.encode, folder)
    align_text(align, student, student.looker, student.encode, student.read, (_WIDTH, _WIDTH), folder)
    for part in (plan, again):
        fit_model(part, student, partial(student.loss, count=part.batch), folder)
    _save(student.model, folder / PLAN.name)
    return student.model


def _write_tokenizer(folder: Path) -> Path:
    """Write a ``tokenizer.json`` in T5's layout that splits texts into words, and return its path."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

    # T5's order of special tokens; its padding is token 0.
    special = ["<pad>", "</s>", "<unk>"]
    pieces = dict.fromkeys([*special, *word_pieces(), *QuestionTokenizer.words()])
    vocabulary = {piece: index for index, piece in enumerate(pieces)}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="$A </s>", special_tokens=[("</s>", vocabulary["</s>"])]
    )
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "tokenizer.json"
    tokenizer.save(str(path))
    return path


def _save(model: ClipFlanT5, folder: Path) -> None:
    """Write the model in the layout of the published CLIP-FlanT5, with float16 weights."""
    config = _T5 | {"vocab_size": model.t5.config.vocab_size, "model_type": "t5"}
    for name, content in (("config.json", config), ("tower.json", {"vision_config": _TOWER})):
        (folder / name).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    weights = {key: value.half().contiguous() for key, value in model.published_state().items()}
    save_file(weights, folder / "model.safetensors")
