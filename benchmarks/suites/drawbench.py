"""DrawBench (Saharia et al. 2022, "Photorealistic Text-to-Image Diffusion Models"): 200 prompts."""

from benchmarks.suites.base import Suite, SuiteFile
from textcraftor.diffusion.prompts import read_prompts

SUITE = Suite(
    name="drawbench",
    title="DrawBench: 200 prompts",
    count=200,
    sha256="4056f6f1125417b3964a1623200158d7de26ee5869d2be8661737297ddca0dd1",
    files=(SuiteFile(("drawbench.json",)),),
    read=lambda files: read_prompts(files[0]),
    domain="open",
    homepage="github.com/nousr/dream-bench",
    licence="MIT",
)
