"""The HPSv2 benchmark (Wu et al. 2023, "Human Preference Score v2"): four styles of 800 prompts, in benchmark
order.

A few prompts are repeated within a style; ids are positions for that reason.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from benchmarks.suites.base import Suite, SuiteFile
from textcraftor.diffusion.prompts import Prompt, read_prompts

_STYLES = ("anime", "concept-art", "paintings", "photo")


def _read_styles(files: Sequence[Path]) -> list[Prompt]:
    """Read the files one after another, with the style as category and consecutive ids."""
    pairs = [(style, p) for style, file in zip(_STYLES, files, strict=True) for p in read_prompts(file)]
    return [replace(prompt, id=position, category=style) for position, (style, prompt) in enumerate(pairs)]


SUITE = Suite(
    name="hpsv2",
    title="HPSv2 benchmark: 4 styles of 800",
    count=3200,
    sha256="ef9363c4e14fa1e73e3ec1b5a91d9067c6da28c3b10e6e3638fefdefe450eda5",
    files=tuple(
        SuiteFile(
            (f"hpsv2_{style}.json", f"{style}.json", f"benchmark/{style}.json"),
            hub=("zhwang/HPDv2", f"benchmark/{style}.json"),
        )
        for style in _STYLES
    ),
    read=_read_styles,
    domain="open",
    homepage="github.com/tgxs002/HPSv2",
    licence="Apache-2.0",
)
