"""Two processes that share a batch make the same update as one process."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from textcraftor.config import TrainConfig
from textcraftor.io.checkpoint import LOG, TrainFolder

WORKER = """
import json, sys
import torch
from tcbench.progress import Silent
from textcraftor import training as loop
from textcraftor.algorithms import base
from textcraftor.config import TrainConfig

config, out, broken = TrainConfig.from_record(json.loads(sys.argv[1])), sys.argv[2], sys.argv[3] == "broken"
# Adam divides a gradient by its own size, which amplifies rounding; plain descent shows the gradients
torch.optim.AdamW = lambda parameters, lr, **_: torch.optim.SGD(parameters, lr=lr)
if broken:
    base._average_gradients = lambda accelerator, parameters: None
class Shown(Silent):
    def advance(self, count=1, status=""):
        print("update", flush=True)

loop.train(config, out, device="cpu", progress=Shown())
"""


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def start(processes: int, config: TrainConfig, out: Path, mode: str = "whole") -> list[subprocess.Popen[str]]:
    """Start a run in that many processes (gloo)."""
    base = os.environ | {"OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true", "CUDA_VISIBLE_DEVICES": ""}
    if processes > 1:
        base |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "WORLD_SIZE": str(processes)}
    running = []
    for rank in range(processes):
        environment = base | ({"RANK": str(rank), "LOCAL_RANK": str(rank)} if processes > 1 else {})
        record = json.dumps(asdict(config))
        command = [sys.executable, "-W", "ignore", "-c", WORKER, record, str(out), mode]
        pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        running.append(subprocess.Popen(command, env=environment, **pipes))
    return running


def launch(processes: int, config: TrainConfig, out: Path, mode: str = "whole") -> dict[str, torch.Tensor]:
    """The tuned encoder of a run in that many processes."""
    running = start(processes, config, out, mode)
    errors = [process.communicate(timeout=300)[1] for process in running]
    assert all(process.returncode == 0 for process in running), errors
    newest = sorted((out / "checkpoints").iterdir())[-1]
    return load_file(newest / "text_encoder" / "model.safetensors")


REWARDS = """
from rewards import Reward, RewardInfo, register

@register(RewardInfo("shared-red", uses_prompt=False))
class Red(Reward):
    def _score(self, pixels, prompts):
        return pixels[:, 0].mean((1, 2)) - pixels[:, 1:].mean((1, 2, 3))
"""
REWARD = "Red"
PROMPTS = ["a cat", "a dog", "a hen", "a cow", "a pig", "a fox"]
CONFIG = {
    "steps": 4, "tuned_steps": 2, "eval_tuned_steps": 2, "guidance": 3.0, "batch": 4, "updates": 3,
    "lr": 10.0, "clip": 0.0, "micro_batch": 1, "every": 2, "prompt_count": 2,
    "selection_reward": "world-siglip",
}  # fmt: skip


def distance(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> float:
    return max(float((a[name] - b[name]).abs().max()) for name in a)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"algorithm": "ddpo", "eta": 1.0, "policy_updates": 1},
        {"algorithm": "nft", "policy_updates": 1, "group": 2},  # groups are shared by both processes
        {"algorithm": "grpo", "eta": 1.0, "policy_updates": 1, "group": 2},
        {
            "mix": "world-aesthetic=1,world-clip=1",
            "calibration": "world",
            "balance": True,
            "constraints": ("world-clip",),
        },
    ],
    ids=["gradient", "ddpo", "nft", "grpo", "constrained"],
)
def test_two_processes_make_the_updates_of_one(
    config_for: Callable[..., TrainConfig], changes: dict[str, Any], tmp_path: Path, tiny_pipeline: Path
) -> None:
    config = config_for(**changes)
    one = launch(1, config, tmp_path / "one")
    two = launch(2, config, tmp_path / "two")
    broken = launch(2, config, tmp_path / "broken", "broken")
    before = load_file(tiny_pipeline / "text_encoder" / "model.safetensors")
    begun = {name: before[name if name in before else name.removeprefix("text_model.")] for name in one}
    moved = distance(one, begun)
    assert moved > 1e-4
    assert distance(one, two) < 1e-3 * moved
    logs = [TrainFolder(tmp_path / name).rows(LOG) for name in ("one", "two")]
    for first, second in zip(*logs, strict=True):  # means over all samples, not over one process's share
        assert first.keys() == second.keys()
        for name in first.keys() - {"seconds", "peak_mib"}:
            assert second[name] == pytest.approx(first[name], rel=1e-3, abs=1e-4), name
    assert distance(one, broken) > 0.1 * moved  # the test detects a run without synchronisation


def test_interrupting_one_process_ends_all_after_a_saved_update(
    config_for: Callable[..., TrainConfig], tmp_path: Path
) -> None:
    folder = TrainFolder(tmp_path / "out")
    config = config_for(updates=5000, every=0, selection_reward="", save_every=5000)
    running = start(2, config, folder.path)
    assert running[0].stdout is not None
    assert running[0].stdout.readline() == "update\n"  # waits for the first one
    running[1].send_signal(signal.SIGINT)
    errors = [process.communicate(timeout=120)[1] for process in running]
    assert all("KeyboardInterrupt" in error for error in errors), errors
    newest = folder.newest()
    assert newest is not None
    assert newest.update == len(folder.rows(LOG)) < 5000
