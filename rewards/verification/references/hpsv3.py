"""HPSv3 in float32, with transformers' Qwen2-VL and the message written out.

Official code: MizzenAI/HPSv3 (hpsv3/inference.py, hpsv3/train.py, hpsv3/dataset/data_collator_qwen.py and
hpsv3/dataset/utils.py).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

import torch
from PIL import Image
from safetensors.torch import load_file
from torch import nn
from transformers import Qwen2Tokenizer, Qwen2VLConfig, Qwen2VLForConditionalGeneration
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

_PIXELS = 256 * 28 * 28
"""Area of the resized image: inference.py sets the minimum and the maximum to the same value."""
MESSAGE = (
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
    "Textual prompt - {prompt}\n"
    "\n"
    "\n"
    "\n"
    "Please provide the overall ratings of this image: <|Reward|>\n"
    "\n"
    "END\n"
)
"""Instruction and ending as the model was trained with them (data_collator_qwen.py).

Its missing colon and its blanks at line ends are kept.
"""


def score(files: Mapping[str, Path], image: Image.Image, prompt: str) -> float:
    """Return the first of the head's two values at the reward token: mu; the second one is sigma."""
    tokenizer = Qwen2Tokenizer.from_pretrained(files["base"])
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|Reward|>"]})
    reward = tokenizer.convert_tokens_to_ids("<|Reward|>")
    model, head = _model(files, len(tokenizer))

    # fetch_image has resized the image already; these wide limits keep the processor from resizing it again.
    processor = Qwen2VLImageProcessorPil(min_pixels=56 * 56, max_pixels=16384 * 28 * 28)
    vision = processor(images=[_fetch_image(image)], return_tensors="pt")
    count = int(vision["image_grid_thw"].prod()) // 4  # Qwen2-VL merges 2 x 2 patches into one token

    # What apply_chat_template(..., add_generation_prompt=True) gives for one user message.
    text = (
        "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
        f"<|im_start|>user\n<|vision_start|>{'<|image_pad|>' * count}<|vision_end|>"
        f"{MESSAGE.format(prompt=prompt)}<|im_end|>\n<|im_start|>assistant\n"
    )
    ids = torch.tensor([tokenizer(text)["input_ids"]])
    with torch.no_grad():
        # The official forward passes embeddings to the language model without positions. So all three rotary
        # components count up from 0, instead of giving image tokens rows and columns as Qwen2-VL does.
        positions = torch.arange(ids.shape[1]).expand(3, 1, -1)
        states = model.model(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            position_ids=positions,
            pixel_values=vision["pixel_values"],
            image_grid_thw=vision["image_grid_thw"],
        ).last_hidden_state
        logits = head(states)[ids == reward]
    return float(logits[0, 0])


def _model(files: Mapping[str, Path], vocabulary: int) -> tuple[Qwen2VLForConditionalGeneration, nn.Module]:
    config = Qwen2VLConfig.from_pretrained(files["base"])
    config.text_config.vocab_size = vocabulary
    model = Qwen2VLForConditionalGeneration(config).eval()
    state = {key: value.float() for key, value in load_file(files["checkpoint"]).items()}
    names = {}
    for key in model.state_dict():
        # The checkpoint has the keys of transformers 4.45; transformers 5 nests both halves in "model".
        names[key] = key.replace("model.visual.", "visual.").replace("model.language_model.", "model.")
    model.load_state_dict({key: state[name] for key, name in names.items()})
    for name, buffer in model.named_buffers():
        if "inv_freq" in name:
            # train.py: model.to(torch.bfloat16) rounds buffers too, so the model was trained with rounded
            # frequencies.
            buffer.data = buffer.to(torch.bfloat16).to(torch.float32)
    width = config.text_config.hidden_size
    head = nn.Sequential(
        nn.Linear(width, 1024), nn.ReLU(), nn.Dropout(0.05), nn.Linear(1024, 16), nn.ReLU(), nn.Linear(16, 2)
    ).eval()
    head.load_state_dict({key[8:]: value for key, value in state.items() if key.startswith("rm_head.")})
    return model, head


def _fetch_image(image: Image.Image) -> Image.Image:
    """Resize as fetch_image (hpsv3/dataset/utils.py) does: sides are multiples of 28, the area is fixed."""
    image = image.convert("RGB")
    width, height = image.size
    rows, columns = (max(28, round(side / 28) * 28) for side in (height, width))
    if rows * columns > _PIXELS:
        beta = math.sqrt((height * width) / _PIXELS)
        rows, columns = (math.floor(side / beta / 28) * 28 for side in (height, width))
    elif rows * columns < _PIXELS:
        beta = math.sqrt(_PIXELS / (height * width))
        rows, columns = (math.ceil(side * beta / 28) * 28 for side in (height, width))
    return image.resize((columns, rows), Image.Resampling.BICUBIC)
