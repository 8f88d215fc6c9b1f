"""How long `tcbench --help` takes against a bare Typer app of two commands.

    python scripts/cli_startup.py [--runs 15]

Both are started in turn, warm, in one run of this script; it prints the medians and their ratio, and exits
with 1 when the ratio is above 1.5.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

LIMIT = 1.5

BARE = """
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

TCBENCH = "from tcbench.launch import main; main()"


def seconds(command: list[str], folder: str) -> float:
    """Wall time of one start that prints its help."""
    start = time.perf_counter()
    subprocess.run([*command, "--help"], cwd=folder, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=int, default=15, help="timed starts of each (default: 15)")
    runs = parser.parse_args().runs
    with tempfile.TemporaryDirectory() as folder:
        bare, own = Path(folder, "bare.py"), Path(folder, "own.py")
        bare.write_text(BARE)
        root = Path(__file__).resolve().parent.parent
        own.write_text(f"import sys; sys.path.insert(0, {str(root)!r})\n{TCBENCH}\n")
        commands = {"bare": [sys.executable, str(bare)], "tcbench": [sys.executable, str(own)]}
        times: dict[str, list[float]] = {name: [] for name in commands}
        for turn in range(runs + 1):
            for name, command in commands.items():
                taken = seconds(command, folder)
                if turn:  # the first turn fills the caches
                    times[name].append(taken)
    medians = {name: median(values) for name, values in times.items()}
    ratio = medians["tcbench"] / medians["bare"]
    print(f"bare Typer app   {medians['bare'] * 1000:6.0f} ms")
    print(f"tcbench --help   {medians['tcbench'] * 1000:6.0f} ms")
    print(f"ratio            {ratio:6.2f}    (median of {runs} warm starts each; at most {LIMIT})")
    return int(ratio > LIMIT)


if __name__ == "__main__":
    sys.exit(main())
