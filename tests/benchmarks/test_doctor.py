"""The doctor: what runs from where, what collides, what is missing and how to mend it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks import doctor
from benchmarks.doctor import Finding, examine, libraries, packages, pipelines, prompt_sets, reward_weights
from benchmarks.systems import SYSTEMS
from rewards.info import RewardInfo
from tcbench.launch import ROOT, SHADOWED


@pytest.fixture(autouse=True)
def _nothing_at_hand(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("TCBENCH_PROMPTS", raising=False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))


def of(findings: list[Finding], subject: str) -> Finding:
    return next(finding for finding in findings if finding.subject == subject)


def test_a_sound_installation_names_where_packages_come_from(tmp_path: Path) -> None:
    findings = list(packages(tmp_path))
    assert [finding.text for finding in findings] == [
        str(ROOT / name) for name in ("rewards", "textcraftor", "benchmarks", "leaderboards")
    ]
    assert {finding.state for finding in findings} == {"ok"}


def test_a_users_folder_of_the_same_name_is_warned_of(tmp_path: Path) -> None:
    (tmp_path / "benchmarks").mkdir()
    (warning,) = [finding for finding in packages(tmp_path) if finding.state == "warning"]
    assert str(tmp_path / "benchmarks") in warning.text
    assert "rename it" in warning.mend


def test_the_checkout_itself_is_no_collision() -> None:
    assert {finding.state for finding in packages(ROOT)} == {"ok"}


def test_a_package_that_was_shadowed_is_a_problem(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SHADOWED, "benchmarks", tmp_path / "benchmarks")
    finding = of(list(packages(tmp_path)), "benchmarks")
    assert finding.state == "problem"
    assert f"finds {tmp_path / 'benchmarks'}, tcbench uses {ROOT / 'benchmarks'}" in finding.text
    assert "PYTHONPATH" in finding.mend


def test_another_distribution_with_the_same_package_is_a_problem(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor, "packages_distributions", lambda: {"rewards": ["tcbench", "rlkit"]})
    (problem,) = [finding for finding in packages(tmp_path) if finding.state == "problem"]
    assert "also installed by rlkit" in problem.text
    assert "uninstall rlkit" in problem.mend


def test_a_missing_library_is_a_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tcbench.environment.installed_version", lambda name: None)
    assert of(list(libraries()), "torch") == Finding(
        "library", "torch", "problem", "not installed", "pip install torch"
    )


def test_what_is_not_downloaded_is_absent_and_no_problem() -> None:
    findings = [*pipelines(), *reward_weights(), *prompt_sets()]
    for subject in ("sd15", "sdxl", "pickscore", "parti"):
        assert of(findings, subject).state == "absent"
        assert of(findings, subject).text.startswith("not here, ")
    assert "2.1 GB" in of(findings, "sd15").text
    assert "yuvalkirstain/PickScore_v1" in of(findings, "pickscore").mend
    assert "TCBENCH_PROMPTS" in of(findings, "parti").mend


def test_a_shipped_pipeline_that_is_gone_is_a_problem(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = {"micro": replace(SYSTEMS["micro"], pipeline=str(tmp_path / "none"))}
    monkeypatch.setattr("benchmarks.systems.SYSTEMS", broken)
    (finding,) = pipelines()
    assert (finding.state, finding.text) == ("problem", "the installed package lacks it")


def test_what_cannot_be_examined_is_a_problem_and_the_rest_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken() -> Iterator[Finding]:
        raise ImportError("libtorch.so is missing")

    monkeypatch.setattr("benchmarks.doctor.device", broken)
    findings = list(examine(tmp_path))
    assert [f.text for f in findings if f.topic == "broken"] == ["ImportError: libtorch.so is missing"]
    assert {"library", "suite"} <= {finding.topic for finding in findings}


def test_a_broken_plug_in_does_not_hide_the_other_rewards(monkeypatch: pytest.MonkeyPatch) -> None:
    from rewards import registry

    def info(name: str) -> RewardInfo:
        if name == "clip":
            raise ValueError("the plug-in cannot be imported")
        return record(name)

    record = registry.info
    monkeypatch.setattr(registry, "info", info)
    states = {finding.subject: finding.state for finding in reward_weights()}
    assert states["clip"] == "problem"
    assert states["world-clip"] == "ok"


def test_weights_that_changed_are_a_problem_and_not_merely_absent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "checkpoint.pt").write_bytes(b"not what was published")
    monkeypatch.setenv("TCBENCH_WEIGHTS_HPSV2_1_CHECKPOINT", str(tmp_path / "checkpoint.pt"))
    finding = of(list(reward_weights()), "hpsv2.1")
    assert (finding.state, finding.text) == ("problem", "its weights cannot be trusted")
    assert "checkpoint.pt is not the published HPS_v2.1_compressed.pt" in finding.mend


def test_everything_is_examined(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TCBENCH_PROMPTS", "/somewhere")
    topics = {finding.topic for finding in examine(tmp_path)}
    assert topics == {"package", "library", "device", "setting", "pipeline", "reward", "suite"}
