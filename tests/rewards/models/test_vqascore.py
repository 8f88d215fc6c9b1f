"""VQAScore against its reference, and the edge cases of the authors' code."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

import rewards
from rewards.base import Reward
from rewards.models.vqascore import ClipFlanT5, QuestionTokenizer, VqaScore, _read_folder
from rewards.verification.references import load_reference
from rewards.verification.tiny.checkpoints import tiny_record
from tcbench.errors import MismatchError

Tiny = Callable[[str], Reward]
Files = Callable[[str], Mapping[str, Path]]
NAME = "vqascore"
PROMPTS = [
    "a large red circle",
    "",
    "a photo of an astronaut who rides a horse, in the style of a very long description " * 3,
    'un café 北京\n  with  what {no} piece "covers"',
]
CUT = "word " * 600
"""Longer than 2,048 tokens."""


def picture(height: int, width: int, seed: int = 0) -> Image.Image:
    coarse = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)


def load(files: Mapping[str, Path], **other: Path) -> Reward:
    return rewards.load(tiny_record(rewards.info(NAME)), weights={**files, **other})


def copy(files: Mapping[str, Path], tmp_path: Path) -> Path:
    return Path(shutil.copytree(files["model"], tmp_path / "model"))


def test_score_matches_the_reference_for_any_shape_and_prompt(tiny: Tiny, tiny_files: Files) -> None:
    reward, files = tiny(NAME), tiny_files(NAME)
    images = [picture(*size, seed) for seed, size in enumerate([(72, 101), (120, 60), (336, 336), (1, 9)])]
    scores = torch.cat([reward.score(images, PROMPTS), reward.score(images[:1], [CUT])])
    cases = zip([*images, images[0]], [*PROMPTS, CUT], strict=True)
    expected = torch.tensor([load_reference("vqascore")(files, image, prompt) for image, prompt in cases])
    assert (scores - expected).abs().max() <= 1e-4 * (expected.max() - expected.min())
    assert (expected.max() - expected.min()) / expected.mean() > 0.02


def test_score_depends_on_image_and_prompt(tiny: Tiny) -> None:
    images = [picture(80, 80, seed) for seed in range(3)]
    of_images = tiny(NAME).score(images, ["a cat"] * 3)
    of_prompts = tiny(NAME).score(images[:1] * 3, ["a cat", "a dog", "a cat on a dog"])
    for scores in (of_images, of_prompts):
        assert ((scores > 0) & (scores < 1)).all()
        assert scores.std() / scores.mean() > 1e-3


def test_question_matches_the_official_text(tiny: Tiny) -> None:
    reward: Any = tiny(NAME)
    decode = reward.questions._tokenizer.decode
    before, (after,) = decode(reward.questions.before), reward.questions(["a cat"]).ids
    assert before.startswith("A chat between a curious user and an artificial intelligence assistant. The")
    assert before.endswith("polite answers to the user's questions. USER:</s>")
    expected = 'Does this figure show "a cat"? Please answer yes or no. ASSISTANT:</s>'
    assert decode(after) == expected
    assert decode(reward.questions.answer) == "Yes</s>"


def test_words_of_the_question_are_listed_in_lower_case() -> None:
    words = QuestionTokenizer.words()
    assert words == sorted(set(words))
    assert {"a", "assistant", "does", "figure", "yes", "no", "?", '"', ":"} <= set(words)
    assert all(word.islower() or not word.isalnum() for word in words)


def test_a_new_model_is_on_the_default_device(tiny_files: Files) -> None:
    files = tiny_files(NAME)
    configs = [
        json.loads(path.read_text(encoding="utf-8"))
        for path in (files["model"] / "config.json", files["tower"])
    ]
    with torch.device("meta"):
        model = ClipFlanT5(configs[0], configs[1]["vision_config"])
    assert {value.device.type for value in model.state_dict().values()} == {"meta"}


def test_answers_can_differ_between_rows(tiny: Tiny) -> None:
    reward: Any = tiny(NAME)
    before, after = torch.tensor(reward.questions.before), reward.questions(["a cat", "two dogs"])
    yes, other = torch.tensor(reward.questions.answer), torch.tensor(reward.questions.answer).roll(1)
    with torch.inference_mode():
        patches = reward.model.patches(torch.randn(2, 3, 336, 336, generator=torch.manual_seed(0)))
        states, mixed = reward.model.answer(patches, before, after, torch.stack([yes, other]))
        for row, answer in enumerate((yes, other)):
            same_states, same = reward.model.answer(patches, before, after, answer)
            torch.testing.assert_close(mixed[row], same[row])
            torch.testing.assert_close(states, same_states)
    assert states.shape == (*after.ids.shape, patches.shape[-1])
    assert not torch.allclose(mixed[0], mixed[1])


def test_a_model_saved_under_its_published_keys_loads_again(
    tiny: Tiny, tiny_files: Files, tmp_path: Path
) -> None:
    files, reward = tiny_files(NAME), tiny(NAME)
    model: Any = reward.model
    published = {key: value.clone() for key, value in model.published_state().items()}
    folder = tmp_path / "model"
    folder.mkdir()
    shutil.copy(files["model"] / "config.json", folder)
    save_file(published, folder / "model.safetensors")
    again = VqaScore(tiny_record(rewards.info(NAME)), {**files, "model": folder})
    image = picture(50, 60)
    assert torch.equal(again.score([image], ["a cat"]), reward.score([image], ["a cat"]))
    # Nothing else is published than copies of the word embedding and position numbers.
    left = set(_read_folder(files["model"])) - set(published)
    assert all(key.endswith(("embed_tokens.weight", "position_ids")) for key in left)


def test_prompt_is_cut_at_2048_tokens_of_the_whole_question(
    tiny: Tiny,
) -> None:
    reward: Any = tiny(NAME)
    (empty,) = reward.questions.lengths([""])
    room = reward.questions.limit - empty
    assert len(reward.questions.before) + 1 + empty + room == 2048
    assert [reward.truncated(["a" * count]) for count in (room - 1, room, room + 1)] == [0, 0, 1]
    assert reward.questions(["a" * (2 * room), ""]).ids.shape == (2, reward.questions.limit)


def test_prompt_with_the_image_placeholder_is_refused(tiny: Tiny) -> None:
    with pytest.raises(ValueError, match="a prompt contains <image>, the placeholder of the image"):
        tiny(NAME).score([picture(8, 8)], ["an <image> of a cat"])


def test_output_layer_is_not_tied_to_the_embedding(tiny: Tiny, tiny_files: Files) -> None:
    reward: Any = tiny(NAME)
    state = _read_folder(tiny_files(NAME)["model"])
    assert not torch.equal(state["lm_head.weight"], state["shared.weight"])
    t5 = reward.model.t5
    for layer, key in ((t5.lm_head, "lm_head"), (t5.shared, "shared"), (t5.decoder.embed_tokens, "shared")):
        assert torch.equal(layer.weight, state[f"{key}.weight"].float())


def test_single_file_loads_like_shards(tiny: Tiny, tiny_files: Files, tmp_path: Path) -> None:
    files = tiny_files(NAME)
    image, expected = picture(50, 60), tiny(NAME).score([picture(50, 60)], ["a cat"])
    state = _read_folder(files["model"])
    for kind in ("bin", "safetensors"):
        folder = tmp_path / kind
        folder.mkdir()
        shutil.copy(files["model"] / "config.json", folder)
        if kind == "bin":
            torch.save(state, folder / "pytorch_model.bin")
        else:
            save_file({key: value.clone() for key, value in state.items()}, folder / "model.safetensors")
        reward = VqaScore(tiny_record(rewards.info(NAME)), {**files, "model": folder})
        assert torch.equal(reward.score([image], ["a cat"]), expected)


def test_missing_or_unexpected_key_is_refused(
    tiny_files: Files, tmp_path: Path, changed_on_purpose: Callable[[], None]
) -> None:
    folder = copy(tiny_files(NAME), tmp_path)
    part = folder / "pytorch_model-00001-of-00002.bin"
    state = torch.load(part, weights_only=True)
    torch.save({**state, "extra.weight": torch.ones(1)}, part)
    with pytest.raises(MismatchError, match=r"t5\.extra\.weight: not expected"):
        load(tiny_files(NAME), model=folder)
    changed_on_purpose()
    state.pop("decoder.final_layer_norm.weight")
    torch.save(state, part)
    with pytest.raises(MismatchError, match=r"t5\.decoder\.final_layer_norm\.weight: missing"):
        load(tiny_files(NAME), model=folder)


def test_missing_shard_is_named(tiny_files: Files, tmp_path: Path) -> None:
    folder = copy(tiny_files(NAME), tmp_path)
    (folder / "pytorch_model-00002-of-00002.bin").unlink()
    with pytest.raises(
        MismatchError, match=r"lacks pytorch_model-00002-of-00002\.bin, which its index names"
    ):
        load(tiny_files(NAME), model=folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"mm_vision_select_layer": -1}, r"has \{'mm_vision_select_layer': -1\}; expected"),
        ({"d_model": "wide"}, "do not describe a CLIP-FlanT5"),
        ({"vocab_size": 150}, "has 199 tokens, but .* only 150; use the tokenizer"),
    ],
)
def test_other_model_is_refused(
    tiny_files: Files, tmp_path: Path, change: dict[str, object], message: str
) -> None:
    files = tiny_files(NAME)
    folder = copy(files, tmp_path)
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    (folder / "config.json").write_text(json.dumps(config | change), encoding="utf-8")
    if "vocab_size" in change:
        state = _read_folder(folder)
        (folder / "pytorch_model.bin.index.json").unlink()
        tables = {key: value[:150] for key, value in state.items() if len(value) == config["vocab_size"]}
        torch.save(state | tables, folder / "pytorch_model.bin")
    with pytest.raises(MismatchError, match=message):
        load(files, model=folder)


def test_damaged_tokenizer_is_refused(tiny_files: Files, tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    path.write_text("{}", encoding="utf-8")
    with pytest.raises(MismatchError, match="cannot be read as a tokenizer"):
        load(tiny_files(NAME), tokenizer=path)
