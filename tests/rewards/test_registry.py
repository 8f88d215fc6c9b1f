from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor

import rewards
from rewards import registry
from rewards.base import Reward, score_id
from tcbench.errors import ConfigError

REWARD_FILE = """
import rewards

@rewards.register(rewards.RewardInfo("{name}", uses_prompt=False, scale="mean of the red channel"))
class Redness(rewards.Reward):
    def _score(self, pixels, prompts):
        return pixels[:, 0].mean(dim=(1, 2))

class Greenness(rewards.Reward):
    def _score(self, pixels, prompts):
        return pixels[:, 1].mean(dim=(1, 2))
"""


@pytest.fixture(autouse=True)
def _as_before(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Undo what a test registers or imports."""
    monkeypatch.setattr(registry, "_registered", dict(registry._registered))
    monkeypatch.setattr(registry, "_classes", dict(registry._classes))
    modules = set(sys.modules)
    yield
    for name in set(sys.modules) - modules:
        if name.startswith(("tcbench_file_", "plugged_")):
            del sys.modules[name]


@pytest.fixture
def orange() -> Tensor:
    """One image: red 1, green 1/2, blue 0."""
    return torch.tensor([1.0, 0.5, 0.0])[None, :, None, None].expand(1, 3, 8, 8)


def plug_in(folder: Path, monkeypatch: pytest.MonkeyPatch, points: str, **modules: str) -> None:
    """Put modules on the path as an installed distribution with these entry points."""
    record = folder / "plugged-1.0.dist-info"
    record.mkdir()
    (record / "METADATA").write_text("Metadata-Version: 2.1\nName: plugged\nVersion: 1.0\n", encoding="utf-8")
    (record / "entry_points.txt").write_text(f"[tcbench.rewards]\n{points}\n", encoding="utf-8")
    for name, source in modules.items():
        (folder / f"{name}.py").write_text(source, encoding="utf-8")
    monkeypatch.syspath_prepend(str(folder))


def test_listing_rewards_imports_no_model_library() -> None:
    program = (
        "import sys, rewards\n"
        "print(len([rewards.info(name) for name in rewards.list()]))\n"
        "heavy = {'torch', 'transformers', 'diffusers', 'open_clip', 'numpy', 'pandas', 'matplotlib'}\n"
        "print(*sorted(heavy & set(sys.modules)))\n"
    )
    root = Path(rewards.__file__).parent.parent
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, cwd=root, check=True
    )
    count, _, heavy = done.stdout.partition("\n")
    assert int(count) >= 20
    assert heavy.strip() == ""


def test_a_declaration_of_a_custom_reward_cannot_be_loaded() -> None:
    with pytest.raises(ConfigError, match=r"declares that .* a custom reward; give .* file\.py:Class"):
        rewards.info(f"custom:Mine@{'a' * 64}")


def test_unknown_name_suggests_close_matches() -> None:
    with pytest.raises(rewards.UnknownName, match="unknown reward 'world-clp'; did you mean world-clip"):
        rewards.info("world-clp")
    with pytest.raises(rewards.UnknownName, match=r"available: aesthetic-v1, .*`tcbench ls rewards`"):
        rewards.load("qqqqqqqq")


def test_registered_class_is_loaded_by_name(orange: Tensor) -> None:
    @rewards.register(rewards.RewardInfo("redness", uses_prompt=False))
    class Redness(Reward):
        def _score(self, pixels: Tensor, prompts: Sequence[str]) -> Tensor:
            return pixels[:, 0].mean(dim=(1, 2))

    assert "redness" in rewards.list()
    assert isinstance(rewards.load("redness"), Redness)
    assert rewards.score("redness", orange).tolist() == [1]


def test_register_works_as_a_call(orange: Tensor) -> None:
    class Blueness(Reward):
        def _score(self, pixels: Tensor, prompts: Sequence[str]) -> Tensor:
            return pixels[:, 2].mean(dim=(1, 2))

    rewards.register(rewards.RewardInfo("blueness"), Blueness)
    assert rewards.score("blueness", orange, ["a"]).tolist() == [0]


def test_duplicate_name_is_refused() -> None:
    with pytest.raises(ValueError, match="a reward named 'clip' exists already"):
        rewards.register(rewards.RewardInfo("clip", entry="elsewhere:Clip"))
    rewards.register(rewards.RewardInfo("mine", entry="here:Mine"))
    rewards.register(
        rewards.RewardInfo("mine", entry="here:Mine", scale="the same class again, as after a reload")
    )
    with pytest.raises(ValueError, match="a reward named 'mine' exists already"):
        rewards.register(rewards.RewardInfo("mine", entry="there:Mine"))


def test_entry_that_is_not_a_reward_is_refused() -> None:
    with pytest.raises(ValueError, match=r"pathlib:Path is not a reward; expected a class that extends"):
        rewards.load(rewards.RewardInfo("wrong", entry="pathlib:Path"))


def test_reward_in_a_file_can_be_listed_and_loaded(tmp_path: Path, orange: Tensor) -> None:
    path = tmp_path / "reward.py"
    path.write_text(REWARD_FILE.format(name="file-redness"), encoding="utf-8")
    registered, plain = rewards.info(f"{path}:Redness"), rewards.info(f"{path}:Greenness")
    assert (registered.name, registered.uses_prompt) == ("file-redness", False)
    assert (plain.name, plain.uses_prompt) == ("Greenness", True)
    assert rewards.load(f"{path}:Redness").score(orange).tolist() == [1]
    assert rewards.load(plain).score(orange, ["a"]).tolist() == [0.5]


def test_editing_a_reward_file_changes_the_score_id_and_moving_does_not(tmp_path: Path) -> None:
    path, text = tmp_path / "reward.py", REWARD_FILE.format(name="edited")
    path.write_text(text, encoding="utf-8")
    first = score_id(rewards.info(f"{path}:Redness"))
    (tmp_path / "elsewhere").mkdir()
    path = path.rename(tmp_path / "elsewhere" / "reward.py")
    assert score_id(rewards.info(f"{path}:Redness")) == first
    path.write_text(text + "# edited\n", encoding="utf-8")
    assert score_id(rewards.info(f"{path}:Redness")) != first
    assert rewards.info(f"{path}:Redness").name == "edited"


def test_two_files_cannot_register_the_same_name(tmp_path: Path) -> None:
    for number in (1, 2):
        (tmp_path / f"reward{number}.py").write_text(
            REWARD_FILE.format(name="twice") + f"# {number}\n", encoding="utf-8"
        )
    rewards.info(f"{tmp_path / 'reward1.py'}:Redness")
    with pytest.raises(
        ValueError, match=r"reward2\.py cannot be run: .* 'twice' exists already; choose another name"
    ):
        rewards.info(f"{tmp_path / 'reward2.py'}:Redness")


def test_wrong_file_or_class_is_a_one_line_error(tmp_path: Path) -> None:
    path = tmp_path / "reward.py"
    with pytest.raises(ValueError, match=r"reward\.py does not exist; .* file\.py:Class"):
        rewards.info(f"{path}:Redness")
    path.write_text(REWARD_FILE.format(name="other-redness"), encoding="utf-8")
    with pytest.raises(rewards.UnknownName, match="'Rednes'; did you mean Redness"):
        rewards.info(f"{path}:Rednes")
    path.write_text("1 / 0\n", encoding="utf-8")
    with pytest.raises(ValueError, match=r"reward\.py cannot be run: ZeroDivisionError"):
        rewards.info(f"{path}:Redness")


def test_installed_plugin_can_be_listed_and_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, orange: Tensor
) -> None:
    module = REWARD_FILE.format(name="plugged-redness")
    plug_in(tmp_path, monkeypatch, "plugged-green = plugged_a:Greenness", plugged_a=module)
    assert "plugged-green" in rewards.list()
    assert rewards.info("plugged-green").entry == "plugged_a:Greenness"
    assert rewards.load("plugged-green").score(orange, ["a"]).tolist() == [0.5]


def test_plugin_record_is_listed_without_importing_its_class(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, orange: Tensor
) -> None:
    record = (
        'from rewards.info import RewardInfo\nRED = RewardInfo("red", "plugged_c:Redness", scale="red")\n'
    )
    module = REWARD_FILE.format(name="unused")
    plug_in(tmp_path, monkeypatch, "plugged-red = plugged_b:RED", plugged_b=record, plugged_c=module)
    assert rewards.info("plugged-red").scale == "red"
    assert "plugged_c" not in sys.modules
    assert rewards.load("plugged-red").score(orange, ["a"]).tolist() == [1]


def test_broken_plugin_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plug_in(tmp_path, monkeypatch, "plugged-bad = plugged_d:Bad", plugged_d="import no_such_module\n")
    assert "plugged-bad" in rewards.list()
    with pytest.raises(ValueError, match=r"plugged-bad = plugged_d:Bad cannot be imported: .*no_such_module"):
        rewards.info("plugged-bad")


def test_plugin_with_a_built_in_name_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plug_in(tmp_path, monkeypatch, "clip = plugged_e:Clip", plugged_e="")
    with pytest.raises(ValueError, match="plugged_e:Clip has the name of the built-in reward 'clip'"):
        rewards.list()


def test_unknown_precision_is_refused() -> None:
    with pytest.raises(rewards.UnknownName, match="did you mean bfloat16"):
        rewards.load("hpsv3", dtype="bfloat")
