"""Copy tuned systems of the comparison into the package, in half precision, and measure what that changes.

    python scripts/ship_systems.py --work build/world-table

The first training seeds of TextCraftor, DDPO and the prompt rewriter become the weights of named systems. For
the text encoders the script prints by how much pixels differ between the trained and the shipped weights.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, CLIPTextModel

from benchmarks.systems import System
from rewards.world.prompts import world_prompts
from textcraftor.diffusion.loading import load_pipeline
from textcraftor.diffusion.pipeline import MICRO
from textcraftor.diffusion.prompts import initial_latents
from textcraftor.diffusion.runner import PipelineRunner
from textcraftor.io.export import save_text_encoder
from textcraftor.rewriters import Rewriter

_PROMPTS = 20


def main() -> None:
    """Copy the systems of the first training seeds."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--work", type=Path, required=True, help="working folder of the comparison")
    systems = parser.parse_args().work / "systems"
    for method, name in (("textcraftor", "micro-textcraftor"), ("rl", "micro-ddpo")):
        _ship_encoder(System.find(str(systems / f"{method}-0")), System.find(name))
    _ship_rewriter(System.find(str(systems / "rewriter-0")), System.find("micro-promptist"))


def _ship_encoder(system: System, shipped: System) -> None:
    texts = [prompt.text for prompt in world_prompts("validation")[:_PROMPTS]]
    trained, folder = (next(iter(one.encoders.values())) / "text_encoder" for one in (system, shipped))
    model = CLIPTextModel.from_pretrained(trained, torch_dtype=torch.float32)
    save_text_encoder(model, folder, half=True)
    before, after = (_images(system, encoder, texts) for encoder in (trained, folder))
    change = (before - after).abs()
    size = (folder / "model.safetensors").stat().st_size / 1e6
    print(
        f"{shipped.name}: {size:.2f} MB, pixels in [0, 1] differ by {change.max():.4f} at most, "
        f"{change.mean():.6f} on average"
    )


def _images(system: System, encoder: Path, texts: list[str]) -> torch.Tensor:
    """Return images (B, H, W, 3) of some prompts with a text encoder in all steps."""
    pipe = load_pipeline(MICRO, device="cpu", dtype="float32", sampler=system.schedule.sampler)
    pipe.text_encoder = CLIPTextModel.from_pretrained(encoder, torch_dtype=torch.float32)
    runner = PipelineRunner(pipe, system.schedule)
    noise = initial_latents(list(range(len(texts))), runner.latent_shape)
    return torch.from_numpy(runner.generate(texts, noise))


def _ship_rewriter(system: System, shipped: System) -> None:
    trained, named = Rewriter.find(system.rewriter), Rewriter.find(shipped.rewriter)
    source, folder = Path(trained.model), Path(named.model)
    AutoModelForCausalLM.from_pretrained(source, torch_dtype=torch.float16).save_pretrained(folder)
    AutoTokenizer.from_pretrained(source).save_pretrained(folder)
    replace(trained, source=named.source).write(folder)
    print(f"{shipped.name}: {(folder / 'model.safetensors').stat().st_size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
