"""The embedded world's own prompts (drawn by rewards.world.prompts), shipped beside this file.

`world` is the held-out split: every prompt names a combination of shape, colour and background that no
training caption says. `world-validation` holds none of those; settings and checkpoints are chosen on it.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from benchmarks.suites.base import PromptSource, Suite
from textcraftor.prompts import Prompt, read_prompts

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
    count=500,
    sha256="4540e8371aff9bb9ac650d0f66146244900884997ecf902f9a16ee3e310ec5c1",
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
