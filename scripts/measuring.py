"""Shared parts of benchmark scripts: jobs in separate processes, timings, and rows of Markdown tables."""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from statistics import median
from typing import Any


@dataclass(frozen=True)
class Timing:
    """Seconds of each repeat, and the highest peak memory in MiB."""

    seconds: Sequence[float]
    peak: float

    @property
    def median(self) -> float:
        """Median of the seconds."""
        return median(self.seconds)

    def ratio(self, under: Timing, *, alternating: bool = False) -> str:
        """Return the ratio of medians with a range: "1.62 (1.28-2.11)".

        Args:
            under: Timing to divide by.
            alternating: Whether the repeats of both took turns. The range is then that of the ratios of
                neighbouring repeats, otherwise that of all pairs of repeats.
        """
        pairs = (
            zip(self.seconds, under.seconds, strict=True)
            if alternating
            else product(self.seconds, under.seconds)
        )
        ratios = [over / below for over, below in pairs]
        return f"{self.median / under.median:.2f} ({min(ratios):.2f}-{max(ratios):.2f})"


def table_row(*cells: str) -> str:
    """Return a row of a Markdown table."""
    return f"| {' | '.join(cells)} |"


def benchmark_parser(description: str | None) -> argparse.ArgumentParser:
    """Return a parser with the options of all benchmarks: ``--out``, and ``--worker`` for `run_job`."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, help="Markdown file to write")
    parser.add_argument("--worker", nargs=2, type=Path, help=argparse.SUPPRESS)
    return parser


def run_job(script: str, job: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """Run ``script --worker JOB ANSWER`` in a new process and return its answer.

    A separate process starts without cached tensors and modules, and its peak memory is that of the job
    alone.
    """
    job_file, answer_file = folder / "job.json", folder / "answer.json"
    job_file.write_text(json.dumps(job, default=_to_json), encoding="utf-8")
    command = [sys.executable, "-W", "ignore", script, "--worker", str(job_file), str(answer_file)]
    subprocess.run(command, check=True)
    answer: dict[str, Any] = json.loads(answer_file.read_text(encoding="utf-8"))
    return answer


def answer_job(files: Sequence[Path], work: Callable[[dict[str, Any]], Mapping[str, Any]]) -> None:
    """Read the job, do the work, and write the answer: the other side of `run_job`."""
    job_file, answer_file = files
    answer = work(json.loads(job_file.read_text(encoding="utf-8")))
    answer_file.write_text(json.dumps(answer), encoding="utf-8")


def peak_memory_mib(device: str = "cpu") -> float:
    """Return the peak memory in MiB of a CUDA device, or of this process with its libraries.

    Of a process it is read from /proc, because getrusage also counts the parent that it was forked from.
    """
    if device != "cpu":
        import torch

        return torch.cuda.max_memory_allocated() / 2**20
    status = Path("/proc/self/status")
    if not status.exists():  # not Linux
        return float("nan")
    return int(re.findall(r"VmHWM:\s+(\d+) kB", status.read_text(encoding="utf-8"))[0]) / 1024


def _to_json(value: Any) -> Any:
    return dict(value) if isinstance(value, Mapping) else str(value)
