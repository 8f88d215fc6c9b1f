"""CLIPScore by any model scores as the library that wrote the model's folder."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import CLIPImageProcessorPil, SiglipImageProcessorPil

import rewards
from rewards.backbones.processor import profile_of
from rewards.base import Reward, score_id
from rewards.info import PUBLISHED, RewardInfo
from rewards.preprocess import PROFILES, Profile, preprocess, to_tensor
from rewards.verification.references import clip as reference
from rewards.verification.references import load_reference
from rewards.verification.tiny.checkpoints import tiny_record, write_tiny_weights
from rewards.verification.tiny.vocabularies import vocabulary, write_openai_tokenizer
from tcbench.errors import MismatchError, MissingFiles

Files = Callable[[str], Mapping[str, Path]]
PROMPTS = ["a small blue square on a grey background", "", "a large red circle " * 30, "Two dogs, running"]


def picture(height: int, width: int, seed: int = 0) -> Image.Image:
    noise = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(noise)


def coarse(height: int, width: int) -> Image.Image:
    return picture(6, 8, height).resize((width, height), Image.Resampling.BICUBIC)


IMAGES = [coarse(224, 224), coarse(300, 451), coarse(500, 230), coarse(64, 80)]


def folder_profile(folder: Path) -> Profile:
    """Profile that a model's folder asks for."""
    return profile_of(RewardInfo("any", profile=PUBLISHED), {"backbone": folder})


def write_json(path: Path, content: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content), encoding="utf-8")


@pytest.fixture(scope="module")
def twins(tiny_files: Files, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Two folders of the same CLIP, in open_clip's and in transformers' layout."""
    ours = tiny_files("clip")["backbone"]
    theirs = tmp_path_factory.mktemp("clip")
    reference._from_open_clip(ours).save_pretrained(theirs)
    write_openai_tokenizer(theirs)
    write_json(theirs / "preprocessor_config.json", CLIPImageProcessorPil().to_dict())
    return ours, theirs


@pytest.fixture(scope="module")
def siglip_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    files = write_tiny_weights(
        replace(rewards.info("siglip"), profile="siglip-64"), tmp_path_factory.mktemp("siglip")
    )
    folder = files["model"]
    for file in files["tokenizer"].iterdir():  # one folder holds both, as on the hub
        file.rename(folder / file.name)
    size = {"height": 64, "width": 64}
    write_json(folder / "preprocessor_config.json", SiglipImageProcessorPil(size=size).to_dict())
    return folder


CONVENTIONS = [
    ("clip", "torchmetrics"),
    ("clip-hessel", "hessel"),
    ("clip-logits", "logits"),
    ("clip-cosine", "cosine"),
]


def check_against(convention: str, reward: Reward, files: Mapping[str, Path]) -> None:
    """Images of any shape, and short, long and empty prompts, get the official scores."""
    pairs = zip(IMAGES, PROMPTS, strict=True)
    expected = [load_reference("clip")(files, *pair, convention=convention) for pair in pairs]
    spread = max(expected) - min(expected)
    assert spread > 0
    assert reward.score(IMAGES, PROMPTS).tolist() == pytest.approx(expected, abs=1e-4 * spread)


@pytest.mark.parametrize(("name", "convention"), CONVENTIONS)
def test_both_layouts_score_like_transformers_clip(
    twins: tuple[Path, Path], name: str, convention: str
) -> None:
    ours, theirs = (rewards.load(f"{name}:{folder}") for folder in twins)
    for reward, folder in ((ours, twins[0]), (theirs, twins[1])):
        check_against(convention, reward, {"backbone": folder})
    image = coarse(224, 230)  # both libraries crop it alike
    torch.testing.assert_close(ours.score([image], ["a"]), theirs.score([image], ["a"]), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("name", "convention"),
    [
        *CONVENTIONS,
        ("world-clip", "torchmetrics"),
        ("pickscore", "logits"),
    ],
)
def test_named_rewards_score_like_transformers_clip(
    tiny: Callable[[str], Reward], tiny_files: Files, name: str, convention: str
) -> None:
    check_against(convention, tiny(name), tiny_files(name))


def test_siglip_logit_includes_its_bias(siglip_folder: Path) -> None:
    images, prompts = [coarse(70, 90), coarse(64, 64)], ["a red circle", "A large WHITE circle!"]
    cosines, logits = (
        rewards.load(f"{kind}:{siglip_folder}").score(images, prompts)
        for kind in ("clip-cosine", "clip-logits")
    )
    files = {"model": siglip_folder, "tokenizer": siglip_folder}
    alone = rewards.load(replace(rewards.info("siglip"), profile="siglip-64"), weights=files)
    torch.testing.assert_close(logits, alone.score(images, prompts), rtol=0, atol=1e-6)
    scale = load_file(siglip_folder / "model.safetensors")["logit_scale"].exp()
    torch.testing.assert_close(logits, cosines * scale - 3, rtol=0, atol=1e-5)  # the bias that was written


def test_open_clip_siglip_uses_its_own_tokenizer(
    siglip_folder: Path, tmp_path: Path, changed_on_purpose: Callable[[], None]
) -> None:
    from open_clip.model import CustomTextCLIP
    from sentencepiece import SentencePieceProcessor
    from tokenizers import Tokenizer
    from tokenizers.models import Unigram
    from tokenizers.normalizers import Replace
    from tokenizers.processors import TemplateProcessing
    from transformers import T5TokenizerFast

    sentencepiece = SentencePieceProcessor(model_file=str(siglip_folder / "spiece.model"))
    pieces = [(sentencepiece.id_to_piece(i), sentencepiece.get_score(i)) for i in range(len(sentencepiece))]
    words = Tokenizer(Unigram(pieces, unk_id=sentencepiece.unk_id()))
    words.normalizer = Replace(" ", "▁")
    words.post_processor = TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    T5TokenizerFast(tokenizer_object=words, extra_ids=0, pad_token="</s>").save_pretrained(tmp_path)
    model: dict[str, Any] = {
        "embed_dim": 32,
        "custom_text": True,
        "init_logit_bias": -3,
        "vision_cfg": {"image_size": 64, "layers": 1, "width": 32, "head_width": 16, "patch_size": 16},
        "text_cfg": {
            "context_length": 64,
            "vocab_size": len(vocabulary("siglip")),
            "hf_tokenizer_name": "someone/words",
            "tokenizer_kwargs": {"clean": "canonicalize"},
            "width": 32,
            "heads": 2,
            "layers": 1,
            "no_causal_mask": True,
            "pool_type": "last",
        },
    }
    settings = {"mean": [0.5] * 3, "std": [0.5] * 3, "interpolation": "bicubic", "resize_mode": "squash"}
    write_json(tmp_path / "open_clip_config.json", {"model_cfg": model, "preprocess_cfg": settings})
    torch.manual_seed(0)
    network = CustomTextCLIP(**{k: v for k, v in model.items() if k != "custom_text"})
    save_file(network.state_dict(), tmp_path / "open_clip_model.safetensors")
    reward = rewards.load(f"clip-logits:{tmp_path}")
    expected = replace(PROFILES["siglip-64"], name="squash-64-bicubic", convert="last", version=2)
    assert reward.profile == expected
    image = coarse(64, 80)
    theirs, _, transform = open_clip.create_model_and_transforms(f"local-dir:{tmp_path}")
    tokens = open_clip.get_tokenizer(f"local-dir:{tmp_path}")
    for prompt in ("A red, circle", "a_red circle", ""):
        with torch.no_grad():
            logits, _ = theirs.eval().get_logits(transform(image)[None], tokens([prompt]))
        assert reward.score([image], [prompt]).item() == pytest.approx(logits.item(), abs=1e-5)
    (tmp_path / "tokenizer_config.json").unlink()
    changed_on_purpose()
    with pytest.raises(MismatchError, match="lacks the tokenizer it names; copy the files of someone/words"):
        rewards.load(f"clip:{tmp_path}")


@pytest.mark.parametrize("resize", ["shortest", "squash", "longest"])
@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
@pytest.mark.parametrize("size", [(150, 211), (64, 67), (40, 31)])
def test_preprocessing_matches_the_transform_of_open_clip(
    tmp_path: Path, resize: str, interpolation: str, size: tuple[int, int]
) -> None:
    settings: dict[str, Any] = {
        "mean": [0.1, 0.2, 0.3],
        "std": [0.5, 0.6, 0.7],
        "resize_mode": resize,
        "interpolation": interpolation,
    }
    model = {"vision_cfg": {"image_size": 64}, "text_cfg": {}}
    write_json(tmp_path / "open_clip_config.json", {"model_cfg": model, "preprocess_cfg": settings})
    image = picture(*size)
    expected: Any = open_clip.image_transform(64, is_train=False, **settings)(image)
    pixels = preprocess(to_tensor(image)[None], folder_profile(tmp_path))[0]
    torch.testing.assert_close(pixels, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    "processor",
    [
        CLIPImageProcessorPil(size={"shortest_edge": 64}, crop_size=64),
        CLIPImageProcessorPil(
            size={"shortest_edge": 64}, crop_size=64, resample=2, image_mean=[0.5, 0.4, 0.3]
        ),
        SiglipImageProcessorPil(size={"height": 64, "width": 64}, image_mean=[0.5] * 3, image_std=[0.5] * 3),
        SiglipImageProcessorPil(size={"height": 64, "width": 64}, resample=2, do_normalize=False),
    ],
)
@pytest.mark.parametrize("size", [(150, 211), (64, 67), (40, 31)])
def test_preprocessing_matches_the_processor_of_transformers(
    tmp_path: Path, processor: Any, size: tuple[int, int]
) -> None:
    write_json(tmp_path / "preprocessor_config.json", processor.to_dict())
    image = picture(*size)
    expected: Tensor = processor(image, return_tensors="pt")["pixel_values"][0]
    pixels = preprocess(to_tensor(image)[None], folder_profile(tmp_path))[0]
    torch.testing.assert_close(pixels, expected, rtol=0, atol=2e-6)


@pytest.mark.parametrize(
    "prompt", ["a cat &amp; a dog", "a \u201cquoted\u201d word", "caf\u00e9  with   spaces"]
)
def test_folder_of_transformers_is_read_as_transformers_reads_it(
    twins: tuple[Path, Path], prompt: str
) -> None:
    image = coarse(427, 640)
    for folder in twins:
        score = rewards.load(f"clip-cosine:{folder}").score([image], [prompt]).item()
        expected = reference.score({"model": folder}, image, prompt, convention="cosine")
        assert score == pytest.approx(expected, abs=1e-6)


def test_equal_profile_gets_the_known_name(twins: tuple[Path, Path], siglip_folder: Path) -> None:
    names = [folder_profile(folder).name for folder in (*twins, siglip_folder)]
    # Not siglip-64, which ignores orientation tags for the embedded world.
    assert names == ["clip-224", "clip-224-floor", "squash-64-bicubic"]


@pytest.mark.parametrize(
    ("settings", "what"),
    [
        ({"image_processor_type": "ViTImageProcessor"}, "image_processor_type 'ViTImageProcessor'"),
        ({"image_processor_type": "Siglip2ImageProcessor"}, "image_processor_type 'Siglip2ImageProcessor'"),
        ({"resample": 0}, "resample 0"),
        ({"do_center_crop": False}, "do_center_crop false"),
        ({"crop_size": 200}, "crop_size 200 of size 224"),
        ({"rescale_factor": 1.0}, "rescale_factor 1.0"),
        ({"size": {"height": 100, "width": 50}}, r"size \(100, 50\)"),
    ],
)
def test_unsupported_preprocessing_is_refused(tmp_path: Path, settings: dict[str, object], what: str) -> None:
    write_json(
        tmp_path / "preprocessor_config.json", {"image_processor_type": "CLIPImageProcessor"} | settings
    )
    with pytest.raises(MismatchError, match=f"preprocessing that is not supported: {what}"):
        folder_profile(tmp_path)


def test_folder_of_neither_layout_is_one_clear_error(tmp_path: Path) -> None:
    with pytest.raises(MissingFiles, match=r"needs its backbone .* lacks open_clip_config.json") as error:
        rewards.load(f"clip:{tmp_path}")
    assert "\n" not in str(error.value)
    assert "Give a folder that open_clip or transformers saved" in str(error.value)
    with pytest.raises(MissingFiles, match=r"gone does not exist"):
        rewards.load(f"clip:{tmp_path / 'gone'}")


def test_other_model_of_either_library_is_refused(
    twins: tuple[Path, Path], tmp_path: Path, changed_on_purpose: Callable[[], None]
) -> None:
    for file in twins[1].iterdir():
        (tmp_path / file.name).symlink_to(file)
    (tmp_path / "config.json").unlink()
    write_json(tmp_path / "config.json", {"model_type": "blip"})
    with pytest.raises(MismatchError, match="describes a blip; expected one of clip, siglip"):
        rewards.load(f"clip:{tmp_path}")
    changed_on_purpose()
    write_json(
        tmp_path / "open_clip_config.json",
        {"model_cfg": {"vision_cfg": {}, "text_cfg": {"hf_model_name": "xlm-roberta-base"}}},
    )
    save_file({}, tmp_path / "open_clip_model.safetensors")
    with pytest.raises(MismatchError, match=r"its text tower is not open_clip's own"):
        rewards.load(f"clip:{tmp_path}")


def test_score_id_depends_on_preprocessing_and_not_on_the_folder_name(
    twins: tuple[Path, Path], tmp_path: Path, changed_on_purpose: Callable[[], None]
) -> None:
    first = score_id(rewards.info(f"clip:{twins[1]}"))
    for file in twins[1].iterdir():
        (tmp_path / file.name).symlink_to(file)
    assert score_id(rewards.info(f"clip:{tmp_path}")) == first
    assert score_id(rewards.info(f"clip-cosine:{tmp_path}")) != first
    changed_on_purpose()
    (tmp_path / "preprocessor_config.json").unlink()
    write_json(tmp_path / "preprocessor_config.json", CLIPImageProcessorPil(resample=2).to_dict())
    assert score_id(rewards.info(f"clip:{tmp_path}")) != first


def test_hub_id_with_revision_is_pinned() -> None:
    record = rewards.info("clip:laion/CLIP-ViT-H-14-laion2B-s32B-b79K@1c2b849")
    (weights,) = record.weights
    assert (weights.hub, weights.revision) == ("laion/CLIP-ViT-H-14-laion2B-s32B-b79K", "1c2b849")
    assert rewards.info("clip-hessel:laion/x").weights[0].revision == "main"
    assert rewards.info("clip-hessel:laion/x").options == {"convention": "hessel"}
    with pytest.raises(
        MissingFiles, match="hf download laion/x --revision main, or set TCBENCH_WEIGHTS_CLIP"
    ):
        rewards.load("clip:laion/x")
    with pytest.raises(rewards.UnknownName):
        rewards.info("pickscore:laion/x")


def test_only_one_layout_of_a_repository_is_downloaded(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from rewards.weights.locate import locate_weights

    there = [
        "open_clip_pytorch_model.bin",
        "open_clip_config.json",
        "tokenizer.json",
        "tokenizer_config.json",
    ]
    there += ["config.json", "model.safetensors", "preprocessor_config.json", "vocab.json", "merges.txt"]
    for name in there:
        (tmp_path / name).touch()
    fetched = []

    def snapshot(repository: str, allow_patterns: list[str], **where: object) -> str:
        fetched.extend(allow_patterns)
        return str(tmp_path)

    monkeypatch.setattr("rewards.weights.hub.offline_reason", lambda url: "")
    monkeypatch.setattr("huggingface_hub.list_repo_files", lambda repository, revision: there)
    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot)
    assert locate_weights(rewards.info("clip:laion/x")) == {"backbone": tmp_path}
    assert fetched == ["open_clip_config.json", "open_clip_pytorch_model.bin", *there[2:4]]


@pytest.mark.parametrize("name", ["clip", "clip-hessel", "aesthetic-v1", "aesthetic-v2", "clip-iqa"])
def test_openai_weights_require_quick_gelu(
    tiny_files: Files, tmp_path: Path, name: str, changed_on_purpose: Callable[[], None]
) -> None:
    files = dict(tiny_files(name))
    for file in files["backbone"].iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    record, weights = tiny_record(rewards.info(name)), files | {"backbone": tmp_path}
    rewards.load(record, weights=weights)
    changed_on_purpose()
    config = json.loads((tmp_path / "open_clip_config.json").read_text(encoding="utf-8"))
    del config["model_cfg"]["quick_gelu"]
    write_json(tmp_path / "open_clip_config.json", config)
    with pytest.raises(MismatchError, match='configuration lacks "quick_gelu": true'):
        rewards.load(record, weights=weights)


def test_openai_weights_by_hub_id_or_folder_name_require_quick_gelu(
    twins: tuple[Path, Path], tmp_path: Path, changed_on_purpose: Callable[[], None]
) -> None:
    assert rewards.info("clip:timm/vit_base_patch16_clip_224.openai@abc").weights[0].quick_gelu
    assert not rewards.info("clip:timm/vit_base_patch16_clip_224.datacompxl").weights[0].quick_gelu
    folder = tmp_path / "vit.openai"
    folder.mkdir()
    for file in twins[1].iterdir():
        (folder / file.name).symlink_to(file)
    rewards.load(f"clip:{folder}")
    changed_on_purpose()
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    config["vision_config"]["hidden_act"] = "gelu"
    (folder / "config.json").unlink()
    write_json(folder / "config.json", config)
    with pytest.raises(MismatchError, match='configuration lacks "quick_gelu": true'):
        rewards.load(f"clip:{folder}")
