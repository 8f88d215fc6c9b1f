"""The command `tcbench`. A verb's module is imported only when that verb is run, so help is instant.

Data goes to stdout; progress, remarks and errors to stderr. Exit codes: 0 complete, 1 failure, 2 usage or
unknown name, 3 finished with missing samples or weights, 4 verification or provenance mismatch, 130
interrupted. A known error is one line; TCBENCH_DEBUG=1 shows its traceback.
"""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Mapping, Sequence
from importlib import import_module
from types import MappingProxyType
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup

from tcbench.errors import Problems

VERBS: Mapping[str, tuple[str, str]] = MappingProxyType(
    {
        "run": (
            "benchmarks.cli.run",
            "Generate images with a model, score them, say how it stands. Resumable.",
        ),
        "generate": ("benchmarks.cli.generate", "Only generate a run's images."),
        "score": ("benchmarks.cli.score", "Score a run's images, or any folder of images with prompts."),
        "import": ("benchmarks.cli.import_table", "Make a run of scores that another tool computed."),
        "diversity": ("benchmarks.cli.diversity", "Measure how much the images of one prompt differ."),
        "train": (
            "benchmarks.cli.train",
            "Tune a model's text encoder by the gradients of rewards (TextCraftor). Resumable.",
        ),
        "pairs": ("benchmarks.cli.pairs", "Write a run's images with their prompts as pairs to train on."),
        "mix": ("benchmarks.cli.mix", "Interpolate tuned text encoders, or mix their styles."),
        "sweep": (
            "benchmarks.cli.sweep",
            "Draw and score over strengths of a tuned encoder and switch steps.",
        ),
        "export": ("benchmarks.cli.export", "Write tuned weights as diffusers, peft and ComfyUI read them."),
        "leaderboard": ("benchmarks.cli.leaderboard", "Compare runs: means, intervals, paired differences."),
        "compare": ("benchmarks.cli.compare", "Say what one run changes against another, and where most."),
        "reproduce": (
            "benchmarks.cli.reproduce",
            "Make a published comparison again, from training to the page. Resumable.",
        ),
        "ls": ("benchmarks.cli.ls", "List models, rewards, suites or runs."),
        "calibrate": (
            "benchmarks.cli.calibrate",
            "Measure each reward's scale on a run, for mixing rewards.",
        ),
        "verify": (
            "benchmarks.cli.verify",
            "Compare rewards with their authors' code, or with a second computation of it.",
        ),
        "doctor": (
            "benchmarks.cli.doctor",
            "Say what is installed, imported from where, and what is missing.",
        ),
        "weights": ("benchmarks.cli.weights", "List, download, verify or convert the weights of rewards."),
        "world": ("benchmarks.cli.world", "Rebuild the embedded world: its pipeline and its rewards."),
    }
)
"""A verb's module defines a function of the module's name, or `app`, a Typer app of sub-commands."""

RESUMABLE = ("run", "generate", "score", "train", "sweep", "reproduce", "world")


class Verbs(TyperGroup):
    """The verbs as a table: listed without importing them, imported when one is called."""

    def __init__(self, **attributes: Any) -> None:
        attributes["commands"] = {name: TyperCommand(name, help=text) for name, (_, text) in VERBS.items()}
        super().__init__(**attributes)

    def resolve_command(self, ctx: Any, args: list[str]) -> tuple[Any, Any, list[str]]:
        name, _, rest = super().resolve_command(ctx, args)
        assert name is not None  # an unknown verb has been refused
        return name, load_verb(name), rest

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


def load_verb(name: str) -> Any:
    """The command of verb `name`, from its module."""
    module = import_module(VERBS[name][0])
    if hasattr(module, "app"):
        return typer.main.get_group(module.app)
    single = typer.Typer(add_completion=False)
    single.command(name)(getattr(module, module.__name__.rpartition(".")[2]))
    return typer.main.get_command(single)


def _error_lines(error: Exception) -> list[str]:
    """One line a problem."""
    if isinstance(error, OSError) and not isinstance(error, ValueError) and error.errno is not None:
        where = error.filename or "while writing"
        return [f"error: {error.strerror}: {where}; finished work is kept; fix this and re-run"]
    problems = error.errors if isinstance(error, Problems) else [error]
    return [f"error: {' '.join(str(problem).split())}" for problem in problems]


def _interrupted(arguments: Sequence[str]) -> int:
    print("interrupted; finished work is kept", file=sys.stderr)
    if arguments and arguments[0] in RESUMABLE:
        print(f"resume with: {shlex.join(['tcbench', *arguments])}", file=sys.stderr)
    return 130


app = typer.Typer(
    name="tcbench",
    cls=Verbs,
    no_args_is_help=True,
    help="Compare text-to-image systems by rewards one can trust.",
)


def _show_version(asked: bool) -> None:
    if asked:
        from importlib.metadata import version

        print(version("tcbench"))
        raise typer.Exit


@app.callback()
def _options(
    version: bool = typer.Option(
        False, "--version", help="Print the version and exit.", is_eager=True, callback=_show_version
    ),
) -> None:
    """Options of the command itself; `version` has done its work when this is called."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point of `tcbench`; exits with the documented codes."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    typer.main.get_command(app).main(args=given, prog_name="tcbench", obj=given)
