"""Checkpoints as systems: tuned steps, encoder mixes, sweeps and exports."""

from __future__ import annotations

import csv
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from unittest.mock import Mock

import pytest
import torch
from safetensors.torch import load_file, save_file

from benchmarks.cli import main
from benchmarks.execution import execute_plan
from benchmarks.mixes import export_system, mix_encoders
from benchmarks.planning import Request, plan_run
from benchmarks.sweep import Sweep, run_sweep
from benchmarks.systems import System
from leaderboards.run_state import RunState
from tcbench.errors import ConfigError
from tcbench.progress import Silent
from textcraftor.config import make_config
from textcraftor.diffusion.models import Model
from textcraftor.diffusion.pipeline import MICRO
from textcraftor.diffusion.runner import EncoderWindow
from textcraftor.io.mixing import average_weights, parse_weights
from textcraftor.training import train


@pytest.fixture(scope="module")
def checkpoints(tiny_pipeline: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two training runs, a and b."""
    folder = tmp_path_factory.mktemp("checkpoints")
    (folder / "toys.py").write_text(
        "from rewards import Reward, RewardInfo, register\n"
        '@register(RewardInfo("mix-red", uses_prompt=False))\n'
        "class Red(Reward):\n"
        "    def _score(self, pixels, prompts):\n"
        "        return pixels[:, 0].mean((1, 2)) - pixels[:, 1:].mean((1, 2, 3))\n"
        '@register(RewardInfo("mix-dark", uses_prompt=False))\n'
        "class Dark(Reward):\n"
        "    def _score(self, pixels, prompts):\n"
        "        return -pixels.mean((1, 2, 3))\n"
    )
    (folder / "prompts.txt").write_text("a cat\na dog\n")
    for name, reward in (("a", "Red"), ("b", "Dark")):
        config = make_config(
            str(tiny_pipeline),
            overrides={
                "rewards.mix": f"{folder / 'toys.py'}:{reward}=1",
                "data.prompts": str(folder / "prompts.txt"),
                "schedule.steps": 4,
                "schedule.tuned_steps": 2,
                "schedule.guidance": 3.0,
                "optimiser.batch": 2,
                "optimiser.updates": 3,
                "optimiser.lr": 1e-2,
                "validation.every": 0,
                "validation.eval_tuned_steps": 2,
            },
        )
        train(config, folder / name, device="cpu")
    return folder


@pytest.fixture
def asked(toy_rewards: Path, prompt_file: Path, tmp_path: Path) -> Callable[..., RunState]:
    """Runs a model on eight prompts."""

    def go(model: Path, **changes: int) -> RunState:
        request = Request(
            model=str(model),
            prompts=prompt_file,
            rewards=[f"{toy_rewards}:Brightness"],
            device="cpu",
            batch_size=8,
            out=tmp_path / "runs",
            **changes,  # type: ignore[arg-type]
        )
        return RunState(execute_plan(plan_run(request), Silent()).path)

    return go


def hashes(run: RunState) -> list[str | None]:
    return [sample.sha256 for _, sample in sorted(run.samples.items())]


def test_a_checkpoint_is_a_system_that_declares_its_training_rewards(
    checkpoints: Path, asked: Callable[..., RunState]
) -> None:
    system = System.find(str(checkpoints / "a"))
    assert (system.name, system.schedule.steps, system.schedule.guidance) == ("a", 4, 3.0)
    assert len(system.trained_on) == 1
    result = asked(checkpoints / "a")
    assert result.header.details["trained_on"] == list(system.trained_on)
    assert result.header.generation["windows"][0][0] == 2
    newest = sorted((checkpoints / "a" / "checkpoints").iterdir())[-1]
    assert hashes(asked(newest)) == hashes(result)  # each checkpoint is one too


def test_a_moved_checkpoint_has_the_same_generation_id(
    checkpoints: Path, asked: Callable[..., RunState], tmp_path: Path
) -> None:
    moved = Path(shutil.copytree(checkpoints / "a", tmp_path / "moved" / "a"))
    assert asked(moved).header.generation_id == asked(checkpoints / "a").header.generation_id


def test_tuned_steps_change_the_images(checkpoints: Path, asked: Callable[..., RunState]) -> None:
    own, longer = asked(checkpoints / "a"), asked(checkpoints / "a", tuned_steps=4)
    assert own.header.generation_id != longer.header.generation_id
    assert hashes(own) != hashes(longer)
    assert asked(checkpoints / "a", tuned_steps=2).header.generation_id == own.header.generation_id
    with pytest.raises(ValueError, match="tuned_steps = 5 is more than steps = 4"):
        asked(checkpoints / "a", tuned_steps=5)
    with pytest.raises(ValueError, match="micro has no tuned text encoder"):
        System.find("micro").with_schedule(tuned_steps=3)


def test_other_steps_keep_the_share_of_tuned_steps(checkpoints: Path, asked: Callable[..., RunState]) -> None:
    assert asked(checkpoints / "a", steps=6).header.generation["windows"][0][0] == 3


def test_mixes_in_embedding_space(checkpoints: Path, asked: Callable[..., RunState], tmp_path: Path) -> None:
    a, b = str(checkpoints / "a"), str(checkpoints / "b")
    mix_encoders({a: 0.5, "original": 0.5}, tmp_path / "half")
    mix_encoders({a: 1.0}, tmp_path / "whole")
    mix_encoders({a: 0.4, b: 0.4, "original": 0.2}, tmp_path / "style")
    assert hashes(asked(tmp_path / "whole")) == hashes(asked(checkpoints / "a"))
    assert hashes(asked(tmp_path / "half")) != hashes(asked(checkpoints / "a"))
    style = System.find(str(tmp_path / "style"))
    assert len(style.trained_on) == 2
    mix_encoders({str(tmp_path / "half"): 0.5, b: 0.5}, tmp_path / "nested")
    (window,) = System.find(str(tmp_path / "nested")).windows
    assert sorted(window.weights.values()) == [0.25, 0.25, 0.5]


def test_mixes_in_weight_space(checkpoints: Path, tiny_pipeline: Path, tmp_path: Path) -> None:
    mix_encoders({str(checkpoints / "a"): 0.25, "original": 0.75}, tmp_path / "mixed", in_weights=True)
    name = "text_encoder/model.safetensors"
    mixed, tuned = load_file(tmp_path / "mixed" / name), load_file(checkpoints / "a" / "best" / name)
    plain = load_file(tiny_pipeline / name)
    key = "text_model.encoder.layers.0.self_attn.q_proj.weight"
    own = plain.get(key, plain.get(key.removeprefix("text_model.")))
    assert own is not None
    torch.testing.assert_close(mixed[key], 0.25 * tuned[key] + 0.75 * own)
    assert System.find(str(tmp_path / "mixed")).windows[0].weights == {str(tmp_path / "mixed"): 1.0}


def test_invalid_mixes_are_refused(checkpoints: Path, tmp_path: Path) -> None:
    a = str(checkpoints / "a")
    with pytest.raises(ConfigError, match="needs at least one tuned system"):
        mix_encoders({"original": 1.0}, tmp_path / "x")
    with pytest.raises(ConfigError, match="micro has no tuned text encoder"):
        mix_encoders({"micro": 1.0}, tmp_path / "x")
    mix_encoders({a: 1.0}, tmp_path / "x")
    with pytest.raises(ConfigError, match="exists already"):
        mix_encoders({a: 1.0}, tmp_path / "x")
    for terms, message in (
        (["a"], "invalid term"), (["a=x"], "invalid term"), (["a=1", "a=2"], "twice"), (["a=0"], "positive"),
    ):  # fmt: skip
        with pytest.raises(ConfigError, match=message):
            parse_weights(terms)


def test_weights_that_do_not_sum_to_1_are_refused(checkpoints: Path, tmp_path: Path) -> None:
    a, b = str(checkpoints / "a"), str(checkpoints / "b")
    for terms, message in (
        (["a=0.5"], r"a=0.5 sum to 0.5; another.* 1 .*add original=0.5, change them or pass --normalise"),
        (["a=0.5", "b=0.6"], r"a=0.5, b=0.6 sum to 1.1; another.*embeddings: change them or pass"),
        (["a=1", "original=-1"], "sum to 0; .*give positive weights"),
        (["a=nan"], "sum to nan"), (["a=inf"], "sum to inf"),
    ):  # fmt: skip
        with pytest.raises(ConfigError, match=message):
            parse_weights(terms)
    for in_weights in (False, True):
        with pytest.raises(ConfigError, match=r"a=0.5, .*b=0.6 sum to 1.1"):
            mix_encoders({a: 0.5, b: 0.6}, tmp_path / "mix", in_weights=in_weights)
    with pytest.raises(ConfigError, match=r"sum to 0\.5"):
        average_weights({checkpoints / "a" / "best": 0.5}, tmp_path / "mix")
    assert not (tmp_path / "mix").exists()
    (tmp_path / "mine.toml").write_text(f'base = "micro"\n[[windows]]\nweights = {{ "{a}/best" = 0.5 }}\n')
    with pytest.raises(ConfigError, match=r"mine\.toml.*sum to 0\.5"):
        System.find(str(tmp_path / "mine.toml"))
    with pytest.raises(ConfigError, match="expected a table of finite numbers"):
        list(run_sweep(Sweep(model=a, out=tmp_path / "sweep", strengths=(float("nan"),)), Silent()))


def test_weights_are_divided_by_their_sum(checkpoints: Path, tmp_path: Path) -> None:
    assert parse_weights(["a=1", "b=3"], normalise=True) == {"a": 0.25, "b": 0.75}
    a, b = str(checkpoints / "a"), str(checkpoints / "b")
    with pytest.raises(SystemExit) as done:
        main(["mix", f"{a}=1", f"{b}=1", "--normalise", "--out", str(tmp_path / "mix")])
    assert not done.value.code
    (window,) = System.find(str(tmp_path / "mix")).windows
    assert list(window.weights.values()) == [0.5, 0.5]


def test_a_sweep_writes_a_table_and_figures(
    checkpoints: Path, toy_rewards: Path, prompt_file: Path, tmp_path: Path
) -> None:
    asked = Sweep(
        model=str(checkpoints / "a"),
        out=tmp_path / "sweep",
        strengths=(1.0, 0.0, 0.5),
        tuned_steps=(1, 2),
        prompts=prompt_file,
        rewards=[f"{toy_rewards}:Brightness"],
        device="cpu",
    )
    files = list(run_sweep(asked, Silent()))
    assert [file.name for file in files] == ["sweep.csv", "curves.png", "grid.png"]
    rows = list(csv.DictReader(files[0].read_text().splitlines()))
    assert [(row["strength"], row["tuned_steps"]) for row in rows] == [
        ("0", "1"), ("0.5", "1"), ("1", "1"), ("0", "2"), ("0.5", "2"), ("1", "2"),
    ]  # fmt: skip
    first, half, whole = (float(row["mean"]) for row in rows[3:])
    assert float(rows[5]["change"]) == pytest.approx(whole - first, abs=1e-5)
    assert float(rows[5]["step"]) == pytest.approx(whole - half, abs=1e-5)
    assert float(rows[3]["change"]) == 0
    before = {file: file.stat().st_mtime_ns for file in (tmp_path / "sweep" / "runs").rglob("*.png")}
    list(run_sweep(asked, Silent()))  # again: nothing is sampled again
    assert before == {file: file.stat().st_mtime_ns for file in (tmp_path / "sweep" / "runs").rglob("*.png")}


def test_a_sweep_requires_a_tuned_encoder(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="micro has no tuned text encoder"):
        list(run_sweep(Sweep(model="micro", out=tmp_path / "sweep", strengths=(1.0,)), Silent()))
    assert not (tmp_path / "sweep").exists()


def test_exports_of_systems(checkpoints: Path, tmp_path: Path) -> None:
    a = str(checkpoints / "a")
    export_system(a, "diffusers", tmp_path / "diffusers")
    assert (tmp_path / "diffusers" / "model_index.json").is_file()
    export_system(a, "single-file", tmp_path / "single")
    with pytest.raises(ConfigError, match="no adapters"):
        export_system(a, "lora", tmp_path / "lora")
    mix_encoders({a: 0.5, "original": 0.5}, tmp_path / "half")
    with pytest.raises(ConfigError, match="not one tuned encoder"):
        export_system(str(tmp_path / "half"), "diffusers", tmp_path / "none")


def test_an_interrupted_export_leaves_nothing(
    checkpoints: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(System, "save", Mock(side_effect=KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            export_system(str(checkpoints / "a"), "diffusers", tmp_path / "out")
    assert list(tmp_path.iterdir()) == []
    export_system(str(checkpoints / "a"), "diffusers", tmp_path / "out")
    assert [folder.name for folder in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize("in_weights", [False, True])
def test_an_interrupted_mix_leaves_nothing(
    checkpoints: Path, in_weights: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = {str(checkpoints / name): 0.5 for name in "ab"}
    with monkeypatch.context() as patch:
        patch.setattr(System, "save", Mock(side_effect=KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            mix_encoders(weights, tmp_path / "mix", in_weights=in_weights)
    assert list(tmp_path.iterdir()) == []
    mix = mix_encoders(weights, tmp_path / "mix", in_weights=in_weights)
    assert System.find(str(tmp_path / "mix")).windows == mix.windows


def test_an_exported_pipeline_samples_as_its_system(
    checkpoints: Path, asked: Callable[..., RunState], tmp_path: Path
) -> None:
    """Two of four steps use the tuned encoder, also after the export was moved."""
    export_system(str(checkpoints / "a"), "diffusers", tmp_path / "out")
    system, exported = System.find(str(checkpoints / "a")), System.find(str(tmp_path / "out"))
    assert (exported.schedule, exported.trained_on) == (system.schedule, system.trained_on)
    result = asked(tmp_path / "out")
    assert hashes(result) == hashes(asked(checkpoints / "a"))
    moved = Path(shutil.move(tmp_path / "out", tmp_path / "moved"))
    assert asked(moved).header.generation_id == result.header.generation_id


def test_an_export_keeps_the_components_and_adapters_of_its_system(
    checkpoints: Path, asked: Callable[..., RunState], tiny_pipeline: Path, tmp_path: Path
) -> None:
    vae = Path(shutil.copytree(tiny_pipeline / "vae", tmp_path / "vae"))
    weights = load_file(vae / "diffusion_pytorch_model.safetensors")
    save_file({k: 1.2 * v for k, v in weights.items()}, vae / "diffusion_pytorch_model.safetensors")
    generator = torch.Generator().manual_seed(0)
    layer = "unet.up_blocks.1.attentions.0.transformer_blocks.0.attn2.to_q.lora"
    style = {
        f"{layer}.{matrix}.weight": torch.randn(shape, generator=generator)
        for matrix, shape in (("down", (2, 8)), ("up", (8, 2)))
    }
    save_file(style, tmp_path / "style.safetensors")
    (tmp_path / "mine.toml").write_text(
        f'pipeline = "{tiny_pipeline}"\nvae = "vae"\nlora = "style.safetensors"\ntrained_on = []\n'
        f'[schedule]\nsteps = 2\n[[windows]]\nweights = {{ "{checkpoints}/a/best" = 1.0 }}\n'
    )
    export_system(str(tmp_path / "mine.toml"), "diffusers", tmp_path / "out")
    expected = hashes(asked(tmp_path / "mine.toml"))
    for name in ("vae", "style.safetensors"):
        (tmp_path / name).rename(tmp_path / f"moved-{name}")
    assert hashes(asked(tmp_path / "out")) == expected
    assert expected != hashes(asked(checkpoints / "a", steps=2, tuned_steps=2))


def test_an_exported_pipeline_has_the_defaults_of_its_base(tmp_path: Path) -> None:
    shutil.copytree(MICRO / "text_encoder", tmp_path / "tuned" / "text_encoder")
    window = EncoderWindow({str(tmp_path / "tuned"): 1.0})
    micro = System.find("micro")
    schedule = replace(micro.schedule, sampler="euler", steps=30, tuned_steps=0)
    replace(micro, windows=(window,), schedule=schedule, append=", vivid").save(tmp_path / "tuned")
    export_system(str(tmp_path / "tuned"), "diffusers", tmp_path / "out")
    exported = System.find(str(tmp_path / "out"))
    for name in ("suite", "rewards", "domain", "dtype", "append"):
        assert getattr(exported, name) == getattr(System.find(str(tmp_path / "tuned")), name)
    assert (exported.suite, exported.schedule) == ("world", schedule)
    assert not exported.windows  # all steps use the tuned encoder, which is the pipeline's own
    assert not (tmp_path / "out" / "original").exists()
    assert exported.source.find() == tmp_path / "out"
    assert Model.find(str(tmp_path / "out")).guidance == micro.schedule.guidance  # for further training


def test_a_mix_keeps_the_suite_of_a_system_without_a_named_base(checkpoints: Path, tmp_path: Path) -> None:
    a = checkpoints / "a"
    (tmp_path / "mine.toml").write_text(
        f'pipeline = "{MICRO}"\nsuite = "world"\nrewards = ["world-clip"]\ndomain = "world"\n'
        f'[[windows]]\nweights = {{ "{a}/best" = 1.0 }}\n'
    )
    mix_encoders({str(tmp_path / "mine.toml"): 1.0}, tmp_path / "mix")
    mix = System.find(str(tmp_path / "mix"))
    assert (mix.suite, mix.rewards, mix.domain) == ("world", ("world-clip",), "world")
