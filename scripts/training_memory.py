"""Seconds and peak memory a sample of every estimator on Stable Diffusion 1.5's architecture.

    python scripts/training_memory.py --device cuda [--size 512] [--batches 1 4 16] [--out docs/memory.md]
    python scripts/training_memory.py --device cpu --precision float32 --size 64 --batches 1 --steps 3
        --tuned-steps 2 --rewards aesthetic-v2      # one command: that it works, in 12 GB

Weights are random, in the published sizes: UNet, decoder and text encoder, and a panel of aesthetic-v2, clip,
pickscore and hpsv2 (7 GB of scratch files). An update is timed after one that is not. The reference is the
same chain as the official code runs it: float32 with TF32, gradients switched on everywhere, each step's
graph made again. Peak memory is the device's; on the CPU, where it cannot be set back, it is left out.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "scripts")]

ESTIMATORS = ("chain", "conditioning", "truncation", "one-step", "low-variance")
REWARDS = ("aesthetic-v2", "clip", "pickscore", "hpsv2")

LEAN = {"micro_batch": 1, "decode_slice": 1, "estimator": "conditioning", "offload": True}
"""What makes a card of 24 GB do."""

HEAD = ("| estimator | batch | seconds a sample | peak GiB |", "|---|---|---|---|")


def pipeline(device: str, dtype: Any, scratch: Path) -> Any:
    """Stable Diffusion 1.5 with random weights."""
    from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

    from rewards.verification.tiny.vocabularies import write_tiny_tokenizer
    from textcraftor.micro.training.unet import scheduler

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
    made = StableDiffusionPipeline(
        vae=vae,
        text_encoder=CLIPTextModel(text),
        tokenizer=CLIPTokenizer.from_pretrained(
            write_tiny_tokenizer("clip", scratch / "tokenizer", 77), model_max_length=77
        ),
        unet=unet,
        scheduler=DDIMScheduler.from_config(
            scheduler().config, prediction_type="epsilon", timestep_spacing="leading"
        ),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    for part in (made.vae, made.unet, made.text_encoder):
        part.eval()
    return made.to(device, dtype)


class Bench:
    """One pipeline and one panel, tuned in many ways."""

    def __init__(self, options: argparse.Namespace, scratch: Path) -> None:
        from reward_speed import plain_records, prepare

        self.options, self.scratch = options, scratch
        subjects = prepare(scratch)
        self.files = {name: subjects[name].files for name in options.rewards}
        self.records = plain_records(options.rewards)

    def update(
        self, batch: int, *, reference: bool = False, **settings: Any
    ) -> tuple[float, float | None] | None:
        """Seconds a sample and peak GiB of one update, or None if it does not fit."""
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
            step = None
            if cuda:
                torch.cuda.empty_cache()

    def _step(self, batch: int, reference: bool, settings: dict[str, Any]) -> Any:
        """A whole update as a function without arguments."""
        import torch

        from rewards.combine.mix import RewardMix
        from rewards.combine.panel import Panel
        from rewards.combine.terms import MixTerm
        from textcraftor.algorithms.objective import Objective
        from textcraftor.config import TrainConfig
        from textcraftor.diffusion.sampling import Denoiser
        from textcraftor.sources import Sample
        from textcraftor.tuned import Tuned

        options = self.options
        precision = "float32" if reference else options.precision
        config = TrainConfig(
            "sd15",
            steps=options.steps,
            tuned_steps=options.tuned_steps,
            drawn_tuned_steps=options.tuned_steps,
            batch=batch,
            precision=precision,
            checkpointing=reference or options.checkpointing,
            **settings,
        )
        pipe = pipeline(options.device, getattr(torch, precision), self.scratch)
        panel = Panel(self.records, weights=self.files, device=options.device, offload=config.offload)
        tuned = Tuned(pipe, config, guided=True)
        if reference:
            for module in (pipe.unet, pipe.vae, panel):
                module.requires_grad_(True)
        mix = RewardMix(panel, {name: MixTerm(1.0) for name in panel.names})
        latent = options.size // 8
        objective = Objective(tuned, config, mix, Denoiser(pipe.unet, 7.5), (4, latent, latent))
        optimiser = torch.optim.AdamW(list(tuned.trained().values()), lr=1e-6, fused=True)
        size = config.micro_batch or batch

        def step() -> None:
            optimiser.zero_grad(set_to_none=True)
            for start in range(0, batch, size):
                samples = [Sample(n, n, f"a horse number {n}", n) for n in range(start, start + size)]
                loss, _ = objective(samples, 0)
                (loss * size / batch).backward()
            optimiser.step()

        return step


def rows(options: argparse.Namespace, scratch: Path) -> Iterator[str]:
    """The table's lines, as they are measured."""
    bench = Bench(options, scratch)
    for batch in options.batches:
        yield _row("reference: chain, float32, nothing frozen", batch, bench.update(batch, reference=True))
        for estimator in ESTIMATORS:
            yield _row(estimator, batch, bench.update(batch, estimator=estimator))
    lean = ", ".join(f"{name}={value}" for name, value in LEAN.items())
    yield _row(f"for 24 GB: {lean}", options.batches[-1], bench.update(options.batches[-1], **LEAN))


def _row(name: str, batch: int, found: tuple[float, float | None] | None) -> str:
    if found is None:
        return f"| {name} | {batch} | out of memory | |"
    seconds, peak = found
    return f"| {name} | {batch} | {seconds:.2f} | {'–' if peak is None else f'{peak:.1f}'} |"


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--size", type=int, default=512, help="pixels a side")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 4, 16])
    parser.add_argument("--steps", type=int, default=25)
    parser.add_argument("--tuned-steps", type=int, default=5)
    parser.add_argument("--precision", default="bfloat16")
    parser.add_argument("--rewards", nargs="+", default=list(REWARDS), choices=REWARDS)
    parser.add_argument("--checkpointing", action="store_true")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    import torch

    where = options.device if options.device == "cpu" else torch.cuda.get_device_name()
    note = (
        f"Stable Diffusion 1.5's architecture, {options.size} px, {options.steps} steps, the last "
        f"{options.tuned_steps} tuned, guidance 7.5, {', '.join(options.rewards)}; {options.precision}, "
        f"torch {torch.__version__}, {where}."
    )
    found: list[str] = []
    with TemporaryDirectory() as scratch:
        for line in rows(options, Path(scratch)):
            print(line, flush=True)
            found.append(line)
            if options.out:
                lines = ["# Seconds and memory of a training sample", "", note, "", *HEAD, *found, ""]
                options.out.write_text("\n".join(lines), encoding="utf-8")
    print(note)


if __name__ == "__main__":
    main()
