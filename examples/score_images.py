"""Score image files against one prompt with several rewards.

    python examples/score_images.py "a large red circle" a.png b.png
    python examples/score_images.py "a cat" cat.png --rewards pickscore,hpsv2,clip --device cuda

The default rewards ship with the package. Others are downloaded when they are first used.
"""

import argparse

from PIL import Image

from rewards import Panel

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("prompt", help="text that the images should show")
parser.add_argument("images", nargs="+", help="image files")
parser.add_argument(
    "--rewards", default="world-clip,world-aesthetic,world-pick", help="comma-separated names"
)
parser.add_argument("--device", default="cpu")
options = parser.parse_args()

images = [Image.open(file) for file in options.images]

# A Panel scores the images with all rewards in one pass; rewards with the same image tower share it.
panel = Panel(options.rewards.split(","), device=options.device)
scores = panel.score(images, [options.prompt] * len(images))

print("image".ljust(30), *(name.rjust(16) for name in scores))
for i, file in enumerate(options.images):
    print(file.ljust(30), *(f"{values[i].item():16.4f}" for values in scores.values()))
