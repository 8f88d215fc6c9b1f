"""Tune the text encoder of the embedded pipeline with TextCraftor, then generate with the result.

    python examples/tune_encoder.py --out ckpt/example             # a few minutes on two cores
    python examples/tune_encoder.py --model sd15 --profile paper --prompts prompts.txt --out ckpt/sd15

Re-run the command after an interruption to resume.
"""

import argparse
from pathlib import Path

import textcraftor

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--model", default="micro", help="named model, diffusers folder or hub id")
parser.add_argument("--rewards", default=None, help="reward mix, such as pickscore=1,hpsv2=100")
parser.add_argument("--prompts", default=None, help="prompt file, suite:NAME or hub:ID")
parser.add_argument("--profile", default="default", help="default, paper, quick ...")
parser.add_argument("--updates", type=int, default=20)
parser.add_argument("--device", default="auto")
parser.add_argument("--out", type=Path, required=True, help="folder of the training run")
options = parser.parse_args()

config = textcraftor.make_config(
    options.model,
    profile=options.profile,
    overrides={
        "rewards.mix": options.rewards,
        "data.prompts": options.prompts,
        "optimiser.updates": options.updates,
    },
)
print(f"training {config.model} on {config.rewards.mix}")
result = textcraftor.train(config, options.out, device=options.device)
print(f"trained {result.path}; next: tcbench run --model {result.path}")
