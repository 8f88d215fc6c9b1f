"""The embedded world's own prompts (drawn by rewards.world.prompts), shipped beside this file.

`world` is the held-out split: every prompt names a combination of shape, colour and background that no
training caption says. The others hold none of those: settings and checkpoints are chosen on
`world-validation`, encoders are tuned and rewards calibrated on `world-train`.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from benchmarks.suites.base import PromptSource, Suite
from textcraftor.diffusion.prompts import Prompt, read_prompts

SHIPPED = PromptSource(("world.jsonl",), shipped=Path(__file__).parent / "world.jsonl")


def read_split(split: str) -> Callable[[Sequence[Path]], list[Prompt]]:
    """Reader of the prompts of one split, with ids counted inside it."""

    def read(files: Sequence[Path]) -> list[Prompt]:
        chosen = [prompt for prompt in read_prompts(files[0]) if prompt.tags.get("split") == split]
        return [replace(prompt, id=position) for position, prompt in enumerate(chosen)]

    return read


SUITE = Suite(
    name="world",
    title="The embedded world, held-out combinations: 5 kinds of prompt",
    count=1000,
    sha256="ae8807791ef53af11046bef7559f776abafac5a0355aaa2c5fff8bc20e12be7a",
    sources=(SHIPPED,),
    read=read_split("test"),
    domain="world",
    homepage="shipped with tcbench",
    licence="Apache-2.0",
)

VALIDATION = replace(
    SUITE,
    name="world-validation",
    title="The embedded world, for choosing settings and checkpoints",
    count=200,
    sha256="733d75e52f396c1ac1ef4afbe27f092d020634a2ea1e699011250c41126d2de6",
    read=read_split("validation"),
)

TRAIN = replace(
    SUITE,
    name="world-train",
    title="The embedded world, for tuning encoders and calibrating rewards",
    count=2000,
    sha256="b03c07ec6808638fb1999b1ab2c6ce80468e8b90895cb07ce24a22ea45d21316",
    read=read_split("train"),
)
