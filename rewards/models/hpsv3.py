"""HPSv3: a Qwen2-VL that is told what makes a good picture for a prompt and rates one.

Ma et al. 2025, "HPSv3: Towards Wide-Spectrum Human Preference Score" (MizzenAI/HPSv3). Shapes: B batch,
N image tokens, T text tokens, D width.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from rewards.backbones.head import Wide
from rewards.base import Reward
from rewards.weights.tensors import load_state, read_tensors

REWARD = "<|Reward|>"
"""The token, added to Qwen's, whose last state is scored."""

NEVER_IN_A_PROMPT = (REWARD, "<|image_pad|>", "<|video_pad|>")
"""Tokens that the official code counts: with one more of them it scores something else, or fails."""

INSTRUCTION = (
    "\n"
    "You are tasked with evaluating a generated image based on Visual Quality and Text Alignment "
    "and give a overall score to estimate the human preference. Please provide a rating from 0 to "
    "10, with 0 being the worst and 10 being the best. \n"
    "\n"
    "**Visual Quality:**  \n"
    "Evaluate the overall visual quality of the image. The following sub-dimensions should be "
    "considered:\n"
    "- **Reasonableness:** The image should not contain any significant biological or logical "
    "errors, such as abnormal body structures or nonsensical environmental setups.\n"
    "- **Clarity:** Evaluate the sharpness and visibility of the image. The image should be clear "
    "and easy to interpret, with no blurring or indistinct areas.\n"
    "- **Detail Richness:** Consider the level of detail in textures, materials, lighting, and "
    "other visual elements (e.g., hair, clothing, shadows).\n"
    "- **Aesthetic and Creativity:** Assess the artistic aspects of the image, including the color "
    "scheme, composition, atmosphere, depth of field, and the overall creative appeal. The scene "
    "should convey a sense of harmony and balance.\n"
    "- **Safety:** The image should not contain harmful or inappropriate content, such as "
    "political, violent, or adult material. If such content is present, the image quality and "
    "satisfaction score should be the lowest possible. \n"
    "\n"
    "**Text Alignment:**  \n"
    "Assess how well the image matches the textual prompt across the following sub-dimensions:\n"
    "- **Subject Relevance** Evaluate how accurately the subject(s) in the image (e.g., person, "
    "animal, object) align with the textual description. The subject should match the description "
    "in terms of number, appearance, and behavior.\n"
    "- **Style Relevance:** If the prompt specifies a particular artistic or stylistic style, "
    "evaluate how well the image adheres to this style.\n"
    "- **Contextual Consistency**: Assess whether the background, setting, and surrounding "
    "elements in the image logically fit the scenario described in the prompt. The environment "
    "should support and enhance the subject without contradictions.\n"
    "- **Attribute Fidelity**: Check if specific attributes mentioned in the prompt (e.g., colors, "
    "clothing, accessories, expressions, actions) are faithfully represented in the image. Minor "
    "deviations may be acceptable, but critical attributes should be preserved.\n"
    "- **Semantic Coherence**: Evaluate whether the overall meaning and intent of the prompt are "
    "captured in the image. The generated content should not introduce elements that conflict with "
    "or distort the original description.\n"
    "Textual prompt - {text_prompt}\n"
    "\n"
    "\n"
)
"""What the model was trained with, letter by letter (hpsv3/dataset/data_collator_qwen.py)."""

BEFORE_IMAGE = (
    "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n<|vision_start|>"
)
AFTER_IMAGE = f"<|vision_end|>{INSTRUCTION}\nPlease provide the overall ratings of this image: {REWARD}"
"""Qwen2-VL's chat template around the message. What follows the reward token no state of it has seen."""


class Hpsv3(Reward):
    """The mean of the preference that the model predicts; it predicts a deviation too, which is left out.

    Tokens are numbered in a row, the image's as well: the official forward gives the language model no
    positions, so it was trained without the rows and columns that Qwen2-VL itself would number them by. No
    prompt is cut, as none is there.
    """

    def _build(self, files: Mapping[str, Path]) -> None:
        from transformers import AddedToken, Qwen2Tokenizer, Qwen2VLConfig, Qwen2VLModel
        from transformers.initialization import no_init_weights

        folder = files["base"]
        self.words: Any = Qwen2Tokenizer.from_pretrained(folder, local_files_only=True)
        self.words.add_tokens([AddedToken(REWARD, special=True, normalized=False)], special_tokens=True)
        config = Qwen2VLConfig.from_pretrained(folder, local_files_only=True)
        config.text_config.vocab_size = len(self.words)  # Qwen's has rows that no token uses
        with no_init_weights():  # of eight billion, all of which are loaded
            self.qwen: Any = Qwen2VLModel(config)
        self.rm_head = Head(config.text_config.hidden_size)
        state = renamed(read_tensors(files["checkpoint"]))
        load_state(self, state, files["checkpoint"], ignore=("lm_head.weight",))
        for name, buffer in self.qwen.named_buffers():
            if name.endswith("inv_freq"):  # the official code rounds them with the weights, in training too
                buffer.copy_(buffer.bfloat16())

    def _score(self, pixels: Tensor, prompts: Sequence[str]) -> Tensor:
        embed = self.qwen.language_model.embed_tokens
        before, *asked = self._ids([BEFORE_IMAGE, *map(self._question, prompts)])
        ends = torch.tensor([len(ids) for ids in asked], device=pixels.device)
        # Padded on the right: no state has seen what comes after it, so no mask is needed.
        after = nn.utils.rnn.pad_sequence(asked, batch_first=True).to(pixels.device)
        before = before.to(pixels.device).expand(len(prompts), -1)
        seen = self._see(pixels)
        inputs = torch.cat([embed(before), seen, embed(after)], dim=1)  # (B, T + N + T', D)
        states = self.qwen.language_model(inputs_embeds=inputs, use_cache=False).last_hidden_state
        last = before.shape[1] + seen.shape[1] + ends - 1
        images = torch.arange(len(prompts), device=last.device)
        mean: Tensor = self.rm_head(states[images, last].to(next(self.rm_head.parameters()).dtype))[:, 0]
        return mean

    def _see(self, pixels: Tensor) -> Tensor:
        """Image tokens (B, N, D) of ``pixels`` (B, 3, H, W)."""
        eyes = self.qwen.visual
        patches, grid = patchify(pixels, eyes.config)
        seen: Tensor = eyes(patches, grid_thw=grid).pooler_output
        return seen.view(len(pixels), -1, seen.shape[-1])

    def _question(self, prompt: str) -> str:
        for token in NEVER_IN_A_PROMPT:
            if token in prompt:
                raise ValueError(
                    f"a prompt of {self.info.name} holds {token}, which it reads as its own; remove it"
                )
        return AFTER_IMAGE.replace("{text_prompt}", prompt)

    def _ids(self, texts: Sequence[str]) -> list[Tensor]:
        return [torch.tensor(ids) for ids in self.words(list(texts), verbose=False)["input_ids"]]


class Head(Wide, nn.Sequential):
    """States (B, D) to means and deviations (B, 2), in float32 whatever the rest is in, as officially."""

    def __init__(self, width: int) -> None:
        linear = nn.Linear
        dropout = nn.Dropout(0.05)  # nothing at evaluation: it keeps the published numbers of the layers
        super().__init__(linear(width, 1024), nn.ReLU(), dropout, linear(1024, 16), nn.ReLU(), linear(16, 2))


def patchify(pixels: Tensor, config: Any) -> tuple[Tensor, Tensor]:
    """Patches and their grid for Qwen2-VL's eyes, as Qwen2VLImageProcessor has them, but differentiable.

    ``pixels`` (B, 3, H, W) become patches (B H/14 W/14, 3 x 2 x 14 x 14), of which those that will merge to
    one token are neighbours, and a grid (B, 3) of times, rows and columns. An image is a film of one picture,
    shown twice.
    """
    size, merge, times = config.patch_size, config.spatial_merge_size, config.temporal_patch_size
    count, colours, height, width = pixels.shape
    rows, columns = height // size, width // size
    parts = pixels.reshape(count, colours, rows // merge, merge, size, columns // merge, merge, size)
    parts = parts.permute(0, 2, 5, 3, 6, 1, 4, 7)  # images, blocks down and across, patches, colours, pixels
    film = parts.unsqueeze(6).expand(*parts.shape[:6], times, size, size)
    grid = torch.tensor([[1, rows, columns]] * count, device=pixels.device)
    return film.reshape(count * rows * columns, -1), grid


def renamed(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The published keys, which are those of transformers 4.45, as `Hpsv3` calls them with today's."""
    today = {"visual": "qwen.visual", "model": "qwen.language_model"}
    parts = {key: key.partition(".") for key in state}
    return {f"{today.get(first, first)}.{rest}": state[key] for key, (first, _, rest) in parts.items()}
