"""Folders of existing images become runs; the images are matched to prompts and never changed."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from benchmarks.folder import adopt_folder
from tcbench.errors import FileFormatError


@pytest.fixture
def images(tmp_path: Path) -> Path:
    folder = tmp_path / "images"
    folder.mkdir()
    for number in (1, 2, 10):
        Image.new("RGB", (4, 4), (number, 0, 0)).save(folder / f"img{number}.png")
    (folder / "notes.txt").write_text("not an image")
    return folder


def prompts(folder: Path, text: str, name: str = "p.csv") -> Path:
    file = folder / name
    file.write_text(text)
    return file


def matched(folder: Path, file: Path, out: Path) -> list[tuple[str, str]]:
    samples = adopt_folder(folder, file, out).samples.values()
    return [(sample.prompt, Path(sample.image or "").name) for sample in samples]


def test_without_a_column_images_are_matched_in_natural_order(images: Path, tmp_path: Path) -> None:
    file = prompts(tmp_path, "prompt\na\nb\nc\n")
    assert matched(images, file, tmp_path) == [("a", "img1.png"), ("b", "img2.png"), ("c", "img10.png")]


def test_a_column_overrides_order(images: Path, tmp_path: Path) -> None:
    file = prompts(tmp_path, "prompt,file_name\na,img10.png\nb,img1.png\n")
    assert matched(images, file, tmp_path) == [("a", "img10.png"), ("b", "img1.png")]


def test_adopting_again_resumes_the_run(images: Path, tmp_path: Path) -> None:
    file = prompts(tmp_path, "prompt\na\nb\nc\n")
    first, second = adopt_folder(images, file, tmp_path), adopt_folder(images, file, tmp_path)
    assert first.path == second.path
    assert len(list(first.path.glob("samples/*.jsonl"))) == 1


def test_images_of_a_moved_folder_are_recorded_anew(images: Path, tmp_path: Path) -> None:
    file = prompts(tmp_path, "prompt\na\nb\nc\n")
    first = adopt_folder(images, file, tmp_path, name="images")
    moved = images.rename(tmp_path / "moved")
    second = adopt_folder(moved, file, tmp_path, name="images")
    assert first.path == second.path
    assert all(second.image_path(sample).is_file() for sample in second.samples.values())


def test_incomplete_column_is_an_error(images: Path, tmp_path: Path) -> None:
    file = prompts(tmp_path, '{"prompt": "a", "image": "img10.png"}\n"b"\n"c"\n', "p.jsonl")
    with pytest.raises(FileFormatError, match=r"prompt 1 \('b'\) has no 'image', but others have"):
        adopt_folder(images, file, tmp_path)


def test_other_images_make_another_run(images: Path, tmp_path: Path) -> None:
    file = prompts(tmp_path, "prompt\na\nb\nc\n")
    first = adopt_folder(images, file, tmp_path).path
    Image.new("RGB", (4, 4), (99, 0, 0)).save(images / "img2.png")
    assert adopt_folder(images, file, tmp_path).path != first


def test_too_few_prompts_are_an_error(images: Path, tmp_path: Path) -> None:
    with pytest.raises(FileFormatError, match=r"has 3 images and .* 2 prompts"):
        adopt_folder(images, prompts(tmp_path, "prompt\na\nb\n"), tmp_path)


def test_missing_image_is_an_error(images: Path, tmp_path: Path) -> None:
    with pytest.raises(FileFormatError, match=r"image not found: .*img9\.png"):
        adopt_folder(images, prompts(tmp_path, "prompt,image\na,img9.png\n"), tmp_path)


def test_invalid_prompt_file_is_an_error(images: Path, tmp_path: Path) -> None:
    with pytest.raises(FileFormatError):
        adopt_folder(images, prompts(tmp_path, "name\na\n"), tmp_path)
