"""Folders of existing images become runs; the images are matched to prompts and never changed."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest
from PIL import Image

from benchmarks.folder import ImageFolder
from benchmarks.resolve import resolve_rewards
from benchmarks.score import score_images
from leaderboards.run_state import RunState
from tcbench.errors import FileFormatError, MissingFiles
from tcbench.progress import Silent


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


def adopt_folder(folder: Path, file: Path | None, out: Path, name: str | None = None) -> RunState:
    return ImageFolder.read(folder, file).adopt(out, name)


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
    with pytest.raises(FileFormatError, match=r"line 2: .b. has no .image., but others do"):
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
    with pytest.raises(
        FileFormatError,
        match=r"p\.csv, line 2: image file not found: .*img9\.png; correct the column 'image'",
    ):
        adopt_folder(images, prompts(tmp_path, "prompt,image\na,img9.png\n"), tmp_path)


def test_an_image_that_is_listed_twice_is_an_error(images: Path, tmp_path: Path) -> None:
    file = prompts(tmp_path, "prompt,image\na,img1.png\nb,img2.png\na,img1.png\n")
    with pytest.raises(FileFormatError, match=r"line 4: image .*img1\.png is listed twice; remove one row"):
        adopt_folder(images, file, tmp_path)


def test_a_folder_that_does_not_exist_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(MissingFiles, match=r"folder not found: .*nowhere; give a run folder or a folder of"):
        adopt_folder(tmp_path / "nowhere", None, tmp_path)


def test_invalid_prompt_file_is_an_error(images: Path, tmp_path: Path) -> None:
    with pytest.raises(FileFormatError):
        adopt_folder(images, prompts(tmp_path, "name\na\n"), tmp_path)


def numbered(run: RunState) -> list[tuple[int, int, str, str]]:
    return [
        (*key, sample.prompt, "/".join(Path(sample.image or "").parts[-2:]))
        for key, sample in sorted(run.samples.items())
    ]


def write_images(folder: Path, names: Sequence[str]) -> Path:
    for number, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 4), (number, 0, 0)).save(folder / name)
    return folder


@pytest.mark.parametrize(
    "table",
    [
        "prompt,sample,image\na,0,a0.png\na,1,a1.png\nb,0,b0.png\nb,1,b1.png\n",
        "prompt,sample\na,0\na,1\nb,0\nb,1\n",
        "Prompt,Prompt_ID,File_Name\na,7,a0.png\na,7,a1.png\nb,9,b0.png\nb,9,b1.png\n",
        "prompt,image\na,a0.png\na,a1.png\nb,b0.png\nb,b1.png\n",
    ],
    ids=["sample", "sample without image", "prompt_id", "equal numbers of each prompt"],
)
def test_several_images_of_a_prompt_are_samples_of_one_prompt(tmp_path: Path, table: str) -> None:
    folder = write_images(tmp_path / "x", ["a0.png", "a1.png", "b0.png", "b1.png"])
    run = adopt_folder(folder, prompts(tmp_path, table), tmp_path / "runs")
    assert (run.header.planned.prompt_ids, run.header.planned.seeds) == ((0, 1), 2)
    assert numbered(run) == [
        (0, 0, "a", "x/a0.png"),
        (0, 1, "a", "x/a1.png"),
        (1, 0, "b", "x/b0.png"),
        (1, 1, "b", "x/b1.png"),
    ]


def test_an_image_that_others_have_is_missing_with_its_reason(tmp_path: Path) -> None:
    folder = write_images(tmp_path / "x", ["a0.png", "a1.png", "b0.png"])
    file = prompts(tmp_path, "prompt,sample,image\na,0,a0.png\na,1,a1.png\nb,0,b0.png\n")
    for _ in range(2):  # adopting again changes nothing
        run = adopt_folder(folder, file, tmp_path / "runs")
        assert run.samples[1, 1].reason == "the folder has fewer images of this prompt than of others"
        assert len(list(run.path.glob("samples/*.jsonl"))) == 1


def test_prompts_that_read_alike_stay_apart_unless_images_repeat_them(tmp_path: Path) -> None:
    names = ["1.png", "2.png", "3.png", "4.png"]
    folder = write_images(tmp_path / "x", names)
    run = adopt_folder(folder, prompts(tmp_path, "prompt\na\nb\na\nc\n"), tmp_path / "runs")
    assert [sample.prompt for sample in run.samples.values()] == ["a", "b", "a", "c"]
    rows = "".join(f"{text},{name}\n" for text, name in zip("aaab", names, strict=True))
    with pytest.raises(
        FileFormatError, match="line 2: 'a' has 3 images, but other prompts have a different number; add"
    ):
        adopt_folder(folder, prompts(tmp_path, f"prompt,image\n{rows}"), tmp_path / "runs")


def geneval(folder: Path, texts: Sequence[str], count: int = 2) -> Path:
    """Images in GenEval's layout, with the files that it and macOS leave beside them."""
    for number, text in enumerate(texts):
        part = folder / f"{number:05}"
        write_images(part, [f"samples/{n:04}.png" for n in range(count)])
        record = {"tag": "single_object", "include": [{"class": "bench"}], "prompt": text}
        (part / "metadata.jsonl").write_text(json.dumps(record))
        write_images(part, ["grid.png"])
        (part / "samples" / "._0000.png").write_bytes(b"resource fork")
    return folder


def test_a_folder_in_the_layout_of_geneval_has_its_own_prompts(tmp_path: Path) -> None:
    folder = geneval(tmp_path / "x", ["a bench", "a cow"])
    run = adopt_folder(folder, None, tmp_path / "runs")
    assert numbered(run) == [
        (0, 0, "a bench", "samples/0000.png"),
        (0, 1, "a bench", "samples/0001.png"),
        (1, 0, "a cow", "samples/0000.png"),
        (1, 1, "a cow", "samples/0001.png"),
    ]
    assert {sample.category for sample in run.samples.values()} == {"single_object"}
    other = adopt_folder(geneval(tmp_path / "y", ["a bench", "a cow"], 1), None, tmp_path / "runs")
    assert other.header.suite == run.header.suite  # of one suite, so they can be compared


def test_sub_folders_match_a_prompt_file_in_order(tmp_path: Path) -> None:
    folder = write_images(tmp_path / "x", ["2/a.png", "2/b.png", "10/a.png", "10/b.png"])
    run = adopt_folder(folder, prompts(tmp_path, "prompt\na\nb\n"), tmp_path / "runs")
    assert [entry[3] for entry in numbered(run)] == ["2/a.png", "2/b.png", "10/a.png", "10/b.png"]


@pytest.mark.parametrize("own_prompts", [False, True])
def test_a_column_image_wins_over_the_layout_of_the_folder(tmp_path: Path, own_prompts: bool) -> None:
    folder = write_images(tmp_path / "x", ["1/dog.png", "2/cat.png"])
    for number in (1, 2) if own_prompts else ():
        (folder / str(number) / "metadata.jsonl").write_text('{"prompt": "another"}')
    file = prompts(tmp_path, "prompt,image\na cat,2/cat.png\na dog,1/dog.png\n")
    assert matched(folder, file, tmp_path) == [("a cat", "cat.png"), ("a dog", "dog.png")]


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ("prompt\na bench\n", "has 2 folders of images and .* 1 prompts"),
        ("prompt\na cow\na bench\n", "line 2: 'a cow' is not the prompt of .*metadata.jsonl"),
    ],
)
def test_a_prompt_file_must_agree_with_the_folders(tmp_path: Path, table: str, message: str) -> None:
    folder = geneval(tmp_path / "x", ["a bench", "a cow"])
    with pytest.raises(FileFormatError, match=message):
        adopt_folder(folder, prompts(tmp_path, table), tmp_path / "runs")


def test_hidden_files_are_no_images(images: Path, tmp_path: Path) -> None:
    (images / "._img1.png").write_bytes(b"resource fork")
    (images / ".DS_Store").write_bytes(b"")
    write_images(images, ["__MACOSX/img1.png"])
    file = prompts(tmp_path, "prompt\na\nb\nc\n")
    assert [name for _, name in matched(images, file, tmp_path)] == ["img1.png", "img2.png", "img10.png"]


class Notes(Silent):
    """Progress that keeps its notes."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, message: str) -> None:
        self.notes.append(message)


def test_animated_and_transparent_pictures_are_scored_with_a_note(tmp_path: Path, toy_rewards: Path) -> None:
    folder = write_images(tmp_path / "x", ["opaque.png"])
    frames = [Image.new("RGB", (4, 4), (grey, grey, grey)) for grey in (51, 255)]
    for kind in ("gif", "webp", "png"):
        options = {"lossless": True} if kind == "webp" else {}
        frames[0].save(folder / f"moving.{kind}", save_all=True, append_images=frames[1:], **options)
    Image.new("RGBA", (4, 4), (102, 102, 102, 0)).save(folder / "clear.png")
    Image.new("RGBA", (4, 4), (102, 102, 102, 255)).save(folder / "solid.png")
    names = ["moving.gif", "moving.webp", "moving.png", "clear.png", "solid.png"]
    table = "prompt,image\n" + "".join(f"{name},{name}\n" for name in names)
    run = adopt_folder(folder, prompts(tmp_path, table), tmp_path / "runs")
    notes = Notes()
    rewards = resolve_rewards([f"{toy_rewards}:Brightness"])
    score_images(run, rewards, "cpu", notes)
    scores = [score.score for score in run.scores(rewards[0].score_set).values()]
    assert scores == pytest.approx([0.2, 0.2, 0.2, 0.4, 0.4], abs=1e-6)
    animated, transparent = notes.notes
    assert animated.startswith("only the first frame of animated images is scored: 3 images, such as /")
    assert transparent.startswith(
        "only the stored colours of transparent images are scored, without a background: 1 image /"
    )


def test_a_folder_without_prompts_is_an_error(images: Path, tmp_path: Path) -> None:
    with pytest.raises(FileFormatError, match=r"is not a run folder, .* --prompts FILE"):
        adopt_folder(images, None, tmp_path)
