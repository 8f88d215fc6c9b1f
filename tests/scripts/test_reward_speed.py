"""The script that measures the speed of rewards: equal conditions for both sides, and what its page says."""

from __future__ import annotations

import runpy
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    monkeypatch.setattr(sys, "path", [*sys.path])
    return runpy.run_path(str(SCRIPTS / "reward_speed.py"))


def test_range_of_a_ratio_is_of_neighbouring_repeats_where_they_alternate(script: dict[str, Any]) -> None:
    slow, fast = script["Timing"]([2.0, 4.0, 6.0], 1), script["Timing"]([1.0, 2.0, 2.0], 1)
    assert slow.ratio(fast, alternating=True) == "2.00 (2.00-3.00)"
    assert slow.ratio(fast) == "2.00 (1.00-6.00)"


def test_packages_use_as_many_threads_as_the_page_says(
    script: dict[str, Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    seen: list[str] = []

    class Benchmark:
        def __init__(self, *_: Any) -> None: ...

        def official(self) -> Iterator[Any]:
            code = f"import os; print(*(os.environ[name] for name in {THREADS}))"
            seen.append(subprocess.check_output([sys.executable, "-c", code], text=True))
            timing = script["Timing"]([1.0], 1)
            yield "package / ours", ">= 1", timing, timing

    for name in (*script["_THREADS"], "TCBENCH_WEIGHTS_LOCK"):
        monkeypatch.setenv(name, "7")
    main = script["main"]
    monkeypatch.setitem(main.__globals__, "_Benchmark", Benchmark)
    page = tmp_path / "speed.md"
    monkeypatch.setattr(
        sys, "argv", ["reward_speed.py", "--only", "official", "--threads", "1", "--out", str(page)]
    )
    main()
    assert seen == ["1 1\n"]
    text = page.read_text(encoding="utf-8")
    assert "8 photographs for the official packages" in text
    assert "1 threads" in text
