"""`tcbench doctor`: where packages come from, conflicts, missing files and how to fix them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks import doctor
from benchmarks.doctor import _Finding, examine
from benchmarks.systems import SYSTEMS
from rewards.info import RewardInfo
from tcbench.launch import PACKAGES, ROOT, SHADOWED


@pytest.fixture(autouse=True)
def _no_downloads(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("TCBENCH_PROMPTS", raising=False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))


def of(findings: list[_Finding], subject: str) -> _Finding:
    return next(finding for finding in findings if finding.subject == subject)


def packages(folder: Path) -> list[_Finding]:
    return list(examine(folder, topics=["package"]))


def test_valid_installation_shows_where_packages_come_from(tmp_path: Path) -> None:
    findings = packages(tmp_path)
    assert [finding.text for finding in findings] == [str(ROOT / name) for name in PACKAGES]
    assert {finding.state for finding in findings} == {"ok"}


def test_folder_with_a_packages_name_is_a_warning(tmp_path: Path) -> None:
    (tmp_path / "benchmarks").mkdir()
    (warning,) = [finding for finding in packages(tmp_path) if finding.state == "warning"]
    assert str(tmp_path / "benchmarks") in warning.text
    assert "rename it" in warning.fix


def test_the_checkout_itself_is_no_conflict() -> None:
    assert {finding.state for finding in packages(ROOT)} == {"ok"}


def test_shadowed_package_is_a_problem(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SHADOWED, "benchmarks", tmp_path / "benchmarks")
    finding = of(packages(tmp_path), "benchmarks")
    assert finding.state == "problem"
    assert f"finds {tmp_path / 'benchmarks'}, tcbench uses {ROOT / 'benchmarks'}" in finding.text
    assert "PYTHONPATH" in finding.fix


def test_package_of_two_distributions_is_a_problem(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "packages_distributions", lambda: {"rewards": ["tcbench", "rlkit"]})
    (problem,) = [finding for finding in packages(tmp_path) if finding.state == "problem"]
    assert "also installed by rlkit" in problem.text
    assert "uninstall rlkit" in problem.fix


def test_missing_library_is_a_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tcbench.environment.installed_version", lambda name: None)
    assert of(list(examine(topics=["library"])), "torch") == _Finding(
        "library", "torch", "problem", "not installed", "pip install torch"
    )


def test_files_that_are_not_downloaded_are_no_problem() -> None:
    findings = list(examine(topics=["pipeline", "reward", "suite"]))
    for subject in ("sd15", "sdxl", "pickscore", "parti"):
        assert of(findings, subject).state == "absent"
        assert of(findings, subject).text.startswith("not downloaded (")
    assert "2.1 GB" in of(findings, "sd15").text
    assert "yuvalkirstain/PickScore_v1" in of(findings, "pickscore").fix
    assert "TCBENCH_PROMPTS" in of(findings, "parti").fix


def test_missing_shipped_pipeline_is_a_problem(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = {"micro": replace(SYSTEMS["micro"], pipeline=str(tmp_path / "none"))}
    monkeypatch.setattr("benchmarks.systems.SYSTEMS", broken)
    (finding,) = examine(topics=["pipeline"])
    assert (finding.state, finding.text) == ("problem", "missing from the installed package")


def test_failed_examination_is_a_problem_and_the_others_continue(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken() -> Iterator[_Finding]:
        raise ImportError("libtorch.so is missing")

    monkeypatch.setattr("benchmarks.doctor._device", broken)
    findings = list(examine(tmp_path))
    assert [f.text for f in findings if f.topic == "device"] == ["ImportError: libtorch.so is missing"]
    assert {"library", "suite"} <= {finding.topic for finding in findings}


def test_broken_plug_in_does_not_hide_the_other_rewards(monkeypatch: pytest.MonkeyPatch) -> None:
    from rewards import registry

    def info(name: str) -> RewardInfo:
        if name == "clip":
            raise ValueError("the plug-in cannot be imported")
        return record(name)

    record = registry.info
    monkeypatch.setattr(registry, "info", info)
    states = {finding.subject: finding.state for finding in examine(topics=["reward"])}
    assert states["clip"] == "problem"
    assert states["world-clip"] == "ok"


def test_changed_weights_are_a_problem(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "checkpoint.pt").write_bytes(b"not what was published")
    monkeypatch.setenv("TCBENCH_WEIGHTS_HPSV2_1_CHECKPOINT", str(tmp_path / "checkpoint.pt"))
    finding = of(list(examine(topics=["reward"])), "hpsv2.1")
    assert (finding.state, finding.text) == ("problem", "its weights cannot be trusted")
    assert "checkpoint.pt is not the published HPS_v2.1_compressed.pt" in finding.fix


def test_every_topic_is_examined(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TCBENCH_PROMPTS", "/somewhere")
    topics = {finding.topic for finding in examine(tmp_path)}
    assert topics == {"package", "library", "device", "setting", "pipeline", "reward", "suite"}
