"""Prompt sources, and the samples of an update."""

from __future__ import annotations

from pathlib import Path

import pytest

from rewards.world.prompts import world_prompts
from tcbench.errors import ConfigError, FileFormatError
from textcraftor.diffusion.prompts import noise_seed
from textcraftor.sources import Order, find_prompts, of_texts


def test_the_worlds_training_prompts_are_not_its_held_out_ones() -> None:
    source = find_prompts("world")
    assert len(source) == 2000
    held_out = {prompt.text for split in ("test", "validation") for prompt in world_prompts(split)}  # type: ignore[arg-type]
    assert not held_out & set(source.texts)
    assert len(find_prompts("world-validation")) == 200


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.txt", "a cat\na dog\n"),
        ("a.csv", "id,prompt\n1,a cat\n2,a dog\n"),
        ("a.tsv", "caption\ta\na cat\t1\na dog\t2\n"),
        ("a.json", '["a cat", "a dog"]'),
        ("a.jsonl", '{"text": "a cat"}\n{"text": "a  dog"}\n'),
    ],
)
def test_files_of_all_kinds(tmp_path: Path, name: str, content: str) -> None:
    (tmp_path / name).write_text(content)
    source = find_prompts(str(tmp_path / name))
    assert list(source.texts) == ["a cat", "a dog"]
    assert source.sha256 == of_texts("", ["a cat", "a dog"]).sha256


def test_a_hub_data_set_stays_on_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder stands for a hub id: the library loads both alike."""
    pytest.importorskip("datasets")
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    folder = tmp_path / "set"
    folder.mkdir()
    (folder / "train.csv").write_text("number,prompt,other\n1,a cat,x\n2,a  dog,y\n")
    source = find_prompts(f"hub:{folder}")
    assert [source.texts[0], source.texts[1]] == ["a cat", "a dog"]
    assert find_prompts(f"hub:{folder}:other").texts[1] == "y"
    with pytest.raises(ConfigError, match="has the columns number, prompt, other; say which"):
        find_prompts(f"hub:{folder}:text")


def test_what_is_no_source_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileFormatError, match="cannot read"):
        find_prompts(str(tmp_path / "none.txt"))
    with pytest.raises(ConfigError, match="no prompts of its own"):
        find_prompts("")
    (tmp_path / "empty.txt").write_text("\n")
    with pytest.raises(FileFormatError):
        find_prompts(str(tmp_path / "empty.txt"))


def test_an_epoch_has_every_prompt_once_in_an_order_of_its_own() -> None:
    order = Order(of_texts("", [f"prompt {n}" for n in range(10)]), seed=3)
    epochs = [[order[epoch * 10 + place].prompt for place in range(10)] for epoch in range(3)]
    assert all(sorted(epoch) == list(range(10)) for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2]
    assert epochs[0] != [Order(order.source, seed=4)[place].prompt for place in range(10)]


def test_a_sample_depends_on_its_number_alone() -> None:
    order = Order(of_texts("", [f"prompt {n}" for n in range(7)]), seed=3)
    batches = [sample for update in range(4) for sample in order.batch(update, 5)]
    assert batches == [order[number] for number in range(20)]
    again = Order(order.source, seed=3)
    assert again[17] == batches[17]
    assert batches[17].noise_seed == noise_seed(3, batches[17].prompt, 2)


def test_few_noises_come_again() -> None:
    order = Order(of_texts("", ["a", "b"]), seed=0, noises=2)
    seeds = [{order[2 * epoch + place].noise_seed for place in range(2)} for epoch in range(4)]
    assert seeds[0] == seeds[2] != seeds[1] == seeds[3]
