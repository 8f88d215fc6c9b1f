"""The command `tcbench`. The module of a command is imported only when that command runs, so help is instant.

Data goes to stdout; progress, notes and errors go to stderr. Exit codes: 0 complete, 1 failure, 2 usage error
or unknown name, 3 finished with missing samples or weights, 4 verification or provenance mismatch, 130
interrupted. Every problem is one line; TCBENCH_DEBUG=1 shows the traceback.
"""

from __future__ import annotations

import codecs
import os
import shlex
import sys
import unicodedata
from collections.abc import Mapping, Sequence
from importlib import import_module
from io import TextIOWrapper
from types import MappingProxyType
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup

import tcbench
from tcbench.errors import Problems

GENERATE, TRAIN, COMPARE, REWARDS, SETUP = (
    "Generate and score",
    "Train",
    "Compare",
    "Rewards and weights",
    "Set-up",
)
"""Panels of `tcbench --help`, in this order."""

VERBS: Mapping[str, tuple[str, str]] = MappingProxyType(
    {
        "run": (GENERATE, "Generate images with a model and score them. Resumable."),
        "generate": (GENERATE, "Generate the images of a run without scoring them. Resumable."),
        "score": (GENERATE, "Score the images of a run, or any folder of images with prompts."),
        "import": (GENERATE, "Import scores that another tool computed."),
        "diversity": (GENERATE, "Measure how much the images of one prompt differ."),
        "train": (TRAIN, "Fine-tune a text encoder or UNet on rewards (TextCraftor, DDPO). Resumable."),
        "pairs": (TRAIN, "Write the images of a run with their prompts as training pairs."),
        "mix": (TRAIN, "Interpolate a tuned text encoder with the original one, or mix several."),
        "sweep": (TRAIN, "Score a tuned encoder at several strengths and numbers of tuned steps."),
        "export": (TRAIN, "Export tuned weights for diffusers, PEFT or ComfyUI."),
        "leaderboard": (COMPARE, "Compare runs with a baseline: tables and figures."),
        "compare": (COMPARE, "Compare two runs, and list the prompts where they differ most."),
        "reproduce": (COMPARE, "Reproduce a published comparison, from training to tables. Resumable."),
        "calibrate": (REWARDS, "Measure the scale of each reward on a run, for reward mixes."),
        "verify": (REWARDS, "Verify rewards against their authors' code or an independent reference."),
        "weights": (REWARDS, "List, download, verify or convert the weights of rewards."),
        "ls": (SETUP, "List models, rewards, suites or runs."),
        "doctor": (SETUP, "Check this installation: packages, versions, device and weights."),
        "world": (SETUP, "Rebuild the embedded world: its pipeline and its rewards."),
    }
)
"""Commands with their help panel and summary, in the order they are listed."""

_MODULES = {"import": "import_table"}  # `import` is a keyword of Python

RESUMABLE = ("run", "generate", "score", "train", "sweep", "reproduce", "world")

_RENAMED = {"--switch-step": "--tuned-steps", "--switch-steps": "--tuned-steps"}


class _Commands(TyperGroup):
    """The group of all commands. Listing them imports none of their modules."""

    def __init__(self, **attributes: Any) -> None:
        attributes["commands"] = {
            name: TyperCommand(name, help=text, rich_help_panel=panel)
            for name, (panel, text) in VERBS.items()
        }
        super().__init__(**attributes)

    def resolve_command(self, ctx: Any, args: list[str]) -> tuple[Any, Any, list[str]]:
        name, _, rest = super().resolve_command(ctx, args)
        assert name is not None  # super() has refused an unknown command
        return name, load_command(name), rest

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            raise typer.Exit(_interrupted(ctx.obj)) from None
        except (ValueError, OSError) as error:
            if os.environ.get("TCBENCH_DEBUG") == "1" or isinstance(error, BrokenPipeError):
                raise
            print("\n".join(_error_lines(error)), file=sys.stderr)
            raise typer.Exit(getattr(error, "exit_code", 1)) from None


def load_command(name: str) -> Any:
    """Import a command; its module's `app` is a Typer app of one command, or of several sub-commands."""
    module = import_module(f"benchmarks.cli.{_MODULES.get(name, name)}")
    return typer.main.get_command(module.app)


def _error_lines(error: Exception) -> list[str]:
    """Return one line for each problem."""
    if isinstance(error, OSError) and not isinstance(error, ValueError) and error.errno is not None:
        path = error.filename or "while writing"
        return [f"error: {error.strerror}: {path}; finished work is kept; fix this and re-run"]
    problems = error.errors if isinstance(error, Problems) else [error]
    return [f"error: {' '.join(str(problem).split())}" for problem in problems]


def _interrupted(arguments: Sequence[str]) -> int:
    print("interrupted; finished work is kept", file=sys.stderr)
    if arguments and arguments[0] in RESUMABLE:
        print(f"resume with: {shlex.join(['tcbench', *arguments])}", file=sys.stderr)
    return 130


app = typer.Typer(
    name="tcbench",
    cls=_Commands,
    no_args_is_help=True,
    help="Score, fine-tune and compare text-to-image models with differentiable rewards.",
)


def _show_version(requested: bool) -> None:
    if requested:
        print(tcbench.__version__)
        raise typer.Exit


@app.callback()
def _options(
    version: bool = typer.Option(
        False, "--version", help="Print the version and exit.", is_eager=True, callback=_show_version
    ),
) -> None:
    """Declare the options of `tcbench` itself; their callbacks do the work."""


_PLAIN: Mapping[str, str] = MappingProxyType(
    {
        "▲": "(+)", "▼": "(-)", "≈": "(=)", "○": "(o)", "†": "(t)", "‡": "(f)", "↑": "^", "↓": "v", "→": "->",
        "–": "-", "—": "-", "×": "x", "±": "+/-", "Δ": "diff", "…": "...", "≥": ">=", "≤": "<=", "·": ".",
        "’": "'", "‘": "'", "“": '"', "”": '"', "•": "*", "━": "-", "─": "-", "│": "|", "½": "1/2",
    }
)  # fmt: skip
"""ASCII replacements for characters that the terminal's encoding lacks."""


def _plain(error: UnicodeError) -> tuple[str, int]:
    """Replace characters that an encoding lacks: by `_PLAIN`, without accents, or by visible escapes."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    text = ""
    for character in error.object[error.start : error.end]:
        # not NFKD, in which "½" begins with "1"
        base = "".join(c for c in unicodedata.normalize("NFD", character) if not unicodedata.combining(c))
        shown = base if base.isascii() else character.encode("ascii", "backslashreplace").decode()
        text += _PLAIN.get(character) or shown
    return text, error.end


def _degrade_output() -> None:
    """Replace characters that the terminal cannot show, so that printing never fails. Files are UTF-8."""
    codecs.register_error("tcbench.plain", _plain)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="tcbench.plain")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run `tcbench` with ``arguments`` (by default those of the process) and exit with its exit code."""
    _degrade_output()
    argv = list(sys.argv[1:] if arguments is None else arguments)
    for old, new in _RENAMED.items():
        if any(argument == old or argument.startswith(f"{old}=") for argument in argv):
            print(f"error: the option {old} is now called {new}", file=sys.stderr)
            raise SystemExit(2)
    for before, argument in zip(["", *argv], argv, strict=False):
        option, equals, value = argument.partition("=")
        # an empty path would mean the working directory, and an empty name a default
        if not argument.strip() or (option.startswith("--") and equals and not value.strip()):
            what = option if equals else before if before.startswith("-") else "an argument"
            print(f"error: {what} is empty; give a value or leave it out", file=sys.stderr)
            raise SystemExit(2)
    typer.main.get_command(app).main(args=argv, prog_name="tcbench", obj=argv)
