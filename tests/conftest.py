"""Fixtures of all tests: the folder of real data, a tiny pipeline, and no access to the network."""

from __future__ import annotations

import hashlib
import json
import os
import socket
from collections.abc import Callable, Mapping, Sequence
from itertools import count, product
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from leaderboards.records import Header, Planned, Sample, Score, ScoreSet, folder_name, short_id
from leaderboards.run_state import RunState

os.environ.pop("COLUMNS", None)  # pytest-xdist sets it for its workers, and tables would be wrapped

ROOT = Path(__file__).resolve().parent.parent

_locks = count()

Rows = Sequence[Sequence[float | None]]
"""One row per prompt, one column per seed; None for an image that could not be scored."""


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Real prompts, photographs and reference values: $TCBENCH_SHARED, or shared/data beside the checkout."""
    folder = Path(os.environ.get("TCBENCH_SHARED", ROOT.parent / "shared" / "data"))
    if not folder.is_dir():
        give_up = pytest.fail if "CI" in os.environ else pytest.skip
        give_up(f"no test data at {folder}: set TCBENCH_SHARED to the folder that holds it")
    return folder


@pytest.fixture(scope="session")
def tiny_pipeline(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A diffusers folder of Stable Diffusion's parts with random weights: 16 x 16 pixels, 16 text tokens."""
    import torch
    from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

    torch.manual_seed(0)
    letters = [chr(code) for code in range(33, 127)]
    tokens = [*letters, *(letter + "</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    last = len(tokens) - 1
    text = CLIPTextConfig(
        vocab_size=len(tokens),
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=16,
        bos_token_id=last - 1,
        eos_token_id=last,
        pad_token_id=last,
    )
    unet = UNet2DConditionModel(
        sample_size=8,
        layers_per_block=1,
        block_out_channels=(8, 16),
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=16,
        attention_head_dim=4,
        norm_num_groups=4,
    )
    vae = AutoencoderKL(
        block_out_channels=(8, 8),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        norm_num_groups=4,
        sample_size=16,
    )
    scheduler = DDIMScheduler(
        beta_schedule="scaled_linear",
        beta_start=0.00085,
        beta_end=0.012,
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
        prediction_type="v_prediction",
    )
    pipeline = StableDiffusionPipeline(
        vae=vae,
        text_encoder=CLIPTextModel(text),
        tokenizer=CLIPTokenizer(vocab={t: i for i, t in enumerate(tokens)}, merges=[], model_max_length=16),
        unet=unet,
        scheduler=scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    folder = tmp_path_factory.mktemp("pipelines") / "tiny"
    pipeline.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_sdxl(tiny_pipeline: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny SDXL pipeline with random weights: two text encoders, pooled embeddings, size conditioning."""
    import torch
    from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionXLPipeline, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

    torch.manual_seed(1)
    settings = json.loads((tiny_pipeline / "text_encoder" / "config.json").read_text(encoding="utf-8"))
    names = ("vocab_size", "num_attention_heads", "max_position_embeddings", "bos_token_id", "eos_token_id")
    common = {name: settings[name] for name in names} | {"intermediate_size": 16, "num_hidden_layers": 3}
    first = CLIPTextConfig(hidden_size=16, projection_dim=8, **common)
    second = CLIPTextConfig(hidden_size=24, projection_dim=8, **common | {"num_attention_heads": 4})
    unet = UNet2DConditionModel(
        sample_size=8,
        layers_per_block=1,
        block_out_channels=(8, 16),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=16 + 24,
        attention_head_dim=4,
        norm_num_groups=4,
        addition_embed_type="text_time",
        addition_time_embed_dim=4,
        projection_class_embeddings_input_dim=8 + 6 * 4,
        transformer_layers_per_block=1,
        use_linear_projection=True,
    )
    pipeline = StableDiffusionXLPipeline(
        vae=AutoencoderKL.from_pretrained(tiny_pipeline / "vae"),
        text_encoder=CLIPTextModel(first),
        text_encoder_2=CLIPTextModelWithProjection(second),
        tokenizer=CLIPTokenizer.from_pretrained(tiny_pipeline / "tokenizer"),
        tokenizer_2=CLIPTokenizer.from_pretrained(tiny_pipeline / "tokenizer"),
        unet=unet,
        scheduler=DDIMScheduler(beta_schedule="scaled_linear", clip_sample=False, steps_offset=1),
        add_watermarker=False,
    )
    folder = tmp_path_factory.mktemp("pipelines") / "tiny-sdxl"
    pipeline.save_pretrained(folder)
    return folder


@pytest.fixture(autouse=True)
def _own_lock(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    """No test records weights in the user's lock file, nor in another test's."""
    name = f"weights-{next(_locks)}.lock.json"
    monkeypatch.setenv("TCBENCH_WEIGHTS_LOCK", str(tmp_path_factory.getbasetemp() / name))


@pytest.fixture
def fill_hub_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[[Mapping[str, bytes], str], Path]:
    """Writes files of someone/something in the layout of the hub's cache, in this test's folder, and returns
    their snapshot: blobs by hash, a snapshot of links to them, a branch's head. The client reads this cache,
    offline.
    """
    repository = tmp_path / "hub/models--someone--something"
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(repository.parent))

    def fill(files: Mapping[str, bytes], revision: str) -> Path:
        snapshot = repository / "snapshots" / ("0" * 40 if revision == "main" else revision)
        for folder in (repository / "blobs", repository / "refs", snapshot):
            folder.mkdir(parents=True, exist_ok=True)
        (repository / "refs/main").write_text("0" * 40, encoding="utf-8")
        for name, content in files.items():
            blob = repository / "blobs" / hashlib.sha256(content).hexdigest()
            blob.write_bytes(content)
            (snapshot / name).unlink(missing_ok=True)
            (snapshot / name).symlink_to(os.path.relpath(blob, snapshot))
        return snapshot

    return fill


@pytest.fixture(autouse=True)
def _offline(monkeypatch: pytest.MonkeyPatch) -> None:
    """No test uses the network."""
    connect = socket.socket.connect

    def connect_locally(self: socket.socket, address: Any) -> None:
        if self.family != socket.AF_UNIX and address[0] not in ("127.0.0.1", "::1", "localhost"):
            raise AssertionError(f"a test tried to reach {address[0]}")
        connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", connect_locally)


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("gpu"):
        import torch

        if not torch.cuda.is_available():
            pytest.skip("needs a CUDA device")


@pytest.fixture
def make_run(tmp_path: Path) -> Callable[..., RunState]:
    """Writes a finished run below the test's folder `runs`; `write_run` has the options."""
    return lambda system, *scores, **options: write_run(tmp_path / "runs", system, scores, **options)


def write_run(
    folder: Path,
    system: str,
    scores: Sequence[tuple[ScoreSet, Rows]],
    *,
    suite: str = "toy",
    categories: Sequence[str] = ("animals",),
    groups: Sequence[Sequence[str]] = ((),),
    prompts: Sequence[str] = ("a cat",),
    settings: Mapping[str, Any] | None = None,
    details: Mapping[str, Any] | None = None,
    watermarks: tuple[str, ...] = (),
    images: bool = False,
) -> RunState:
    """A run of as many prompts and seeds as `scores` have; the lists of prompts and so on are repeated."""
    count, seeds = len(scores[0][1]), len(scores[0][1][0])
    generation = {"system": system, "suite": suite, **(settings or {})}
    header = Header(
        suite=suite,
        suite_sha256=short_id({"suite": suite}),
        system=system,
        generation_id=short_id(generation),
        generation=generation,
        planned=Planned(tuple(range(count)), of=count, seeds=seeds),
        watermarks=watermarks,
        details={"trained_on": []} if details is None else details,
        provenance=({"versions": {"torch": "2.13.0"}, "device": "cpu", "commit": "0123456789" * 4},),
    )
    run = RunState.create(folder / folder_name(suite, system, header.generation_id), header)
    samples = [
        Sample(p, s, text := prompts[p % len(prompts)], text, categories[p % len(categories)], noise_seed=7,
               image=f"images/{p:05}-{s}.png", groups=groups[p % len(groups)])
        for p, s in product(range(count), range(seeds))
    ]  # fmt: skip
    run.append_samples(samples)
    if images:
        for sample in samples:
            colour = (40 * sample.prompt_id % 256, 90 * sample.sample % 256, 120)
            Image.new("RGB", (16, 16), colour).save(run.image_path(sample))
    for score_set, rows in scores:
        run.append_scores(
            score_set,
            (_score(p, s, value) for p, row in enumerate(rows) for s, value in enumerate(row)),
        )
    return RunState(run.path)  # nothing loaded yet: tests may change the files


def _score(prompt_id: int, sample: int, value: float | None) -> Score:
    if value is None:
        return Score(prompt_id, sample, "failed", reason="flaky")
    return Score(prompt_id, sample, "ok", value)
