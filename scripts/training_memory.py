"""Seconds and peak memory per sample of every estimator, on the architecture of Stable Diffusion 1.5.

    python scripts/training_memory.py --device cuda [--size 512] [--batches 1 4 16] [--out docs/memory.md]
    python scripts/training_memory.py --device cpu --precision float32 --size 64 --batches 1 --steps 3
        --tuned-steps 2 --rewards aesthetic-v2      # smoke test in 12 GB

Weights are random, in the published sizes: UNet, decoder and text encoder, and a panel of aesthetic-v2, clip,
pickscore and hpsv2 (7 GB of temporary files). The second update is timed. The reference is the same chain as
the official code runs it: float32 with TF32, nothing frozen, each step's graph computed again. Peak memory is
that of the device; on the CPU it cannot be reset and is left out.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

_SCRIPTS = Path(__file__).resolve().parent
sys.path[:0] = [str(_SCRIPTS.parent), str(_SCRIPTS)]

from measuring import benchmark_parser, table_row  # noqa: E402 - of this folder
from random_weights import records_without_hashes, write_random_weights  # noqa: E402

_ESTIMATORS = ("chain", "conditioning", "truncation", "one-step", "low-variance")
_REWARDS = ("aesthetic-v2", "clip", "pickscore", "hpsv2")

_LEAN: dict[str, Any] = {
    "memory.micro_batch": 1,
    "memory.decode_slice": 1,
    "memory.offload": True,
    "algorithm.name": "conditioning",
}
"""Settings that fit a device with 24 GB."""

_HEAD = ("| estimator | batch | seconds per sample | peak GiB |", "|---|---|---|---|")


def _random_pipeline(device: str, dtype: Any, scratch: Path) -> Any:
    """Return Stable Diffusion 1.5 with random weights."""
    from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

    from rewards.verification.tiny.vocabularies import write_tiny_tokenizer
    from textcraftor.micro.training.unet import noise_scheduler

    text = CLIPTextConfig(
        vocab_size=49408,
        hidden_size=768,
        intermediate_size=3072,
        num_hidden_layers=12,
        num_attention_heads=12,
        max_position_embeddings=77,
        hidden_act="quick_gelu",
        eos_token_id=513,
    )
    unet = UNet2DConditionModel(sample_size=64, cross_attention_dim=768, attention_head_dim=8)
    vae = AutoencoderKL(
        block_out_channels=(128, 256, 512, 512),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=2,
        sample_size=512,
    )
    pipe = StableDiffusionPipeline(
        vae=vae,
        text_encoder=CLIPTextModel(text),
        tokenizer=CLIPTokenizer.from_pretrained(
            write_tiny_tokenizer("clip", scratch / "tokenizer", 77), model_max_length=77
        ),
        unet=unet,
        scheduler=DDIMScheduler.from_config(
            noise_scheduler().config, prediction_type="epsilon", timestep_spacing="leading"
        ),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    for part in (pipe.vae, pipe.unet, pipe.text_encoder):
        part.eval()
    return pipe.to(device, dtype)


class _Benchmark:
    """Times one update in different settings."""

    def __init__(self, options: argparse.Namespace, scratch: Path) -> None:
        self.options, self.scratch = options, scratch
        weights = write_random_weights(scratch, options.rewards)
        self.files = {name: weight.files for name, weight in weights.items()}
        self.records = records_without_hashes(options.rewards)

    def update(
        self, batch: int, *, reference: bool = False, **settings: Any
    ) -> tuple[float, float | None] | None:
        """Return seconds per sample and peak GiB of one update, or None if memory does not suffice."""
        import torch

        cuda = self.options.device.startswith("cuda")
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
        try:
            step = self._step(batch, reference, settings)
            seconds = []
            for _ in range(2):
                if cuda:
                    torch.cuda.synchronize()
                    torch.cuda.reset_peak_memory_stats()
                started = time.perf_counter()
                step()
                if cuda:
                    torch.cuda.synchronize()
                seconds.append(time.perf_counter() - started)
            peak = torch.cuda.max_memory_allocated() / 2**30 if cuda else None
            return seconds[-1] / batch, peak
        except torch.OutOfMemoryError:
            return None
        finally:
            step = None  # frees the graph before the next settings
            if cuda:
                torch.cuda.empty_cache()

    def _step(self, batch: int, reference: bool, settings: dict[str, Any]) -> Any:
        """Return a function that does one update."""
        import torch
        from accelerate import Accelerator

        from rewards.combine.mix import RewardMix
        from rewards.combine.panel import Panel
        from rewards.combine.terms import MixTerm
        from textcraftor.algorithms.base import ClippedOptimiser
        from textcraftor.algorithms.gradient import GradientAlgorithm
        from textcraftor.algorithms.latent_scores import LatentScorer
        from textcraftor.algorithms.rollouts import RolloutStart
        from textcraftor.config import make_config
        from textcraftor.diffusion.sampling import Denoiser
        from textcraftor.sources import Batch, Sample
        from textcraftor.tuned import TunedPipeline

        options = self.options
        precision = "float32" if reference else options.precision
        config = make_config(
            "sd15",
            overrides={
                "schedule.steps": options.steps,
                "schedule.tuned_steps": options.tuned_steps,
                "validation.eval_tuned_steps": options.tuned_steps,
                "optimiser.batch": batch,
                "optimiser.clip": 0.0,
                "memory.precision": precision,
                "memory.checkpointing": reference or options.checkpointing,
                **settings,
            },
        )
        pipe = _random_pipeline(options.device, getattr(torch, precision), self.scratch)
        panel = Panel(self.records, weights=self.files, device=options.device, offload=config.memory.offload)
        trainable = TunedPipeline(pipe, config.trainable, guided=True)
        if reference:
            for module in (pipe.unet, pipe.vae, panel):
                module.requires_grad_(True)
        mix = RewardMix(panel, {name: MixTerm(1.0) for name in panel.names})
        latent, denoiser = options.size // 8, Denoiser(pipe.unet, 7.5)
        parameters = trainable.trained_parameters().values()
        algorithm = GradientAlgorithm(
            trainable,
            RolloutStart(denoiser, pipe, (4, latent, latent), config.schedule, config.memory.checkpointing),
            LatentScorer(pipe.vae, mix, config.memory.decode_slice),
            ClippedOptimiser.adamw(Accelerator(), parameters, config.optimiser),
            config.algorithm,
            seed=0,
            micro_batch=config.memory.micro_batch,
            precision=precision,
        )
        samples = [Sample(n, n, f"a horse number {n}", n) for n in range(batch)]
        return lambda: algorithm.step(Batch(0, samples))


def _rows(options: argparse.Namespace, scratch: Path) -> Iterator[str]:
    """Yield the rows of the table as they are measured."""
    bench = _Benchmark(options, scratch)
    for batch in options.batches:
        yield _row("reference: chain, float32, nothing frozen", batch, bench.update(batch, reference=True))
        for estimator in _ESTIMATORS:
            yield _row(estimator, batch, bench.update(batch, **{"algorithm.name": estimator}))
    lean = ", ".join(f"{name}={value}" for name, value in _LEAN.items())
    yield _row(f"for 24 GB: {lean}", options.batches[-1], bench.update(options.batches[-1], **_LEAN))


def _row(name: str, batch: int, result: tuple[float, float | None] | None) -> str:
    if result is None:
        return table_row(name, str(batch), "out of memory", "")
    seconds, peak = result
    return table_row(name, str(batch), f"{seconds:.2f}", "–" if peak is None else f"{peak:.1f}")


def main() -> None:
    """Measure and print the table."""
    parser = benchmark_parser(__doc__)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--size", type=int, default=512, help="pixels a side")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 4, 16])
    parser.add_argument("--steps", type=int, default=25)
    parser.add_argument("--tuned-steps", type=int, default=5)
    parser.add_argument("--precision", default="bfloat16")
    parser.add_argument("--rewards", nargs="+", default=list(_REWARDS), choices=_REWARDS)
    parser.add_argument("--checkpointing", action="store_true")
    options = parser.parse_args()
    import torch

    from rewards.weights.lock import LOCK_VARIABLE

    where = options.device if options.device == "cpu" else torch.cuda.get_device_name()
    note = (
        f"Stable Diffusion 1.5's architecture, {options.size} px, {options.steps} steps, the last "
        f"{options.tuned_steps} tuned, guidance 7.5, {', '.join(options.rewards)}; {options.precision}, "
        f"torch {torch.__version__}, {where}."
    )
    lines: list[str] = []
    with TemporaryDirectory() as scratch:
        os.environ[LOCK_VARIABLE] = str(Path(scratch, "weights.lock.json"))  # not the user's
        for line in _rows(options, Path(scratch)):
            print(line, flush=True)
            lines.append(line)
            if options.out:
                page = ["# Time and memory per training sample", "", note, "", *_HEAD, *lines, ""]
                options.out.write_text("\n".join(page), encoding="utf-8")
    print(note)


if __name__ == "__main__":
    main()
