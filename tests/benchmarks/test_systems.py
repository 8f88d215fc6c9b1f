"""Systems: named ones, folders, hub ids and TOML files."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from statistics import fmean

import pytest

from benchmarks.execution import execute_plan
from benchmarks.planning import Request, plan_run
from benchmarks.reproduce.world import METHODS
from benchmarks.systems import STYLE_WORDS, SYSTEMS, System, _read_system
from tcbench.errors import ConfigError, Problems, UnknownName
from tcbench.progress import Silent
from textcraftor.diffusion.runner import EncoderWindow
from textcraftor.diffusion.schedule import Schedule


def toml(folder: Path, text: str) -> str:
    file = folder / "mine.toml"
    file.write_text(text)
    return str(file)


def test_style_words_are_appended_for_the_pipeline_only() -> None:
    system = System.find("micro+style-words")
    assert (system.append, System.find("micro").append) == (STYLE_WORDS, "")
    assert system.pipeline == System.find("micro").pipeline


@pytest.mark.parametrize("name", SYSTEMS)
def test_every_named_system_is_shipped_or_pins_its_download(name: str) -> None:
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


def test_systems_of_the_comparison_are_shipped_and_declare_their_rewards() -> None:
    for name in ("micro-textcraftor", "micro-ddpo", "micro-promptist"):
        system = SYSTEMS[name]
        assert system.method in {method.title for method in METHODS.values()}
        assert set(system.trained_on or ()) == {"world-aesthetic", "world-pick", "world-hps", "world-clip"}
        for folder in system.encoders.values():
            assert (folder / "text_encoder" / "model.safetensors").is_file()


def test_the_shipped_encoder_makes_better_pictures(tmp_path: Path) -> None:
    means = {}
    for name in ("micro", "micro-textcraftor"):
        request = Request(
            name, suite="world-validation", limit=12, rewards=["world-rule"], device="cpu", out=tmp_path
        )
        run = execute_plan(plan_run(request), Silent()).run
        (scores,) = (run.scores(score_set) for score_set in run.score_sets)
        means[name] = fmean(score.score for score in scores.values() if score.score is not None)
    assert means["micro-textcraftor"] > means["micro"] + 1


def test_a_folder_is_named_after_itself(tmp_path: Path) -> None:
    (tmp_path / "pipe").mkdir()
    system = System.find(str(tmp_path / "pipe"))
    assert (system.name, system.pipeline) == ("pipe", str(tmp_path / "pipe"))


def test_a_hub_id_is_a_system() -> None:
    system = System.find("someone/model")
    assert (system.name, system.pipeline, system.revision) == ("someone_model", "someone/model", None)
    assert System.find("someone/model@abc") == replace(system, revision="abc")


def test_an_unknown_name_gets_close_matches() -> None:
    with pytest.raises(UnknownName, match="did you mean sd15"):
        System.find("sd1.5")


def test_a_toml_file_changes_a_base(tmp_path: Path) -> None:
    system = System.find(
        toml(tmp_path, 'base = "micro"\nappend = ", bright"\nrewards = ["clip"]\n[schedule]\nguidance = 5\n')
    )
    assert (system.name, system.append, system.rewards) == ("mine", ", bright", ("clip",))
    assert system.schedule == Schedule("ddim", 25, 5.0)
    assert system.trained_on == ()


def test_paths_in_a_toml_file_are_relative_to_it(tmp_path: Path) -> None:
    (tmp_path / "pipe").mkdir()
    system = System.find(toml(tmp_path, 'pipeline = "pipe"\nschedule.size = [64, 32]\n'))
    assert (system.pipeline, system.schedule.size) == (str(tmp_path / "pipe"), (64, 32))


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        ("pipeline = ", ConfigError, "is not TOML"),
        ("schedule.steps = 3", ConfigError, "no pipeline; set `pipeline`"),
        ('base = "micro"\nschedule.steps = "many"', ConfigError, "steps = 'many'; expected a whole number"),
        ('base = "micro"\nschedule.steps = true', ConfigError, "steps = True; expected a whole number"),
        ('base = "micro"\nschedule.size = [64]', ConfigError, r"size = \[64\]; expected a list of 2 whole"),
        ('base = "micro"\nschedule.guidence = 3', UnknownName, "did you mean schedule.guidance"),
        ('base = "micro"\nrewritter = "x"', UnknownName, "unknown key 'rewritter'; did you mean rewriter"),
        ('bse = "micro"\npipeline = "x"', UnknownName, "unknown key 'bse'; did you mean base"),
        ('base = "micro"\nschedule.sampler = "dimm"', UnknownName, "did you mean ddim"),
        ('base = "micr"', UnknownName, "did you mean micro"),
        ("base = 3", ConfigError, "base = 3; expected the name of a system"),
        ('base = "system.toml"', UnknownName, "mine.toml: unknown base 'system.toml'"),
        ('base = "micro"\nschedule.steps = 0', ConfigError, "steps = 0; expected at least 1"),
        ('base = "micro"\nschedule.guidance = -3', ConfigError, "guidance = -3; expected at least 0"),
        ('base = "micro"\nschedule.size = [4, 4]', ConfigError, r"size = \[4, 4\]; expected each at least 8"),
        ('base = "micro"\nrewards = [1]', ConfigError, r"rewards = \[1\]; expected a list of names"),
        ('base = "micro"\ndtype = "fp16"', UnknownName, "unknown dtype 'fp16'"),
        ('base = "micro"\nbest_of = 2', ConfigError, "best_of = 2 with test_time_reward = ''; set a reward"),
        ('base = "micro"\n[[windows]]\ntuned_steps = 2', ConfigError, r"windows\[0\].weights is missing"),
        (
            'base = "micro"\nschedule.eta = 1.0\nschedule.sampler = "euler"',
            ConfigError,
            "mine.toml: eta = 1 with sampler 'euler'; only \"ddim\" supports eta",
        ),
    ],
)
def test_each_mistake_in_a_toml_file_is_one_line(
    tmp_path: Path, text: str, error: type[ValueError], message: str
) -> None:
    with pytest.raises(error, match=message) as raised:
        System.find(toml(tmp_path, text))
    assert "\n" not in str(raised.value)


def test_an_old_key_names_the_new_one(tmp_path: Path) -> None:
    old = {
        "steps = 3": "'steps' is now 'schedule.steps'",
        'chooser = "clip=1"': "'chooser' is now 'test_time_reward'",
        'best_of_reward = "clip=1"': "'best_of_reward' is now 'test_time_reward'",
        '[[windows]]\nshare = 0.6\nweights = { "ckpt" = 1 }': "'windows.share' is now 'windows.tuned_steps'",
    }
    for text, message in old.items():
        with pytest.raises(ConfigError, match=f"mine.toml: {message}$"):
            System.find(toml(tmp_path, f'base = "micro"\n{text}'))


def test_a_checkpoint_of_an_earlier_version_is_read(tmp_path: Path) -> None:
    (tmp_path / "system.toml").write_text(
        'base = "micro"\ntrained_on = ["clip"]\nsampler = "ddim"\nsteps = 20\nguidance = 3.0\n\n'
        '[[windows]]\nshare = 0.6\nweights = { "best" = 1.0 }\n'
    )
    (tmp_path / "best").mkdir()
    system = System.find(str(tmp_path))
    (window,) = system.windows
    assert system.schedule == Schedule("ddim", 20, 3.0)
    assert window == EncoderWindow({str(tmp_path / "best"): 1.0}, 12)
    assert system.trained_on == ("clip",)


def test_tuned_steps_keep_their_share_of_other_steps() -> None:
    window = EncoderWindow({"ckpt": 1.0})
    system = replace(SYSTEMS["micro"], windows=(window,), schedule=Schedule(steps=25, tuned_steps=15))
    for changes, expected in (
        ({"steps": 50}, (50, 30)),
        ({"steps": 1}, (1, 1)),
        ({"tuned_steps": 10}, (25, 10)),
        ({"steps": 50, "tuned_steps": 10}, (50, 10)),
        ({"guidance": 2.0, "steps": None}, (25, 15)),
    ):
        schedule = system.with_schedule(**changes).schedule
        assert (schedule.steps, window.steps(schedule)) == expected
    whole = replace(system, schedule=Schedule(steps=25)).with_schedule(steps=10).schedule
    assert window.steps(whole) == 10


def test_a_byte_order_mark_in_a_toml_file_is_ignored(tmp_path: Path) -> None:
    assert System.find(toml(tmp_path, '\ufeffbase = "micro"\nschedule.steps = 3')).schedule.steps == 3


def test_a_missing_toml_file_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"cannot read .*none\.toml: No such file"):
        System.find(str(tmp_path / "none.toml"))


def test_a_rewriter_declares_its_training_rewards(tmp_path: Path) -> None:
    file = tmp_path / "s.toml"
    for name, expected in (("promptist", ("aesthetic-v2", "clip")), ("world-extend", ())):
        file.write_text(f'base = "sd15"\nrewriter = "{name}"\n')
        assert _read_system(file).trained_on == expected
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "rewriter.toml").write_text("beams = 2\n")
    file.write_text('base = "sd15"\nrewriter = "own"\n')
    assert _read_system(file).trained_on is None  # undeclared
    file.write_text('base = "sd15"\nrewriter = "own"\ntrained_on = ["pickscore"]\n')
    assert _read_system(file).trained_on == ("pickscore",)
    (tmp_path / "own" / "rewriter.toml").write_text('trained_on = ["hpsv2"]\n')
    file.write_text('base = "sd15"\nrewriter = "own"\n')
    assert _read_system(file).trained_on == ("hpsv2",)


def test_a_misspelt_training_reward_is_refused_with_close_matches(tmp_path: Path) -> None:
    for name, match in (
        ("World-Clip", "world-clip"), ("world_clip", "world-clip"), ("pickscor", "pickscore"),
        ("PICKSCORE", "pickscore"), ("mine.py:Mine", "custom:NAME@SHA256"),
    ):  # fmt: skip
        with pytest.raises(UnknownName, match=f"unknown training reward '{name}'; .*{match}"):
            System.find(toml(tmp_path, f'base = "micro"\ntrained_on = ["clip", "{name}"]'))
    with pytest.raises(Problems) as problems:
        System.find(toml(tmp_path, 'base = "micro"\ntrained_on = ["hpsv", "pickscor"]'))
    assert len(problems.value.errors) == 2
    with pytest.raises(UnknownName, match="'pickscor'; did you mean pickscore"):  # text stands for one name
        System.find(toml(tmp_path, 'base = "micro"\ntrained_on = "pickscor"'))


@pytest.mark.parametrize(
    "name", ["custom:mine", "custom:mine@12", f"custom:@{'a' * 64}", "custom:m@" + "G" * 64]
)
def test_an_invalid_declaration_of_a_custom_reward_names_the_format(tmp_path: Path, name: str) -> None:
    message = f"{name!r} does not declare a custom reward; expected custom:<name>@<sha256 of 64 hex digits>"
    with pytest.raises(ConfigError, match=re.escape(message)) as raised:
        System.find(toml(tmp_path, f'base = "micro"\ntrained_on = ["clip", "{name}"]'))
    assert len(str(raised.value).removeprefix(str(tmp_path))) < 250


def test_an_unknown_training_reward_without_close_matches_has_a_short_message(tmp_path: Path) -> None:
    with pytest.raises(UnknownName, match=r"`tcbench ls rewards`") as raised:
        System.find(toml(tmp_path, 'base = "micro"\ntrained_on = ["zzzzzzzz"]'))
    assert len(str(raised.value).removeprefix(str(tmp_path))) < 300


def test_a_saved_system_keeps_what_differs_from_its_base(tmp_path: Path) -> None:
    micro = System.find("micro")
    own = replace(micro, weights=("*/*.bin",), suite="parti", rewards=("clip",), domain="open")
    own.save(tmp_path)
    assert 'base = "micro"' in (tmp_path / "system.toml").read_text()
    saved = System.find(str(tmp_path))
    assert (saved.suite, saved.rewards, saved.domain) == ("parti", ("clip",), "open")


def test_own_rewards_and_any_clip_can_be_declared(tmp_path: Path) -> None:
    names = ("clip:laion/CLIP-ViT-H-14@main", f"custom:mine.py:Mine@{'0' * 64}")
    (tmp_path / "mine.py").write_text("raise AssertionError('imported')\n")
    declared = ", ".join(f'"{name}"' for name in names)
    assert System.find(toml(tmp_path, f'base = "micro"\ntrained_on = [{declared}]')).trained_on == names
    assert System.reward_families(names)["trained_on_unknown"] == []


def test_a_file_from_elsewhere_may_declare_rewards_that_are_unknown_here(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("raise AssertionError('imported')\n")
    names = ["pickscor", f"{tmp_path}/mine.py:Mine", "pickscore"]
    (tmp_path / "system.toml").write_text(f'base = "micro"\ntrained_on = {json.dumps(names)}\n')
    families = System.reward_families(System.find(str(tmp_path)).trained_on or ())
    assert families == {"trained_on_families": ["clip"], "trained_on_unknown": names[:2]}
