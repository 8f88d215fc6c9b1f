"""Images made elsewhere: matched to their prompts, referred to, never changed."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from benchmarks.folder import adopt
from tcbench.errors import FileFormatError


@pytest.fixture
def images(tmp_path: Path) -> Path:
    folder = tmp_path / "mine"
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
    samples = adopt(folder, file, out).samples().values()
    return [(sample.prompt, Path(sample.image or "").name) for sample in samples]


def test_without_a_column_order_decides_and_2_comes_before_10(images: Path, tmp_path: Path) -> None:
    file = prompts(tmp_path, "prompt\na\nb\nc\n")
    assert matched(images, file, tmp_path) == [("a", "img1.png"), ("b", "img2.png"), ("c", "img10.png")]


def test_a_column_decides_over_order(images: Path, tmp_path: Path) -> None:
    file = prompts(tmp_path, "prompt,file_name\na,img10.png\nb,img1.png\n")
    assert matched(images, file, tmp_path) == [("a", "img10.png"), ("b", "img1.png")]


def test_doing_it_again_continues_the_run(images: Path, tmp_path: Path) -> None:
    file = prompts(tmp_path, "prompt\na\nb\nc\n")
    first, second = adopt(images, file, tmp_path), adopt(images, file, tmp_path)
    assert first.path == second.path
    assert len(list(first.path.glob("samples/*.jsonl"))) == 1


def test_a_folder_that_was_moved_is_found_again(images: Path, tmp_path: Path) -> None:
    file = prompts(tmp_path, "prompt\na\nb\nc\n")
    first = adopt(images, file, tmp_path, name="mine")
    moved = images.rename(tmp_path / "moved")
    second = adopt(moved, file, tmp_path, name="mine")
    assert first.path == second.path
    assert all(second.image_path(sample).is_file() for sample in second.samples().values())


def test_a_column_that_only_some_prompts_have_is_refused(images: Path, tmp_path: Path) -> None:
    file = prompts(tmp_path, '{"prompt": "a", "image": "img10.png"}\n"b"\n"c"\n', "p.jsonl")
    with pytest.raises(FileFormatError, match=r"prompt 1 \('b'\) has no 'image', others have"):
        adopt(images, file, tmp_path)


def test_other_images_are_another_run(images: Path, tmp_path: Path) -> None:
    file = prompts(tmp_path, "prompt\na\nb\nc\n")
    first = adopt(images, file, tmp_path).path
    Image.new("RGB", (4, 4), (99, 0, 0)).save(images / "img2.png")
    assert adopt(images, file, tmp_path).path != first


def test_too_few_prompts_are_refused(images: Path, tmp_path: Path) -> None:
    with pytest.raises(FileFormatError, match=r"holds 3 images and .* 2 prompts"):
        adopt(images, prompts(tmp_path, "prompt\na\nb\n"), tmp_path)


def test_a_named_image_that_is_not_there_is_refused(images: Path, tmp_path: Path) -> None:
    with pytest.raises(FileFormatError, match=r"img9\.png, which is not there"):
        adopt(images, prompts(tmp_path, "prompt,image\na,img9.png\n"), tmp_path)


def test_a_bad_prompt_file_is_refused(images: Path, tmp_path: Path) -> None:
    with pytest.raises(FileFormatError):
        adopt(images, prompts(tmp_path, "name\na\n"), tmp_path)
