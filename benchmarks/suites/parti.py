"""PartiPrompts (Yu et al. 2022, "Scaling Autoregressive Models for Content-Rich Text-to-Image Generation").

1,632 prompts with a category and a challenge. Some prompts contain quotation marks, so the table is read
without quoting.
"""

from benchmarks.suites.base import Suite, SuiteFile
from textcraftor.diffusion.prompts import read_prompts

SUITE = Suite(
    name="parti",
    title="PartiPrompts: 12 categories, 11 challenges",
    count=1632,
    sha256="39405a3fa6c8c5fa87209334e317d4ad7386756809cfe2704faf8668705ec297",
    files=(SuiteFile(("PartiPrompts.tsv",), hub=("nateraw/parti-prompts", "PartiPrompts.tsv")),),
    read=lambda files: read_prompts(files[0]),
    domain="open",
    homepage="github.com/google-research/parti",
    licence="Apache-2.0",
    groups=("challenge",),
)
