"""Provenance: versions without imports, and what differs between two starts of a run."""

from __future__ import annotations

import json

import torch

from textcraftor.io.provenance import environment, environment_differences


def test_the_environment_records_versions_and_device() -> None:
    record = json.loads(json.dumps(environment("cpu")))
    assert record["device"] == "cpu"
    assert torch.__version__.startswith(record["versions"]["torch"])  # without the build, such as "+cu130"
    assert record["threads"] >= 1


def test_every_earlier_environment_is_compared() -> None:
    first = {"versions": {"torch": "1", "numpy": "2"}, "device": "cpu", "threads": 1, "commit": "a"}
    second = {"versions": {"torch": "3", "numpy": "2"}, "device": "cuda", "threads": 1, "commit": "b"}
    assert environment_differences([first], first) == []
    assert environment_differences([first, second], second) == ["device cpu, now cuda", "torch 1, now 3"]
    assert environment_differences([first, second], first) == ["device cuda, now cpu", "torch 3, now 1"]
