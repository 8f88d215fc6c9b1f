"""Images made elsewhere: a folder of them with a prompt file becomes a run to score and compare."""

from __future__ import annotations

import re
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path

from benchmarks.generate import missing_images, plan_batches
from leaderboards.records import Header, Planned, RunFolder, Sample, folder_name, short_id
from tcbench.errors import FileFormatError
from tcbench.files import locked
from textcraftor.diffusion.prompts import Prompt, prompts_sha256, read_prompts

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")
IMAGE_COLUMNS = ("image", "file_name", "file")
BATCH_SIZE = 16


def adopt(folder: Path, prompts_file: Path, out: Path, name: str | None = None) -> RunFolder:
    """The run, below `out`, of the images in `folder`, which stay where they are. Doing it again continues
    it.

    Image and prompt belong together by the prompt file's column `image` (or file_name, file), else by order:
    the n-th image in natural order of file names has the n-th prompt.
    """
    prompts = read_prompts(prompts_file)
    images = match(folder, prompts, prompts_file)
    hashes = [sha256(image.read_bytes()).hexdigest() for image in images]
    settings = {
        "images_sha256": sha256("\n".join(hashes).encode()).hexdigest(),
        "prompts_sha256": prompts_sha256(prompts),
    }
    system = name or folder.resolve().name
    header = Header(
        suite=f"custom_{prompts_file.stem}",
        suite_sha256=settings["prompts_sha256"],
        system=system,
        generation_id=short_id(settings),
        generation=settings,
        planned=Planned(tuple(range(len(prompts))), of=len(prompts), seeds=1),
        details={"name": system, "folder": str(folder.resolve())},
    )
    path = out / folder_name(header.suite, system, header.generation_id)
    with locked(path):
        return _record(RunFolder.create(path, header), prompts, images, hashes)


def _record(
    run: RunFolder, prompts: Sequence[Prompt], images: Sequence[Path], hashes: Sequence[str]
) -> RunFolder:
    """Put on record, in the run, what is not there yet."""
    absent = missing_images(run)  # not on record yet, or recorded in a folder that was moved since
    records = [
        _sample(*pair) for pair in zip(prompts, images, hashes, strict=True) if (pair[0].id, 0) in absent
    ]
    plan_batches(run, BATCH_SIZE)
    with run.sample_appender() as appender:
        appender.append(records)
    return run


def match(folder: Path, prompts: Sequence[Prompt], prompts_file: Path) -> list[Path]:
    """One image file of `folder` for each prompt, in prompt order."""
    column = next((name for name in IMAGE_COLUMNS if any(name in prompt.tags for prompt in prompts)), None)
    if column is not None:
        silent = next((prompt for prompt in prompts if not prompt.tags.get(column)), None)
        if silent is not None:
            raise FileFormatError(
                f"{prompts_file}: prompt {silent.id} ({silent.text!r}) has no {column!r}, others have: "
                "name the file of each, or of none"
            )
        images = [folder / prompt.tags[column] for prompt in prompts]
        missing = next((image for image in images if not image.is_file()), None)
        if missing is not None:
            raise FileFormatError(
                f"{prompts_file} names {missing}, which is not there: mend the column {column!r}"
            )
        return images
    images = sorted((f for f in folder.iterdir() if f.suffix.lower() in IMAGE_SUFFIXES), key=_natural)
    if len(images) != len(prompts):
        raise FileFormatError(
            f"{folder} holds {len(images)} images and {prompts_file} {len(prompts)} prompts: "
            "make them as many, or name each prompt's file in a column 'image'"
        )
    return images


def _natural(path: Path) -> list[tuple[int, str]]:
    """Sort key by which "img2" comes before "img10"."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", path.name)]


def _sample(prompt: Prompt, image: Path, digest: str) -> Sample:
    return Sample(
        prompt_id=prompt.id,
        sample=0,
        prompt=prompt.text,
        text=prompt.text,
        category=prompt.category,
        noise_seed=0,
        image=str(image.resolve()),
        sha256=digest,
    )
