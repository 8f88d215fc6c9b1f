"""How fast and how large rewards are beside the official packages, imscore, and each other.

    python scripts/reward_speed.py [--images 4] [--repeats 4] [--only official peers panels] [--device cpu]

Every side reads the same random weights of the published sizes (7 GB of scratch files) and the same
photographs, each in a process of its own. The first call of each is not timed. Half of our repeats come
before the other side's and half after it, so that a machine that changes its pace favours none. A ratio is
of medians; beside it the range that the repeats allow. The official packages score eight images, others
``--images``. Peak memory is that of the process with its libraries, MiB. With --device
cuda it is that of the device, and the official packages, which choose their device themselves, are left out.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

IMSCORE = Path(__file__).parent / "imscore"
OFFICIAL_IMAGES = 8
"""What the official packages score."""

DEFAULT_PANEL = ("aesthetic-v2", "clip", "pickscore", "hpsv2.1", "imagereward")
SHARED_PANEL = ("aesthetic-v1", "aesthetic-v2", "clip")
PEERS = ("pickscore", "hpsv2-antialias", "imagereward", "aesthetic-v2")
"""What imscore has too and two cores can run; its VQAScore, MPS and HPSv3 are too large here."""

SUBJECTS = (
    "a horse", "an old town by the sea", "a bowl of fruit", "a robot that paints",
    "two foxes at night", "a steam engine", "a portrait of a queen", "a mountain lake",
)  # fmt: skip
PROMPTS = [f"{subject}, highly detailed digital painting, warm light, soft colours" for subject in SUBJECTS]

HEAD = ("| ratio of seconds | should be | is (range) | seconds | peak MiB |", "|---|---|---|---|---|")
INTRODUCTION = """# How fast rewards are

Made by `scripts/reward_speed.py --out docs/speed.md`; not typed. Each side reads the same random weights of
the published sizes and the same photographs, in a process of its own; the first call is not timed, and half
of the second side's repeats come before the first side's and half after. Seconds and memory are those of the
first side and of the second.

As a user calls it, hpsv2 reads its checkpoint again for every call: the difference of the first two rows is
what that costs. On two CPU cores it is small beside a ViT-H/14, so the factor of five is out of reach there.
"""


@dataclass(frozen=True)
class Timing:
    """Seconds of each repeat, and the peak memory, MiB."""

    seconds: Sequence[float]
    peak: float


@dataclass(frozen=True)
class Figure:
    """One ratio, ``over`` / ``under``, and what it should be."""

    what: str
    bound: str
    over: Timing
    under: Timing

    def cells(self) -> list[str]:
        """As a row of the table."""
        ratio = median(self.over.seconds) / median(self.under.seconds)
        low = min(self.over.seconds) / max(self.under.seconds)
        high = max(self.over.seconds) / min(self.under.seconds)
        seconds = f"{median(self.over.seconds):.2f} / {median(self.under.seconds):.2f}"
        peaks = f"{self.over.peak:.0f} / {self.under.peak:.0f}"
        return [self.what, self.bound, f"{ratio:.2f} ({low:.2f}-{high:.2f})", seconds, peaks]


@dataclass(frozen=True)
class Subject:
    """A reward's random weights, by key, and what other people's code needs of them."""

    files: Mapping[str, Path]
    peer: Mapping[str, Path] = field(default_factory=dict)
    official: Mapping[str, Any] = field(default_factory=dict)


def prepare(folder: Path) -> dict[str, Subject]:
    """Random weights of the published sizes, in the published layouts."""
    import rewards
    from rewards.verification.official.compare import OFFICIAL

    backbone, eyes = write_vit_l_14(folder)
    heads = {
        name: write_head(folder / f"{name}.pth", linear=name == "aesthetic-v1") for name in SHARED_PANEL[:2]
    }
    model, tokenizer = write_pickscore(folder)
    hps, blip = (
        OFFICIAL[rewards.info(name).entry](rewards.info(name), folder, full=True)
        for name in ("hpsv2", "imagereward")
    )
    aesthetic = {"model": eyes, "head": heads["aesthetic-v2"]}
    return {
        "aesthetic-v1": Subject({"backbone": backbone, "head": heads["aesthetic-v1"]}),
        "aesthetic-v2": Subject({"backbone": backbone, "head": heads["aesthetic-v2"]}, aesthetic),
        "clip": Subject({"backbone": backbone}),
        "pickscore": Subject(
            {"model": model, "tokenizer": tokenizer}, {"model": model, "tokenizer": tokenizer}
        ),
        **dict.fromkeys(("hpsv2", "hpsv2-antialias", "hpsv2.1"), Subject(hps.files, hps.files, hps.job)),
        "imagereward": Subject(blip.files, blip.files, blip.job),
    }


def write_vit_l_14(folder: Path) -> tuple[Path, Path]:
    """OpenAI's ViT-L/14 in open_clip's layout, and of the same size its image half in transformers'."""
    import open_clip
    from open_clip.model import CLIP
    from safetensors.torch import save_file
    from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

    ours, theirs = folder / "vit-l-14", folder / "vit-l-14-transformers"
    ours.mkdir()
    config = open_clip.get_model_config("ViT-L-14-quickgelu")
    written = json.dumps({"model_cfg": config, "preprocess_cfg": {}})
    (ours / "open_clip_config.json").write_text(written, encoding="utf-8")
    save_file(CLIP(**config).half().state_dict(), ours / "open_clip_model.safetensors")
    size = {
        "hidden_size": 1024,
        "intermediate_size": 4096,
        "num_hidden_layers": 24,
        "num_attention_heads": 16,
    }
    vision = CLIPVisionConfig(**size, patch_size=14, projection_dim=768)
    CLIPVisionModelWithProjection(vision).half().save_pretrained(theirs)
    return ours, theirs


def write_head(path: Path, *, linear: bool) -> Path:
    """LAION's first or second head."""
    import torch
    from torch import nn

    from rewards.backbones.head import ScoreHead

    torch.save((nn.Linear(768, 1) if linear else ScoreHead(768)).state_dict(), path)
    return path


def write_pickscore(folder: Path) -> tuple[Path, Path]:
    """A ViT-H/14 in transformers' layout, and a tokenizer that reads letter by letter."""
    from transformers import CLIPConfig, CLIPModel

    from rewards.verification.tiny.vocabularies import write_tiny_tokenizer

    text = {
        "hidden_size": 1024,
        "intermediate_size": 4096,
        "num_hidden_layers": 24,
        "num_attention_heads": 16,
    }
    eyes = {
        "hidden_size": 1280,
        "intermediate_size": 5120,
        "num_hidden_layers": 32,
        "num_attention_heads": 16,
    }
    config = CLIPConfig(
        text_config={**text, "projection_dim": 1024, "eos_token_id": 513},
        vision_config={**eyes, "patch_size": 14, "projection_dim": 1024},
        projection_dim=1024,
    )
    CLIPModel(config).half().save_pretrained(folder / "pickscore")
    return folder / "pickscore", write_tiny_tokenizer("clip", folder / "tokenizer", 77)


class Bench:
    """What is scored, and the processes that score it."""

    def __init__(self, folder: Path, photographs: Path, options: argparse.Namespace) -> None:
        from rewards.verification.pictures import load_photos

        self.folder, self.repeats, self.device = folder, options.repeats, options.device
        self.all_paths = [photographs / name for name in load_photos(photographs, OFFICIAL_IMAGES)]
        self.paths, self.prompts = self.all_paths[: options.images], PROMPTS[: options.images]
        self.tensor = squares(self.paths, folder / "images.safetensors")
        self.subjects = prepare(folder)

    def around(self, theirs: Callable[[], Any], *names: str, **how: Any) -> tuple[Any, Timing]:
        """What ``theirs`` gives, and our timing from before and after it."""
        before, found, after = self.ours(*names, **how), theirs(), self.ours(*names, **how)
        seconds = [*before.seconds, *after.seconds]
        return found, Timing(seconds, max(before.peak, after.peak))

    def ours(self, *names: str, as_tensor: bool = False, panel: bool = False, whole: bool = False) -> Timing:
        """Our rewards, one after another or as a panel; half of the repeats. ``whole``: of all images."""
        job = {
            "files": {name: self.subjects[name].files for name in names},
            "images": self.tensor if as_tensor else self.all_paths if whole else self.paths,
            "prompts": PROMPTS if whole else self.prompts,
            "panel": panel,
            "device": self.device,
            "repeats": -(-self.repeats // 2),
        }
        ask, answer = self.folder / "job.json", self.folder / "answer.json"
        ask.write_text(json.dumps(job, default=_plain), encoding="utf-8")
        command = [sys.executable, "-W", "ignore", __file__, "--worker", str(ask), str(answer)]
        subprocess.run(command, check=True)
        return Timing(**json.loads(answer.read_text(encoding="utf-8")))

    def official(self) -> Iterator[Figure]:
        """HPSv2 and ImageReward against their packages."""
        from rewards.verification.official.environment import run_official

        pairs = {"images": list(map(str, self.all_paths)), "prompts": PROMPTS, "pairs": True}
        for name in ("hpsv2", "imagereward"):
            job = {**self.subjects[name].official, **pairs, "repeats": self.repeats}
            theirs, ours = self.around(partial(run_official, job), name, whole=True)
            if name == "hpsv2":
                called = Timing(theirs["seconds"], theirs["peak"])
                yield Figure("hpsv2: its package as called / ours", ">= 5", called, ours)
            hoisted = Timing(theirs["hoisted"], theirs["peak"])
            yield Figure(f"{name}: its package, loaded before / ours", ">= 1", hoisted, ours)

    def peers(self) -> Iterator[Figure]:
        """Each reward that imscore has too, on one tensor of pictures."""
        from rewards.verification.official.environment import run_official

        for name in PEERS:
            files = {key: str(path) for key, path in self.subjects[name].peer.items()}
            job = {"reward": name, "files": files, "images": str(self.tensor), "prompts": self.prompts}
            job |= {"repeats": self.repeats, "device": self.device}
            call = partial(run_official, job, IMSCORE / "runner.py", IMSCORE / "requirements.lock")
            theirs, ours = self.around(call, name, as_tensor=True)
            timing = Timing(theirs["seconds"], theirs["peak"])
            yield Figure(f"{name}: imscore / ours", ">= 1", timing, ours)

    def panels(self) -> Iterator[Figure]:
        """Rewards together against one, and against each by itself."""
        shared, one = self.around(partial(self.ours, *SHARED_PANEL, panel=True), "aesthetic-v2")
        yield Figure(f"panel of {', '.join(SHARED_PANEL)} / aesthetic-v2", "<= 1.15", shared, one)
        together, members = self.around(partial(self.ours, *DEFAULT_PANEL, panel=True), *DEFAULT_PANEL)
        yield Figure(f"panel of {', '.join(DEFAULT_PANEL)} / its members", "<= 0.85", together, members)


def squares(paths: Sequence[Path], out: Path) -> Path:
    """The pictures as one tensor, for zoos that take nothing else: (B, 3, 512, 512) in [0, 1]."""
    import numpy as np
    import torch
    from PIL import Image
    from safetensors.torch import save_file

    arrays = [np.asarray(Image.open(path).convert("RGB").resize((512, 512))) for path in paths]
    save_file({"images": torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2).contiguous() / 255}, out)
    return out


def plain_records(names: Iterable[str]) -> list[Any]:
    """The rewards' records, free of what only the published weights satisfy."""
    import rewards

    records = []
    for name in names:
        record = rewards.info(name)
        extra = (rewards.WeightsFile("config", file="config.json"),) if name == "imagereward" else ()
        weights = (*(replace(file, sha256="") for file in record.weights), *extra)
        records.append(replace(record, weights=weights))
    return records


def worker(ask: Path, answer: Path) -> None:
    """Time our rewards as a job says, in this process."""
    import torch
    from PIL import Image
    from safetensors.torch import load_file

    import rewards
    from rewards.combine.panel import Panel
    from textcraftor.ledger import peak_mib

    job = json.loads(ask.read_text(encoding="utf-8"))
    records = plain_records(job["files"])
    device = job["device"]
    images: Any = (
        load_file(job["images"])["images"].to(device)
        if isinstance(job["images"], str)
        else [Image.open(path).convert("RGB") for path in job["images"]]
    )
    score: Callable[[], Any]
    if job["panel"]:
        panel = Panel(records, weights=job["files"], device=device)

        def score() -> Any:
            return panel.score(images, job["prompts"])

    else:
        loaded = [
            rewards.load(record, weights=job["files"][record.name], device=device) for record in records
        ]

        def score() -> Any:
            return [reward.score(images, job["prompts"]) for reward in loaded]

    seconds = []
    with torch.no_grad():
        score()
        for _ in range(job["repeats"]):
            started = time.perf_counter()
            score()
            if device != "cpu":
                torch.cuda.synchronize()
            seconds.append(time.perf_counter() - started)
    peak = peak_mib("cpu")
    if device != "cpu":
        peak = torch.cuda.max_memory_allocated() / 2**20
    answer.write_text(json.dumps({"seconds": seconds, "peak": peak}), encoding="utf-8")


def _plain(value: Any) -> Any:
    return dict(value) if isinstance(value, Mapping) else str(value)


def main() -> None:
    """Run the asked-for comparisons and print their table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=int, default=4, choices=range(1, 9))
    parser.add_argument("--repeats", type=int, default=4)
    parser.add_argument("--only", nargs="+", default=["official", "peers", "panels"])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--worker", nargs=2, type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        worker(*options.worker)
        return
    import torch

    from rewards.verification.pictures import photo_folder

    where = options.device if options.device == "cpu" else torch.cuda.get_device_name()
    note = (
        f"{options.images} photographs ({OFFICIAL_IMAGES} for the packages), {options.repeats} repeats, "
        f"torch {torch.__version__}, {where}, {torch.get_num_threads()} threads."
    )
    rows: list[str] = []
    with TemporaryDirectory() as scratch:
        folder = Path(scratch)
        bench = Bench(folder, photo_folder(folder, OFFICIAL_IMAGES), options)
        for part in options.only:
            if part == "official" and options.device != "cpu":
                print("left out: the official packages choose their device themselves", file=sys.stderr)
                continue
            for figure in getattr(bench, part)():
                rows.append("| " + " | ".join(figure.cells()) + " |")
                print(rows[-1], file=sys.stderr, flush=True)
                if options.out:  # at once: the next may take minutes, or fail
                    options.out.write_text(
                        "\n".join([INTRODUCTION, *HEAD, *rows, "", note, ""]), encoding="utf-8"
                    )
    print(*HEAD, *rows, "", note, sep="\n")


if __name__ == "__main__":
    main()
