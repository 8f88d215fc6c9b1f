"""Adopt a folder of existing images: with a prompt file it becomes a run that can be scored and compared."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from pathlib import Path

from leaderboards.records import Header, Planned, Sample, folder_name, short_id
from leaderboards.run_state import RunState
from tcbench.errors import FileFormatError
from tcbench.files import locked, sha256
from textcraftor.diffusion.prompts import Prompt, prompts_sha256, read_prompts

_IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")
_IMAGE_COLUMNS = ("image", "file_name", "file")
_BATCH_SIZE = 16


def adopt_folder(folder: Path, prompts_file: Path, out: Path, name: str | None = None) -> RunState:
    """Make a run of the images in ``folder``, which stay where they are. Repeating it resumes the run.

    Images are matched to prompts by the prompt file's column `image` (or file_name, file). Without one, the
    n-th image in natural order of file names has the n-th prompt.

    Args:
        folder: The images.
        prompts_file: Their prompts, in a file that `read_prompts` reads.
        out: Folder that holds the run folders.
        name: Name of the system in leaderboards; by default the folder's name.

    Raises:
        FileFormatError: If images and prompts cannot be matched.
    """
    prompts = read_prompts(prompts_file)
    images = _match_images(folder, prompts, prompts_file)
    hashes = [sha256(image) for image in images]
    settings = {
        "images_sha256": hashlib.sha256("\n".join(hashes).encode()).hexdigest(),
        "prompts_sha256": prompts_sha256(prompt.text for prompt in prompts),
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
        run = RunState.create(path, header)
        missing = run.missing_images()  # not recorded yet, or recorded in a folder that has moved since
        run.plan_batches(_BATCH_SIZE)
        run.append_samples(
            _sample(prompt, image, digest)
            for prompt, image, digest in zip(prompts, images, hashes, strict=True)
            if (prompt.id, 0) in missing
        )
    return run


def _match_images(folder: Path, prompts: Sequence[Prompt], prompts_file: Path) -> list[Path]:
    """One image file per prompt, in prompt order."""
    column = next((name for name in _IMAGE_COLUMNS if any(name in prompt.tags for prompt in prompts)), None)
    if column is not None:
        unnamed = next((prompt for prompt in prompts if not prompt.tags.get(column)), None)
        if unnamed is not None:
            raise FileFormatError(
                f"{prompts_file}: prompt {unnamed.id} ({unnamed.text!r}) has no {column!r}, but others have: "
                "name the file of every prompt, or of none"
            )
        images = [folder / prompt.tags[column] for prompt in prompts]
        missing = next((image for image in images if not image.is_file()), None)
        if missing is not None:
            raise FileFormatError(f"{prompts_file}: image not found: {missing}; fix the column {column!r}")
        return images
    images = sorted((f for f in folder.iterdir() if f.suffix.lower() in _IMAGE_SUFFIXES), key=_natural_order)
    if len(images) != len(prompts):
        raise FileFormatError(
            f"{folder} has {len(images)} images and {prompts_file} {len(prompts)} prompts; expected equal "
            "numbers: add or remove some, or name each prompt's file in a column 'image'"
        )
    return images


def _natural_order(path: Path) -> list[tuple[int, str]]:
    """Sort key that puts "img2" before "img10"."""
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
