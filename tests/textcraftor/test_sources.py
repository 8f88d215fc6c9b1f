"""Prompt sources, and the samples of an update."""

from __future__ import annotations

from pathlib import Path

import pytest

from rewards.world.prompts import world_prompts
from tcbench.errors import ConfigError, FileFormatError
from tcbench.settings import build_settings
from textcraftor.config import TrainConfig
from textcraftor.diffusion.prompts import noise_seed
from textcraftor.inputs import _check_shares
from textcraftor.sources import PromptSource, SampleOrder


def test_world_training_prompts_exclude_held_out_ones() -> None:
    source = PromptSource.find("suite:world-train")
    assert len(source) == 2000
    held_out = {
        prompt.text for split in ("test", "sealed", "third", "validation") for prompt in world_prompts(split)
    }  # type: ignore[arg-type]
    assert not held_out & set(source.texts)
    assert len(PromptSource.find("suite:world-validation")) == 200


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
def test_prompt_files_of_every_format(tmp_path: Path, name: str, content: str) -> None:
    (tmp_path / name).write_text(content)
    source = PromptSource.find(str(tmp_path / name))
    assert list(source.texts) == ["a cat", "a dog"]
    assert source.sha256 == PromptSource.from_texts("", ["a cat", "a dog"]).sha256


def test_hub_data_set_stays_on_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a folder in place of a hub id, which the library loads the same way."""
    pytest.importorskip("datasets")
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    folder = tmp_path / "set"
    folder.mkdir()
    (folder / "train.csv").write_text("number,prompt,other\n1,a cat,x\n2,a  dog,y\n")
    source = PromptSource.find(f"hub:{folder}")
    assert [source.texts[0], source.texts[1]] == ["a cat", "a dog"]
    assert PromptSource.find(f"hub:{folder}:other").texts[1] == "y"
    with pytest.raises(ConfigError, match="has the columns number, prompt, other; name the one"):
        PromptSource.find(f"hub:{folder}:text")


def test_invalid_sources_are_refused(tmp_path: Path) -> None:
    for old, new in (("world", "suite:world-train"), ("world-validation", "suite:world-validation")):
        with pytest.raises(ConfigError, match=f"{old!r} is now {new!r}"):
            PromptSource.find(old)
    with pytest.raises(ConfigError, match="'suite:parti' cannot be read here"):
        PromptSource.find("suite:parti")
    with pytest.raises(FileFormatError, match="cannot read"):
        PromptSource.find(str(tmp_path / "none.txt"))
    with pytest.raises(ConfigError, match="has no default"):
        PromptSource.find("")
    (tmp_path / "empty.txt").write_text("\n")
    with pytest.raises(FileFormatError):
        PromptSource.find(str(tmp_path / "empty.txt"))


def test_epoch_has_every_prompt_once_in_its_own_order() -> None:
    order = SampleOrder(PromptSource.from_texts("", [f"prompt {n}" for n in range(10)]), seed=3)
    epochs = [[order[epoch * 10 + position].prompt for position in range(10)] for epoch in range(3)]
    assert all(sorted(epoch) == list(range(10)) for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2]
    assert epochs[0] != [SampleOrder(order.source, seed=4)[position].prompt for position in range(10)]


def test_sample_depends_on_its_number_alone() -> None:
    order = SampleOrder(PromptSource.from_texts("", [f"prompt {n}" for n in range(7)]), seed=3)
    batches = [sample for update in range(4) for sample in order.batch(update, 5).samples]
    assert batches == [order[number] for number in range(20)]
    again = SampleOrder(order.source, seed=3)
    assert again[17] == batches[17]
    assert batches[17].noise_seed == noise_seed(3, batches[17].prompt, 2)


def test_few_noises_repeat() -> None:
    order = SampleOrder(PromptSource.from_texts("", ["a", "b"]), seed=0, noises=2)
    seeds = [{order[2 * epoch + position].noise_seed for position in range(2)} for epoch in range(4)]
    assert seeds[0] == seeds[2] != seeds[1] == seeds[3]


def test_processes_share_a_batch_equally() -> None:
    batch = SampleOrder(PromptSource.from_texts("", ["a", "b", "c"]), seed=0).batch(2, 6)
    shares = [batch.share(process, 2) for process in range(2)]
    assert [[sample.number for sample in share.samples] for share in shares] == [[12, 14, 16], [13, 15, 17]]
    with pytest.raises(AssertionError):
        batch.share(0, 4)
    with pytest.raises(ConfigError, match=r"optimiser.batch = 6 is not a multiple of the 4 processes"):
        _check_shares(build_settings(TrainConfig, {"model": "", "optimiser": {"batch": 6}}, source=""), 4)
