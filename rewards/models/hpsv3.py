"""HPSv3: a Qwen2-VL that reads instructions, an image and its prompt, and rates the image.

Ma et al. 2025, "HPSv3: Towards Wide-Spectrum Human Preference Score" (MizzenAI/HPSv3). Shapes: B batch,
H and W image size, N image tokens, T text tokens, D width.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from rewards.backbones.head import AtLeastFloat32
from rewards.base import Reward
from rewards.weights.tensors import load_state, read_tensors

_REWARD = "<|Reward|>"
"""Token added to Qwen's vocabulary; its last state is scored."""

_FORBIDDEN_IN_PROMPTS = (_REWARD, "<|image_pad|>", "<|video_pad|>")
"""Tokens that the official code counts: one of them in a prompt would change what is scored, or fail."""

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
"""The instruction of training, with its typos and spaces (hpsv3/dataset/data_collator_qwen.py)."""

_BEFORE_IMAGE = (
    "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n<|vision_start|>"
)
AFTER_IMAGE = f"<|vision_end|>{INSTRUCTION}\nPlease provide the overall ratings of this image: {_REWARD}"
"""Qwen2-VL's chat template up to the reward token, whose state cannot depend on the rest."""


class Hpsv3(Reward):
    """Mean of the predicted preference; the deviation that the model predicts too is not used.

    All tokens have consecutive positions, the image's included. Qwen2-VL itself would number image tokens by
    rows and columns, but the official forward pass gives the language model no positions, so HPSv3 was
    trained without them. Prompts are not cut, as in the official code.
    """

    alone_in_half_precision = True

    def _build(self, files: Mapping[str, Path]) -> None:
        from transformers import AddedToken, Qwen2Tokenizer, Qwen2VLConfig, Qwen2VLModel
        from transformers.initialization import no_init_weights

        folder = files["base"]
        self._tokenizer: Any = Qwen2Tokenizer.from_pretrained(folder, local_files_only=True)
        self._tokenizer.add_tokens([AddedToken(_REWARD, special=True, normalized=False)], special_tokens=True)
        config = Qwen2VLConfig.from_pretrained(folder, local_files_only=True)
        # Qwen's embedding has spare rows; the published checkpoint has exactly one row per token.
        config.text_config.vocab_size = len(self._tokenizer)
        # Random values for eight billion weights would take minutes, and all of them are loaded below.
        with no_init_weights():
            self.qwen: Any = Qwen2VLModel(config)
        self.rm_head = _RewardHead(config.text_config.hidden_size)
        state = _rename_keys(read_tensors(files["checkpoint"]))
        load_state(self, state, files["checkpoint"], ignore=("lm_head.weight",))
        # The official code converts the whole model to bfloat16, rotary frequencies included, also in
        # training. Buffers are not in the checkpoint, so they are rounded here.
        for name, buffer in self.qwen.named_buffers():
            if name.endswith("inv_freq"):
                buffer.copy_(buffer.bfloat16())

    def _score(self, pixels: Tensor, prompts: Sequence[str]) -> Tensor:
        embed = self.qwen.language_model.embed_tokens
        before, *texts = self._ids([_BEFORE_IMAGE, *map(self._text_after_image, prompts)])
        lengths = torch.tensor([len(ids) for ids in texts], device=pixels.device)
        # Padded on the right: in a causal model no state depends on what follows, so no mask is needed.
        after = nn.utils.rnn.pad_sequence(texts, batch_first=True).to(pixels.device)
        before = before.to(pixels.device).expand(len(prompts), -1)
        image = self._image_tokens(pixels)
        inputs = torch.cat([embed(before), image, embed(after)], dim=1)  # (B, T + N + T', D)
        states = self.qwen.language_model(inputs_embeds=inputs, use_cache=False).last_hidden_state
        last = before.shape[1] + image.shape[1] + lengths - 1  # the reward token of each row
        rows = torch.arange(len(prompts), device=last.device)
        mean: Tensor = self.rm_head(states[rows, last].to(next(self.rm_head.parameters()).dtype))[:, 0]
        return mean

    def _image_tokens(self, pixels: Tensor) -> Tensor:
        """Return image tokens (B, N, D) of ``pixels`` (B, 3, H, W)."""
        tower = self.qwen.visual
        patches, grid = _patchify(pixels, tower.config)
        tokens: Tensor = tower(patches, grid_thw=grid).pooler_output
        return tokens.view(len(pixels), -1, tokens.shape[-1])

    def _text_after_image(self, prompt: str) -> str:
        for token in _FORBIDDEN_IN_PROMPTS:
            if token in prompt:
                raise ValueError(
                    f"a prompt for {self.info.name} contains {token}, a special token of the model; remove it"
                )
        return AFTER_IMAGE.replace("{text_prompt}", prompt)

    def _ids(self, texts: Sequence[str]) -> list[Tensor]:
        return [torch.tensor(ids) for ids in self._tokenizer(list(texts), verbose=False)["input_ids"]]


class _RewardHead(AtLeastFloat32, nn.Sequential):
    """Maps states (B, D) to means and deviations (B, 2), in float32 as in the official code."""

    def __init__(self, width: int) -> None:
        linear = nn.Linear
        # The dropout does nothing in evaluation, but it counts in the layer numbers of the published keys.
        dropout = nn.Dropout(0.05)
        super().__init__(linear(width, 1024), nn.ReLU(), dropout, linear(1024, 16), nn.ReLU(), linear(16, 2))


def _patchify(pixels: Tensor, config: Any) -> tuple[Tensor, Tensor]:
    """Cut images into patches for Qwen2-VL's vision tower, as Qwen2VLImageProcessor does, but differentiably.

    Args:
        pixels: Normalised images (B, 3, H, W), H and W multiples of 28.
        config: transformers' vision configuration.

    Returns:
        Patches (B H/14 W/14, 3 x 2 x 14 x 14) and the grid (B, 3) of frames, rows and columns.
    """
    size, merge, times = config.patch_size, config.spatial_merge_size, config.temporal_patch_size
    count, colours, height, width = pixels.shape
    rows, columns = height // size, width // size
    parts = pixels.reshape(count, colours, rows // merge, merge, size, columns // merge, merge, size)
    # To images, blocks down and across, patches of a block, colours, pixels: the patches that the tower
    # merges into one token are neighbours.
    parts = parts.permute(0, 2, 5, 3, 6, 1, 4, 7)
    # An image is a video of one frame, repeated to fill a temporal patch of two.
    frames = parts.unsqueeze(6).expand(*parts.shape[:6], times, size, size)
    grid = torch.tensor([[1, rows, columns]] * count, device=pixels.device)
    return frames.reshape(count * rows * columns, -1), grid


def _rename_keys(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename the published keys, which are those of transformers 4.45, to those of today's modules."""
    prefixes = {"visual": "qwen.visual", "model": "qwen.language_model"}
    parts = {key: key.partition(".") for key in state}
    return {f"{prefixes.get(first, first)}.{rest}": state[key] for key, (first, _, rest) in parts.items()}
