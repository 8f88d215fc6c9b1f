"""Suites: the pinned prompts from any source, and no other prompts under their name."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from benchmarks.suites import SUITES, find_suite, prompt_set
from benchmarks.suites.base import SuiteFile
from tcbench.errors import FileFormatError, MismatchError, MissingFiles, UnknownName

PUBLIC = ["parti", "hpsv2", "drawbench", "geneval"]


@pytest.fixture(autouse=True)
def _no_prompts_elsewhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("TCBENCH_PROMPTS", raising=False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("huggingface_hub.file_download.constants.HF_HUB_CACHE", str(tmp_path / "cache"))


@pytest.mark.parametrize("name", PUBLIC)
def test_public_files_match_the_pinned_hash(name: str, shared_data: Path) -> None:
    result = prompt_set(name, shared_data / "prompts")
    assert len(result.prompts) == find_suite(name).count
    assert [prompt.id for prompt in result.prompts] == list(range(len(result.prompts)))


@pytest.mark.parametrize("name", PUBLIC)
def test_the_environment_variable_gives_the_folder(
    name: str, shared_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert not find_suite(name).is_present()
    monkeypatch.setenv("TCBENCH_PROMPTS", str(shared_data / "prompts"))
    assert find_suite(name).is_present()
    assert prompt_set(name).sha256 == find_suite(name).sha256


def test_shipped_suites_need_no_files_and_share_no_prompts() -> None:
    names = ("world", "world-sealed", "world-third", "world-validation", "world-train")
    suites = {name: prompt_set(name) for name in names}
    assert [len(suite.prompts) for suite in suites.values()] == [1000, 1000, 1000, 200, 2000]
    for suite in suites.values():
        assert suite.domain == "world"
        assert len({prompt.category for prompt in suite.prompts}) == 5
        assert [prompt.id for prompt in suite.prompts] == list(range(len(suite.prompts)))
    texts = [prompt.text for suite in suites.values() for prompt in suite.prompts]
    assert len(set(texts)) == len(texts)


def test_parti_has_categories_and_literal_quotes(shared_data: Path) -> None:
    prompts = prompt_set("parti", shared_data / "prompts").prompts
    assert len({prompt.category for prompt in prompts}) == 12
    assert len({prompt.tags["challenge"] for prompt in prompts}) == 11
    assert any('"' in prompt.text for prompt in prompts)


def test_hpsv2_has_four_styles_of_800_and_accepts_official_file_names(
    shared_data: Path, tmp_path: Path
) -> None:
    for file in (shared_data / "prompts").glob("hpsv2_*.json"):
        shutil.copy(file, tmp_path / file.name.removeprefix("hpsv2_"))
    prompts = prompt_set("hpsv2", tmp_path).prompts
    assert [prompt.category for prompt in prompts[::800]] == ["anime", "concept-art", "paintings", "photo"]
    assert len({prompt.text for prompt in prompts}) < len(prompts)


def test_a_suite_of_one_file_accepts_the_file(shared_data: Path, tmp_path: Path) -> None:
    file = shutil.copy(shared_data / "prompts" / "drawbench.json", tmp_path / "mine.json")
    assert len(prompt_set("drawbench", Path(file)).prompts) == 200


def test_a_suite_of_several_files_requires_their_folder(shared_data: Path) -> None:
    with pytest.raises(MissingFiles, match=r"has 4 files .* give --prompts their folder"):
        prompt_set("hpsv2", shared_data / "prompts" / "hpsv2_photo.json")


def test_other_line_ends_and_a_byte_order_mark_are_the_same_prompts(
    shared_data: Path, tmp_path: Path
) -> None:
    content = (shared_data / "prompts" / "PartiPrompts.tsv").read_bytes()
    (tmp_path / "PartiPrompts.tsv").write_bytes(b"\xef\xbb\xbf" + content.replace(b"\n", b"\r\n"))
    assert prompt_set("parti", tmp_path).sha256 == find_suite("parti").sha256


def test_other_prompts_are_refused_with_both_hashes(shared_data: Path, tmp_path: Path) -> None:
    lines = (shared_data / "prompts" / "PartiPrompts.tsv").read_text().splitlines()
    (tmp_path / "PartiPrompts.tsv").write_text("\n".join([*lines[:-2], lines[-1], lines[-2]]))
    with pytest.raises(
        MismatchError,
        match=rf"1632 prompts .* but suite parti has 1632 with {find_suite('parti').sha256[:16]}",
    ):
        prompt_set("parti", tmp_path)


def test_missing_prompts_say_where_to_get_them(tmp_path: Path) -> None:
    with pytest.raises(MissingFiles, match=r"PartiPrompts.tsv not found .*nateraw.*TCBENCH_PROMPTS"):
        prompt_set("parti")
    with pytest.raises(MissingFiles, match="HF_HUB_OFFLINE is set"):
        prompt_set("parti")
    with pytest.raises(MissingFiles, match="djghosh13/geneval"):
        prompt_set("geneval", tmp_path)


def test_a_failed_download_gives_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object, **__: object) -> str:
        raise RuntimeError("the connection was reset")

    monkeypatch.setattr("benchmarks.suites.base.hub.offline_reason", lambda: "")
    monkeypatch.setattr("huggingface_hub.hf_hub_download", fails)
    with pytest.raises(MissingFiles, match=r"nateraw/parti-prompts.*; the connection was reset"):
        prompt_set("parti")


def test_the_hub_clients_cache_is_searched(shared_data: Path, tmp_path: Path) -> None:
    snapshot = tmp_path / "cache" / "datasets--nateraw--parti-prompts"
    (snapshot / "snapshots" / "abc").mkdir(parents=True)
    (snapshot / "refs").mkdir()
    (snapshot / "refs" / "main").write_text("abc")
    shutil.copy(shared_data / "prompts" / "PartiPrompts.tsv", snapshot / "snapshots" / "abc")
    assert len(prompt_set("parti").prompts) == 1632


def test_an_unknown_suite_gets_close_matches() -> None:
    with pytest.raises(UnknownName, match="did you mean parti"):
        prompt_set("patri")


def test_custom_prompts_need_a_file(tmp_path: Path) -> None:
    with pytest.raises(FileFormatError, match="needs --prompts FILE"):
        prompt_set("custom")
    with pytest.raises(FileFormatError, match="is a folder"):
        prompt_set("custom", tmp_path)


def test_custom_prompts_are_named_after_their_file(tmp_path: Path) -> None:
    (tmp_path / "pets.txt").write_text("a cat\n")
    result = prompt_set("custom", tmp_path / "pets.txt")
    assert (result.name, result.domain, len(result.prompts)) == ("custom_pets", "custom", 1)


@pytest.mark.parametrize("name", SUITES)
def test_every_suite_is_a_complete_record(name: str) -> None:
    record = find_suite(name)
    assert record.name == name
    assert record.count > 0
    assert len(record.sha256) == 64
    assert all(isinstance(source, SuiteFile) and source.names for source in record.files)
    assert record.title
    assert record.licence
    assert record.homepage


def test_the_count_is_checked_too(shared_data: Path, tmp_path: Path) -> None:
    (tmp_path / "drawbench.json").write_text('["a cat"]')
    with pytest.raises(MismatchError, match="holds 1 prompts"):
        find_suite("drawbench").load(tmp_path)
