"""GenEval (Ghosh et al. 2023, "GenEval: An Object-Focused Framework"): 553 prompts in six tasks, by `tag`."""

from benchmarks.suites.base import Suite, SuiteFile
from textcraftor.diffusion.prompts import read_prompts

SUITE = Suite(
    name="geneval",
    title="GenEval: 6 compositional tasks",
    count=553,
    sha256="4de60dfc3c29f9d3db69ec45cf03a964627c2d82f2c224c3f75645e137f7126b",
    files=(SuiteFile(("geneval_metadata.jsonl", "evaluation_metadata.jsonl")),),
    read=lambda files: read_prompts(files[0]),
    domain="open",
    homepage="github.com/djghosh13/geneval",
    licence="MIT",
)
