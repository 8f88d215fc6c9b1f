"""Guide generation with reward gradients: nudge the latents in the last sampling steps.

    python examples/guide_generation_with_a_panel.py --out guided

Images are generated twice from the same noise, without and with guidance. A judge that takes no part in the
guidance shows whether the images improve or only the rewards do.
"""

import argparse
from pathlib import Path

import torch
from diffusers import StableDiffusionPipeline

import rewards
import textcraftor

MICRO = Path(textcraftor.__file__).parent / "micro" / "pipeline"
PROMPTS = ["a large red circle", "a small blue star on a sand background"]

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--mix", default="world-pick=1,world-clip=0.1", help="reward mix that guides")
parser.add_argument("--judge", default="world-blip", help="reward that only judges")
parser.add_argument("--steps", type=int, default=25)
parser.add_argument("--strength", type=float, default=0.05, help="size of a nudge relative to the latents")
parser.add_argument("--out", type=Path, default=Path("guided"))
options = parser.parse_args()

pipe = StableDiffusionPipeline.from_pretrained(MICRO)
mix, judge = rewards.load_mix(options.mix), rewards.load(options.judge)


def _nudge(pipe, step, timestep, values):
    if step < options.steps * 4 // 5:
        return values  # early latents are mostly noise, so a reward of their images says little
    with torch.enable_grad():
        latents = values["latents"].detach().requires_grad_()
        images = pipe.vae.decode(latents / pipe.vae.config.scaling_factor).sample / 2 + 0.5
        total = mix.score(images.clamp(0, 1), PROMPTS).total
        (gradient,) = torch.autograd.grad(total.sum(), latents)
    size = options.strength * latents.norm() / gradient.norm()
    return {"latents": latents.detach() + size * gradient}


options.out.mkdir(parents=True, exist_ok=True)
for name, callback in (("plain", None), ("guided", _nudge)):
    images = pipe(
        PROMPTS,
        num_inference_steps=options.steps,
        generator=torch.Generator().manual_seed(0),
        callback_on_step_end=callback,
    ).images
    for i, image in enumerate(images):
        image.save(options.out / f"{name}-{i}.png")
    total, judged = mix.score(images, PROMPTS).total.mean(), judge.score(images, PROMPTS).mean()
    print(f"{name}: mix {total:.3f}, {options.judge} {judged:.3f}")
