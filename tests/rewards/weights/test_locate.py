from __future__ import annotations

import hashlib
import os
import re
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

import rewards
from rewards.base import Reward, score_id
from rewards.info import RewardInfo, WeightsFile
from rewards.weights.locate import _environment_variable, content_id, locate_weights
from rewards.weights.lock import WeightsLock
from rewards.weights.tensors import load_state, read_tensors
from tcbench.errors import MismatchError, MissingFiles

COMMIT = "abc1" * 10
HEAD = WeightsFile("head", file="head.pth", hub="someone/something", revision=COMMIT, megabytes=4)
FOLDER = WeightsFile("model", patterns=("config.json", "*.safetensors"), hub="someone/something")
INFO = RewardInfo("my-reward.1", weights=(HEAD,))
Fill = Callable[[Mapping[str, bytes], str], Path]

VARIABLE = "TCBENCH_WEIGHTS_MY_REWARD_1_HEAD"


@pytest.fixture(autouse=True)
def _no_hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def test_missing_weights_error_says_how_to_get_them() -> None:
    with pytest.raises(MissingFiles) as error:
        locate_weights(INFO)
    message = str(error.value)
    assert "\n" not in message
    for part in (
        "my-reward.1",
        "head.pth",
        "4 MB",
        "hf download someone/something head.pth --revision " + COMMIT,
        VARIABLE,
    ):
        assert part in message


def test_missing_weights_of_published_rewards_name_their_source(tmp_path: Path) -> None:
    for name in rewards.list():
        for file in rewards.info(name).weights:
            if not file.package:
                lone = replace(rewards.info(name), weights=(file,), consent="")
                with pytest.raises(MissingFiles, match=re.escape(file.hub or file.url)) as error:
                    locate_weights(lone, fetch=False)
                assert _environment_variable(name, file.key) in str(error.value)


def test_local_copies_by_argument_and_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("one.pth", "two.pth"):
        (tmp_path / name).write_text(name, encoding="utf-8")
    monkeypatch.setenv(VARIABLE, str(tmp_path / "one.pth"))
    assert locate_weights(INFO) == {"head": tmp_path / "one.pth"}
    assert locate_weights(INFO, {"head": tmp_path / "two.pth"}) == {"head": tmp_path / "two.pth"}
    monkeypatch.setenv(VARIABLE, str(tmp_path / "three.pth"))
    with pytest.raises(MissingFiles, match=r"three\.pth does not exist"):
        locate_weights(INFO)


def test_unknown_weights_key_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="has no weights called heads; available: head"):
        locate_weights(INFO, {"heads": tmp_path})


def test_incomplete_folder_is_missing_weights(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}", encoding="utf-8")
    with pytest.raises(MissingFiles, match=r"lacks \*\.safetensors"):
        locate_weights(RewardInfo("r", weights=(FOLDER,)), {"model": tmp_path})


def test_file_with_wrong_sha256_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "head.pth"
    path.write_bytes(b"published")
    record = replace(INFO, weights=(replace(HEAD, sha256=WeightsLock().sha256(path)),))
    assert locate_weights(record, {"head": path}) == {"head": path}
    path.write_bytes(b"tampered!")
    os.utime(path, ns=(1, 1))
    with pytest.raises(MismatchError, match=rf"its sha256 is {WeightsLock().sha256(path)}, expected"):
        locate_weights(record, {"head": path})


def test_hub_cache_is_used_offline(fill_hub_cache: Fill, tmp_path: Path) -> None:
    fill_hub_cache({"head.pth": b"head"}, COMMIT)
    fill_hub_cache({"config.json": b"{}", "model.safetensors": b"model"}, "main")
    program = (
        "from rewards.info import RewardInfo, WeightsFile\n"
        "from rewards.weights.locate import locate_weights\n"
        f"paths = locate_weights(RewardInfo('r', weights=({HEAD!r}, {FOLDER!r})))\n"
        "print(paths['head'].read_text(), (paths['model'] / 'model.safetensors').read_text())\n"
    )
    environment = {**os.environ, "HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "1"}
    environment.pop("HF_HUB_CACHE", None)
    root = Path(rewards.__file__).parent.parent
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, env=environment, cwd=root, check=True
    )
    assert done.stdout.split() == ["head", "model"]


def test_other_revision_in_the_cache_is_not_used(fill_hub_cache: Fill) -> None:
    fill_hub_cache({"head.pth": b"head"}, "d" * 40)
    with pytest.raises(MissingFiles):
        locate_weights(INFO)


def test_url_is_downloaded_once_and_verified(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = tmp_path / "source.pth"
    source.write_bytes(b"weights")
    file = WeightsFile("head", file="head.pth", url=source.as_uri(), sha256=WeightsLock().sha256(source))
    record = RewardInfo("r", weights=(file,))
    monkeypatch.setattr("rewards.weights.locate.hub.offline_reason", lambda _: "")
    path = locate_weights(record)["head"]
    assert path.read_bytes() == b"weights"
    source.unlink()
    assert locate_weights(record)["head"] == path


def test_wrong_download_is_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = tmp_path / "source.pth"
    source.write_bytes(b"only half of the wei")
    file = WeightsFile(
        "head", file="head.pth", url=source.as_uri(), sha256=hashlib.sha256(b"weights").hexdigest()
    )
    monkeypatch.setattr("rewards.weights.locate.hub.offline_reason", lambda _: "")
    with pytest.raises(MissingFiles, match="does not have the published sha256"):
        locate_weights(RewardInfo("r", weights=(file,)))
    source.write_bytes(b"weights")
    assert locate_weights(RewardInfo("r", weights=(file,)))["head"].read_bytes() == b"weights"


@pytest.mark.parametrize("damage", ["torn", "shape"])
def test_damaged_transformers_folder_is_a_one_line_error(
    tiny_files: Callable[[str], dict[str, Path]], damage: str
) -> None:
    from safetensors.torch import load_file

    files = tiny_files("world-pick")
    path = files["model"] / "model.safetensors"
    if damage == "torn":
        path.write_bytes(path.read_bytes()[:-100])
    else:
        state = load_file(path)
        state["visual_projection.weight"] = torch.zeros(3, 3)
        save_file(state, path, {"format": "pt"})
    with pytest.raises(MismatchError, match="does not fit CLIPModel: "):
        rewards.load("world-pick", weights=files)


def test_open_clip_folder_of_another_model_is_a_one_line_error(
    tiny_files: Callable[[str], dict[str, Path]],
) -> None:
    files = tiny_files("world-clip")
    (files["backbone"] / "open_clip_config.json").write_text("{}", encoding="utf-8")
    with pytest.raises(MismatchError, match="does not describe a CLIP of open_clip"):
        rewards.load("world-clip", weights=files)


def test_code_version_is_part_of_score_id() -> None:
    record = RewardInfo("r", entry="m:R", code={"rule.py": "one"})
    assert score_id(record) != score_id(replace(record, code={"rule.py": "two"}))


def test_changed_file_is_hashed_again(tmp_path: Path) -> None:
    path = tmp_path / "weights"
    for content in (b"one", b"another"):
        path.write_bytes(content)
        assert WeightsLock().sha256(path) == hashlib.sha256(content).hexdigest()


def test_content_id_of_a_folder_covers_needed_files_only(tmp_path: Path) -> None:
    for name in ("config.json", "model.safetensors"):
        (tmp_path / name).write_text(name, encoding="utf-8")
    before = content_id(FOLDER, tmp_path)
    (tmp_path / "README.md").write_text("hello", encoding="utf-8")
    assert content_id(FOLDER, tmp_path) == before
    (tmp_path / "config.json").write_text("{}", encoding="utf-8")
    assert content_id(FOLDER, tmp_path) != before


def test_other_weights_change_the_score_id(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ids = set()
    for content in (b"one", b"another"):
        path = tmp_path / content.decode()
        path.write_bytes(content)
        monkeypatch.setenv(VARIABLE, str(path))
        ids.add(score_id(INFO))
    assert len(ids) == 2


def test_half_precision_weights_are_loaded_as_float32(tmp_path: Path) -> None:
    linear = torch.nn.Linear(2, 1)
    save_file({"weight": torch.ones(1, 2).half(), "bias": torch.zeros(1).half()}, tmp_path / "w.safetensors")
    load_state(linear, read_tensors(tmp_path / "w.safetensors"), tmp_path / "w.safetensors")
    assert linear.weight.dtype == torch.float32
    assert linear.weight.tolist() == [[1, 1]]


def test_all_wrong_keys_are_in_one_error(tmp_path: Path) -> None:
    state = {"weight": torch.ones(1, 3), "extra": torch.ones(1)}
    with pytest.raises(MismatchError) as error:
        load_state(torch.nn.Linear(2, 1), state, tmp_path / "head.pth")
    message = str(error.value)
    assert "bias: missing; extra: not expected; weight: shape (1, 3), not (1, 2)" in message
    assert "head.pth does not fit Linear" in message


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_damaged_file_is_not_read_as_weights(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"torn{suffix}"
    path.write_bytes(b"not weights at all")
    with pytest.raises(MismatchError, match=r"cannot be read as weights .* fetch it again"):
        read_tensors(path)


class Harmful:
    """An object that runs code when it is unpickled."""

    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, ("touch ran-code",)


def test_checkpoint_cannot_run_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"weight": Harmful()}, tmp_path / "harmful.pth")
    with pytest.raises(MismatchError):
        read_tensors(tmp_path / "harmful.pth")
    assert not (tmp_path / "ran-code").exists()


def test_transformers_folder_with_missing_tensors_is_refused(
    tiny_files: Callable[[str], dict[str, Path]],
) -> None:
    # transformers only warns, and would score with random weights
    from safetensors.torch import load_file

    files = tiny_files("world-pick")
    path = files["model"] / "model.safetensors"
    state = load_file(path)
    del state["visual_projection.weight"]
    save_file(state, path, {"format": "pt"})
    with pytest.raises(MismatchError, match=r"does not fit CLIPModel: visual_projection\.weight: missing"):
        rewards.load("world-pick", weights=files)


def test_load_sets_device_and_precision(
    tiny_files: Callable[[str], dict[str, Path]],
) -> None:
    reward: Reward = rewards.load("world-clip", dtype="bfloat16", weights=tiny_files("world-clip"))
    assert {p.dtype for p in reward.parameters()} == {torch.bfloat16}
    assert reward.score(torch.rand(2, 3, 64, 64), ["a", "b"]).dtype == torch.float32
