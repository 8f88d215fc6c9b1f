"""Prompt files in all supported formats, the canonical hash, and the noise of a prompt."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
import torch

from tcbench.errors import FileFormatError
from textcraftor.diffusion.prompts import (
    Prompt,
    canonical,
    initial_latents,
    noise_seed,
    prompts_sha256,
    read_prompts,
    stratified_order,
)


def texts(folder: Path, name: str, content: str | bytes) -> list[str]:
    return [prompt.text for prompt in read_prompts(write(folder, name, content))]


def write(folder: Path, name: str, content: str | bytes) -> Path:
    file = folder / name
    file.write_bytes(content.encode() if isinstance(content, str) else content)
    return file


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("p.txt", "a cat\na dog\n"),
        ("p.txt", "a cat\n\na dog"),
        ("p.txt", "\ufeffa cat\r\na dog\r\n"),
        ("p.txt", "a cat\na dog\n".encode("utf-16")),
        ("p.csv", "Prompt,Category\na cat,animal\na dog,animal\n"),
        ("p.csv", '\ufefftext\r\n"a cat"\r\n"a dog"\r\n'),
        ("p.tsv", "caption\tnote\na cat\t\na dog\tbig\n"),
        ("p.json", '["a cat", "a dog"]'),
        ("p.json", '[{"prompt": "a cat"}, {"prompt": "a dog", "id": 7}]'),
        ("p.json", '{"pets": ["a cat", "a dog"]}'),
        ("p.json", '{"prompt": ["a cat", "a dog"], "category": ["animal", "animal"]}'),
        ("p.json", '{"Prompt": {"0": "a cat", "1": "a dog"}, "n": {"0": 3, "1": null}}'),
        ("p.tsv", '"prompt"\t"category"\n"a cat"\t"x"\n"a dog"\t"y"\n'),
        ("p.jsonl", '{"prompt": "a cat"}\r\n\n{"text": "a dog"}\n'),
    ],
)
def test_every_file_type_gives_the_same_prompts(tmp_path: Path, name: str, content: str | bytes) -> None:
    assert texts(tmp_path, name, content) == ["a cat", "a dog"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("p.csv", "name,style\nx,y\n", "line 2: no prompt column; columns: name, style"),
        ("p.csv", "prompt,style\na cat,y\nb\n", "line 3: expected 2 cells"),
        ("p.csv", "prompt,style\na cat,y,z\n", "line 2: expected 2 cells"),
        ("p.csv", 'prompt\n"a cat\n', "line 1: .*fix the quotes"),
        ("p.csv", "prompt,style\n,y\n", "line 2: the prompt is empty"),
        ("p.csv", "id,prompt\n1,a\n2,b\n1,c\n", "line 4: id '1' is already used in line 2"),
        ("p.csv", "prompt,style,style\na cat,y,z\n", "line 1: two columns are called 'style'"),
        ("p.json", '["\\ud83d cat"]', "entry 1: the prompt has an unpaired surrogate"),
        (
            "p.jsonl",
            '{"id": 1, "prompt": "a"}\n"b"\n{"id": 1, "prompt": "c"}',
            "line 3: id '1' is already used",
        ),
        ("p.tsv", "a cat\na dog\n", "line 2: no prompt column"),
        ("p.json", '["a cat",\n "a dog"', "line 2: not JSON"),
        ("p.json", '["a cat", " "]', "entry 2: the prompt is empty"),
        ("p.json", '["a cat", 3]', "entry 2: expected text or an object"),
        ("p.json", '[{"prompt": 3}]', "entry 1: the prompt is 3; expected text; fix or remove"),
        ("p.json", '"a cat"', "expected a list"),
        ("p.jsonl", '{"prompt": "a"}\n{"prompt": \n', "line 2: not JSON"),
        ("p.jsonl", '{"id": 1, "prompt": "a"}\n{"id": 1, "prompt": "b"}', "line 2: id '1' is already used"),
        ("p.txt", "", "holds no prompts"),
        ("p.txt", "# pets\na cat\n", "line 1: '# pets' begins with '#', and a text file has no comments"),
        ("p.txt", b"a cat\na caf\xe9\n", "line 2: byte 0xe9 is not UTF-8; .*iconv"),
        ("p.xlsx", "x", "unknown file type '.xlsx'; expected one of .txt"),
    ],
)
def test_an_invalid_file_is_named_with_line_and_fix(
    tmp_path: Path, name: str, content: str | bytes, message: str
) -> None:
    file = write(tmp_path, name, content)
    with pytest.raises(FileFormatError, match=message) as caught:
        read_prompts(file)
    assert str(file) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_trailing_empty_columns_are_ignored(tmp_path: Path) -> None:
    (prompt,) = read_prompts(write(tmp_path, "p.csv", "prompt,style,,\na cat,y,,\n"))
    assert (prompt.text, prompt.category, dict(prompt.tags)) == ("a cat", "y", {})


def test_some_entries_may_have_no_id(tmp_path: Path) -> None:
    content = '"a"\n{"id": 1, "prompt": "b"}\n"c"\n'
    assert [prompt.text for prompt in read_prompts(write(tmp_path, "p.jsonl", content))] == ["a", "b", "c"]


def test_missing_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileFormatError, match=r"cannot read .*: No such file"):
        read_prompts(tmp_path / "none.txt")


def test_categories_and_other_columns_are_kept(tmp_path: Path) -> None:
    file = write(tmp_path, "p.tsv", 'Prompt\tCategory\tNote\nthe word "GO"\tSigns\tquoted\n')
    assert read_prompts(file) == [Prompt(0, 'the word "GO"', "Signs", {"note": "quoted"})]


def test_repeated_prompts_keep_their_positions(tmp_path: Path) -> None:
    file = write(tmp_path, "p.txt", "a cat\na cat\n")
    assert [prompt.id for prompt in read_prompts(file)] == [0, 1]


def test_prompts_have_one_canonical_spelling() -> None:
    assert canonical("  a \t cafe\u0301\n") == "a caf\u00e9"


def test_the_hash_covers_the_ordered_texts_only(tmp_path: Path) -> None:
    first = write(tmp_path, "a.txt", "a cat\r\na  dog ")
    second = write(tmp_path, "b.json", '[{"prompt": "a cat", "style": "x"}, {"prompt": "a dog"}]')
    texts, others = ([prompt.text for prompt in read_prompts(path)] for path in (first, second))
    assert prompts_sha256(texts) == prompts_sha256(others) != prompts_sha256(texts[::-1])


def test_noise_depends_on_seed_prompt_and_sample_only() -> None:
    seeds = [
        noise_seed(base, prompt, sample) for base in (0, 1) for prompt in (0, 1, 11) for sample in (0, 1)
    ]
    assert len(set(seeds)) == len(seeds)
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert noise_seed(0, 1, 0) == 1078089835635643068


def test_latents_do_not_depend_on_the_batch() -> None:
    together = initial_latents([3, 4, 5], (2, 4, 4))
    assert together.dtype == torch.float32
    assert torch.equal(together[1:2], initial_latents([4], (2, 4, 4)))
    assert torch.equal(together.flip(0), initial_latents([5, 4, 3], (2, 4, 4)))


def prompts_of(counts: dict[str, int]) -> list[Prompt]:
    categories = [category for category, count in counts.items() for _ in range(count)]
    return [Prompt(position, f"prompt {position}", category) for position, category in enumerate(categories)]


def test_every_prefix_has_categories_in_proportion() -> None:
    counts = {"a": 600, "b": 300, "c": 100}
    prompts = prompts_of(counts)
    order = stratified_order(prompts)
    assert sorted(order) == list(range(1000))
    for size in (10, 64, 128, 500):
        counted = Counter(prompts[position].category for position in order[:size])
        for category, count in counts.items():
            assert abs(counted[category] - size * count / 1000) <= 1


def test_the_subset_is_seeded_and_not_the_first_prompts() -> None:
    prompts = prompts_of({"a": 100})
    assert stratified_order(prompts, 0) == stratified_order(prompts, 0) != stratified_order(prompts, 1)
    assert sorted(stratified_order(prompts)[:10]) != list(range(10))
