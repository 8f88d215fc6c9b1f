"""Import a folder of existing images: with its prompts it becomes a run that can be scored and compared."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.image_rows import number_images
from leaderboards.records import Header, Key, Planned, Sample, folder_name, short_id
from leaderboards.run_state import RunState
from tcbench.errors import FileFormatError, MissingFiles
from tcbench.files import locked, sha256, visible
from tcbench.tables import Row, read_table
from textcraftor.diffusion.prompts import Prompt, canonical, prompts_sha256, read_prompts

_IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".jfif", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".avif")
_METADATA = "metadata.jsonl"
"""File with the prompt of a sub-folder, in the layout of GenEval."""
_BATCH_SIZE = 16


@dataclass(frozen=True)
class ImageFolder:
    """A folder of images, matched to their prompts by `read`."""

    folder: Path
    source: str
    """Name of the prompts' source; "" for prompts that are in the folder."""
    prompts: Sequence[Prompt]
    images: dict[Key, Path]
    """Image files by prompt and sample."""

    @staticmethod
    def read(folder: Path, prompts_file: Path | None) -> ImageFolder:
        """Match the images of a folder to prompts. Nothing is written.

        Images are matched by the prompt file's column `image` (or file_name, file), also in sub-folders.
        Without one, the n-th image in natural order of file names belongs to the n-th row. Rows with the same
        `prompt_id` (or prompt) are several images of one prompt, numbered by the column `sample` or in order
        (`benchmarks.image_rows`). A folder without images of its own has a sub-folder for each prompt, with
        the images in it or in `samples/`, as GenEval writes them; its prompt is in `metadata.jsonl`, or is
        the n-th of the prompt file. Hidden files are ignored.

        Args:
            folder: The images.
            prompts_file: Their prompts, in a file that `read_prompts` reads; None if the sub-folders have
                them.

        Raises:
            MissingFiles: If the folder does not exist.
            FileFormatError: If images and prompts cannot be matched.
        """
        if not folder.is_dir():
            raise MissingFiles(f"folder not found: {folder}; give a run folder or a folder of images")
        if prompts_file is None:
            if not _has_own_prompts(folder):
                raise FileFormatError(
                    f"{folder} is not a run folder, and has no {_METADATA} in a sub-folder for each prompt: "
                    "give the prompts of its images with --prompts FILE"
                )
            return _nested(folder, None, ())
        rows = list(read_table(prompts_file))
        if not any(row.get("image") for row in rows) and _is_nested(folder):
            return _nested(folder, prompts_file, rows)
        return _flat(folder, prompts_file, rows)

    def adopt(self, out: Path, name: str | None = None) -> RunState:
        """Make a run of the images, which stay where they are. Repeating it resumes the run.

        Args:
            out: Folder that holds the run folders.
            name: Name of the system in leaderboards; by default the folder's name.
        """
        prompts_hash = prompts_sha256(prompt.text for prompt in self.prompts)
        seeds = 1 + max(sample for _, sample in self.images)
        hashes = {key: sha256(image) for key, image in self.images.items()}
        keys = [(prompt.id, sample) for prompt in self.prompts for sample in range(seeds)]
        listed = "\n".join(hashes.get(key, "") for key in keys)
        settings = {
            "images_sha256": hashlib.sha256(listed.encode()).hexdigest(),
            "prompts_sha256": prompts_hash,
        }
        system = name or self.folder.resolve().name
        header = Header(
            suite=f"custom_{self.source or prompts_hash[:8]}",
            suite_sha256=prompts_hash,
            system=system,
            generation_id=short_id(settings),
            generation=settings,
            planned=Planned(tuple(range(len(self.prompts))), of=len(self.prompts), seeds=seeds),
            details={"name": system, "folder": str(self.folder.resolve())},
        )
        path = out / folder_name(header.suite, system, header.generation_id)
        with locked(path):
            run = RunState.create(path, header)
            # not recorded yet, or recorded in a folder that has moved since
            missing = run.missing_images() & (hashes.keys() | (set(keys) - run.samples.keys()))
            run.plan_batches(_BATCH_SIZE)
            run.append_samples(
                _sample(self.prompts[key[0]], key[1], self.images.get(key), hashes.get(key))
                for key in keys
                if key in missing
            )
        return run


def _has_own_prompts(folder: Path) -> bool:
    return any((part / _METADATA).is_file() for part in _sub_folders(folder))


def _is_nested(folder: Path) -> bool:
    return _has_own_prompts(folder) or (
        not _images_in(folder) and any(_samples_in(part) for part in _sub_folders(folder))
    )


def _flat(folder: Path, prompts_file: Path, rows: Sequence[Row]) -> ImageFolder:
    """Match images to the rows of a table."""
    images = _images_of(folder, rows, prompts_file)
    numbered = number_images(prompts_file, rows, [str(image) for image in images])
    first: dict[str, Row] = {}
    for row, (identity, _) in zip(rows, numbered, strict=True):
        first.setdefault(identity, row)
    ids = {identity: position for position, identity in enumerate(first)}
    matched: dict[Key, Path] = {}
    for row, (identity, sample), image in zip(rows, numbered, images, strict=True):
        first_image = matched.setdefault((ids[identity], sample), image)
        if first_image is image:
            continue
        if first_image == image:
            raise FileFormatError(
                f"{prompts_file}, {row.where}: image {image} is listed twice; remove one row"
            )
        raise FileFormatError(
            f"{prompts_file}, {row.where}: sample {sample} of {row.get('prompt')!r} occurs already; "
            "number the images of a prompt in a column 'sample'"
        )
    return ImageFolder(folder, prompts_file.stem, read_prompts(prompts_file, list(first.values())), matched)


def _images_of(folder: Path, rows: Sequence[Row], prompts_file: Path) -> list[Path]:
    """One image file per row, in file order."""
    named = [row.get("image") for row in rows]
    if any(named):
        unnamed = next((row for row in rows if not row.get("image")), None)
        if unnamed is not None:
            raise FileFormatError(
                f"{prompts_file}, {unnamed.where}: {unnamed.get('prompt')!r} has no 'image', but others do: "
                "name the file of every prompt, or of none"
            )
        images = [folder / name for name in named]
        missing = [row for row, image in zip(rows, images, strict=True) if not image.is_file()]
        if missing:
            more = f" (and {len(missing) - 1} more)" if len(missing) > 1 else ""
            raise FileFormatError(
                f"{prompts_file}, {missing[0].where}: image file not found: "
                f"{folder / missing[0].get('image')}{more}; correct the column {missing[0].column('image')!r}"
            )
        return images
    images = _images_in(folder)
    if len(images) != len(rows):
        raise FileFormatError(
            f"{folder} has {len(images)} images and {prompts_file} {len(rows)} prompts; expected equal "
            "numbers: add or remove some, or name each image's file in a column 'image', with several rows "
            "for several images of a prompt"
        )
    return images


def _nested(folder: Path, prompts_file: Path | None, rows: Sequence[Row]) -> ImageFolder:
    """Match sub-folders to their own prompts, and to those of the prompt file in order."""
    parts = [part for part in _sub_folders(folder) if (part / _METADATA).is_file() or _samples_in(part)]
    own = [_own_prompt(part) for part in parts]
    if prompts_file is not None:
        if len(rows) != len(parts):
            raise FileFormatError(
                f"{folder} has {len(parts)} folders of images and {prompts_file} {len(rows)} prompts; "
                "expected one folder for each prompt"
            )
        for part, row, other in zip(parts, rows, own, strict=True):
            if other is not None and canonical(other.get("prompt")) != canonical(row.get("prompt")):
                raise FileFormatError(
                    f"{prompts_file}, {row.where}: {row.get('prompt')!r} is not the prompt of "
                    f"{part / _METADATA} ({other.get('prompt')!r}); omit --prompts, or sort its rows like "
                    "the folders"
                )
        prompts = read_prompts(prompts_file, rows)
    else:
        bare = next((part for part, row in zip(parts, own, strict=True) if row is None), None)
        if bare is not None:
            raise FileFormatError(f"{bare} has images and no {_METADATA}; add it, or give --prompts FILE")
        prompts = read_prompts(folder / "*" / _METADATA, [row for row in own if row is not None])
    images = {
        (position, sample): image
        for position, part in enumerate(parts)
        for sample, image in enumerate(_samples_in(part))
    }
    if not images:
        raise FileFormatError(f"{folder} has no images; expected some in {parts[0] / 'samples'}")
    return ImageFolder(folder, prompts_file.stem if prompts_file else "", prompts, images)


def _own_prompt(part: Path) -> Row | None:
    if not (part / _METADATA).is_file():
        return None
    rows = list(read_table(part / _METADATA))
    if len(rows) != 1:
        raise FileFormatError(
            f"{part / _METADATA} has {len(rows)} lines; expected one, with the prompt of the images beside it"
        )
    return rows[0]


def _samples_in(part: Path) -> list[Path]:
    return _images_in(part / "samples" if (part / "samples").is_dir() else part)


def _images_in(folder: Path) -> list[Path]:
    return _naturally(
        path
        for path in visible(folder.iterdir())
        if path.suffix.lower() in _IMAGE_SUFFIXES and path.is_file()
    )


def _sub_folders(folder: Path) -> list[Path]:
    return _naturally(path for path in visible(folder.iterdir()) if path.is_dir())


def _naturally(paths: Iterable[Path]) -> list[Path]:
    """Sort paths so that "img2" comes before "img10"."""
    return sorted(
        paths,
        key=lambda path: [
            (int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", path.name)
        ],
    )


def _sample(prompt: Prompt, sample: int, image: Path | None, digest: str | None) -> Sample:
    return Sample(
        prompt_id=prompt.id,
        sample=sample,
        prompt=prompt.text,
        text=prompt.text,
        category=prompt.category,
        noise_seed=0,
        image=None if image is None else str(image.resolve()),
        sha256=digest,
        reason=None if image is not None else "the folder has fewer images of this prompt than of others",
    )
