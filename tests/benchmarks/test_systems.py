"""Systems: named ones, folders, hub ids and TOML files."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.systems import STYLE_WORDS, SYSTEMS, find_system, read_system
from tcbench.errors import ConfigError, UnknownName


def toml(folder: Path, text: str) -> str:
    file = folder / "mine.toml"
    file.write_text(text)
    return str(file)


def test_style_words_are_appended_for_the_pipeline_alone() -> None:
    system = find_system("micro+style-words")
    assert (system.append, find_system("micro").append) == (STYLE_WORDS, "")
    assert system.pipeline == find_system("micro").pipeline


@pytest.mark.parametrize("name", SYSTEMS)
def test_every_named_system_is_shipped_or_says_what_it_downloads(name: str) -> None:
    system = SYSTEMS[name]
    assert system.name == name
    if system.gigabytes is None:
        assert Path(system.pipeline).is_absolute()
    else:
        assert len(str(system.revision)) == 40
        text = str(system.source)
        assert system.pipeline in text
        assert f"{system.gigabytes} GB" in text
        assert all(file in text and file.endswith(".safetensors") for file in system.weights)


def test_a_folder_is_named_after_itself(tmp_path: Path) -> None:
    (tmp_path / "pipe").mkdir()
    system = find_system(str(tmp_path / "pipe"))
    assert (system.name, system.pipeline) == ("pipe", str(tmp_path / "pipe"))


def test_a_hub_id_is_taken_as_one() -> None:
    system = find_system("someone/model")
    assert (system.name, system.pipeline) == ("someone_model", "someone/model")


def test_an_unknown_name_gets_close_matches() -> None:
    with pytest.raises(UnknownName, match="did you mean sd15"):
        find_system("sd1.5")


def test_a_toml_file_changes_a_base(tmp_path: Path) -> None:
    system = find_system(
        toml(tmp_path, 'base = "micro"\nguidance = 5\nappend = ", bright"\nrewards = ["clip"]\n')
    )
    assert (system.name, system.guidance, system.append, system.rewards) == ("mine", 5, ", bright", ("clip",))
    assert system.steps == SYSTEMS["micro"].steps


def test_a_toml_files_paths_are_beside_it(tmp_path: Path) -> None:
    (tmp_path / "pipe").mkdir()
    system = find_system(toml(tmp_path, 'pipeline = "pipe"\nsize = [64, 32]\n'))
    assert (system.pipeline, system.size) == (str(tmp_path / "pipe"), (64, 32))


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        ("pipeline = ", ConfigError, "is not TOML"),
        ("steps = 3", ConfigError, "give `pipeline`"),
        ('base = "micro"\nsteps = "many"', ConfigError, "steps = 'many'; expected int"),
        ('base = "micro"\nsteps = true', ConfigError, "steps = True; expected int"),
        ('base = "micro"\nsize = [64]', ConfigError, r"expected \[height, width\]"),
        ('base = "micro"\nguidence = 3', UnknownName, "did you mean guidance"),
        ('base = "micro"\nsampler = "dimm"', UnknownName, "did you mean ddim"),
        ('base = "micr"', UnknownName, "did you mean micro"),
        ("base = 3", ConfigError, "base = 3; expected the name of a system"),
        ('base = "system.toml"', UnknownName, "unknown base of .* 'system.toml'"),
        ('base = "micro"\nsteps = 0', ConfigError, "steps is 0; expected at least 1"),
        ('base = "micro"\nguidance = -3', ConfigError, "guidance is -3; expected at least 0"),
        ('base = "micro"\nsize = [4, 4]', ConfigError, r"size is \[4, 4\]; expected"),
        ('base = "micro"\nrewards = [1]', ConfigError, r"rewards = \[1\]; expected list of str"),
        ('base = "micro"\ndtype = "fp16"', UnknownName, "unknown dtype 'fp16'"),
    ],
)
def test_a_bad_toml_file_is_one_line(
    tmp_path: Path, text: str, error: type[ValueError], message: str
) -> None:
    with pytest.raises(error, match=message):
        find_system(toml(tmp_path, text))


def test_a_byte_order_mark_is_no_part_of_a_toml_file(tmp_path: Path) -> None:
    assert find_system(toml(tmp_path, '\ufeffbase = "micro"\nsteps = 3')).steps == 3


def test_a_missing_toml_file_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot read system file"):
        find_system(str(tmp_path / "none.toml"))


def test_a_rewriter_says_what_it_was_optimised_for(tmp_path: Path) -> None:
    file = tmp_path / "s.toml"
    for name, expected in (("promptist", ("aesthetic-v2", "clip")), ("world-extend", ())):
        file.write_text(f'base = "sd15"\nrewriter = "{name}"\n')
        assert read_system(file).trained_on == expected
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "rewriter.toml").write_text("beams = 2\n")
    file.write_text('base = "sd15"\nrewriter = "own"\n')
    assert read_system(file).trained_on is None  # nobody says
    file.write_text('base = "sd15"\nrewriter = "own"\ntrained_on = ["pickscore"]\n')
    assert read_system(file).trained_on == ("pickscore",)
    (tmp_path / "own" / "rewriter.toml").write_text('trained_on = ["hpsv2"]\n')
    file.write_text('base = "sd15"\nrewriter = "own"\n')
    assert read_system(file).trained_on == ("hpsv2",)


def test_noise_is_refused_where_a_sampler_has_none(tmp_path: Path) -> None:
    file = tmp_path / "s.toml"
    file.write_text('base = "sd15"\nsampler = "euler"\neta = 1.0\n')
    with pytest.raises(ConfigError, match='only "ddim" supports eta'):
        read_system(file)
