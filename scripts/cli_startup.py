"""Start-up time of `tcbench --help` compared with a bare Typer app of two commands.

    python scripts/cli_startup.py [--runs 15]

Both are started in turn with warm file caches. Prints the medians and their ratio; exits with 1 if the ratio
is above 1.5.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

_LIMIT = 1.5

_BARE = """
import typer

app = typer.Typer()

@app.command()
def hello(name: str) -> None:
    "Say hello."

@app.command()
def goodbye(name: str, formal: bool = False) -> None:
    "Say goodbye."

app()
"""

_TCBENCH = "from tcbench.launch import main; main()"


def _seconds(command: list[str], folder: str) -> float:
    """Return the wall time of printing the help once."""
    start = time.perf_counter()
    subprocess.run([*command, "--help"], cwd=folder, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start


def main() -> int:
    """Time both and print the ratio."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=int, default=15, help="timed starts of each (default: 15)")
    runs = parser.parse_args().runs
    with tempfile.TemporaryDirectory() as folder:
        bare, ours = Path(folder, "bare.py"), Path(folder, "ours.py")
        bare.write_text(_BARE, encoding="utf-8")
        root = Path(__file__).resolve().parent.parent
        ours.write_text(f"import sys; sys.path.insert(0, {str(root)!r})\n{_TCBENCH}\n", encoding="utf-8")
        commands = {"bare": [sys.executable, str(bare)], "tcbench": [sys.executable, str(ours)]}
        times: dict[str, list[float]] = {name: [] for name in commands}
        for turn in range(runs + 1):
            for name, command in commands.items():
                elapsed = _seconds(command, folder)
                if turn:  # the first turn fills the caches
                    times[name].append(elapsed)
    medians = {name: median(values) for name, values in times.items()}
    ratio = medians["tcbench"] / medians["bare"]
    print(f"bare Typer app   {medians['bare'] * 1000:6.0f} ms")
    print(f"tcbench --help   {medians['tcbench'] * 1000:6.0f} ms")
    print(f"ratio            {ratio:6.2f}    (median of {runs} warm starts each; at most {_LIMIT})")
    return int(ratio > _LIMIT)


if __name__ == "__main__":
    sys.exit(main())
