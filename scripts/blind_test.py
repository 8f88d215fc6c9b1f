"""A blind test of two systems: sheets of shuffled pairs, and what judges said of them.

    python scripts/blind_test.py sheets RUN RUN --out blind     # writes blind/sheet-*.png and blind/key.json
    python scripts/blind_test.py count blind ANSWERS.json ...   # shares of the second run, one line per judge

A pair has the same prompt and noise, and sides are random. A judge sees the sheets only, and answers for each
pair, as JSON: ``{"1": {"better": "left", "fits": "tie"}, ...}``.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw
from scipy.stats import binomtest

from leaderboards.run_state import RunState

_PAIRS, _PER_SHEET, _SIDE, _GAP, _CHARACTERS = 40, 5, 224, 66, 55
_SEED = 20261130
_ANSWERS = ("left", "right", "tie")
_QUESTIONS = {"better": "the better picture", "fits": "fits its prompt better"}


def main() -> None:
    """Write sheets or count answers."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    actions = parser.add_subparsers(dest="action", required=True)
    sheets = actions.add_parser("sheets", help="write sheets and their key")
    sheets.add_argument("runs", type=Path, nargs=2, help="run folders")
    sheets.add_argument("--out", type=Path, required=True, help="new folder")
    count = actions.add_parser("count", help="count answers")
    count.add_argument("folder", type=Path, help="folder of sheets")
    count.add_argument("answers", type=Path, nargs="+", help="a file per judge")
    options = parser.parse_args()
    if options.action == "sheets":
        first, second = options.runs
        _write_sheets(RunState(first), RunState(second), options.out)
    else:
        key = _read(options.folder / "key.json")
        for file in options.answers:
            answers = _read(file)
            if problems := [*_problems(key, answers)]:
                sys.exit("\n".join(f"{file}: {problem}" for problem in problems))
            for question, text in _QUESTIONS.items():
                print(f"{file.stem}, {text}: {_counted(key, answers, question)}")


def _problems(key: dict[str, str], answers: dict[str, Any]) -> Iterator[str]:
    for pair in key:
        for question in _QUESTIONS:
            answer = answers.get(pair, {}).get(question)
            if answer not in _ANSWERS:
                yield f"{question!r} of pair {pair} is {answer!r}; expected one of {', '.join(_ANSWERS)}"


def _read(file: Path) -> dict[str, Any]:
    return dict(json.loads(file.read_text(encoding="utf-8")))


def _write_sheets(first: RunState, second: RunState, out: Path) -> None:
    random_ = random.Random(_SEED)
    shared = sorted(first.samples.keys() & second.samples.keys())
    different = any(first.samples[key].noise_seed != second.samples[key].noise_seed for key in shared)
    if different or first.header.suite_sha256 != second.header.suite_sha256:
        sys.exit(f"{first.path} and {second.path} have different prompts or noise; give runs of one suite")
    keys = random_.sample([key for key in shared if key[1] == 0], _PAIRS)
    out.mkdir(parents=True)
    sides = []
    for start in range(0, _PAIRS, _PER_SHEET):
        sheet = Image.new("RGB", (2 * _SIDE + 40, _PER_SHEET * (_SIDE + _GAP)), "white")
        for row, key in enumerate(keys[start : start + _PER_SHEET]):
            pair = [(run, run.image_path(run.samples[key])) for run in (first, second)]
            random_.shuffle(pair)
            sides.append("left" if pair[0][0] is second else "right")
            top = row * (_SIDE + _GAP)
            text = textwrap.fill(f"pair {len(sides)}:  {first.samples[key].prompt}", _CHARACTERS)
            ImageDraw.Draw(sheet).text((4, top + 4), text, fill="black", font_size=15)
            for left, (_, path) in zip((4, _SIDE + 32), pair, strict=True):
                image = Image.open(path).resize((_SIDE, _SIDE), Image.Resampling.BICUBIC)
                sheet.paste(image, (left, top + _GAP - 20))
        sheet.save(out / f"sheet-{start // _PER_SHEET + 1}.png")
    key_text = json.dumps({str(n): side for n, side in enumerate(sides, 1)})
    (out / "key.json").write_text(key_text, encoding="utf-8")


def _counted(key: dict[str, str], answers: dict[str, Any], question: str) -> str:
    """Return wins of the second run, of the first, ties, and the share of wins with its 95 % interval."""
    given = [answers[pair][question] for pair in key]
    ties = given.count("tie")
    wins = sum(answer == side for answer, side in zip(given, key.values(), strict=True))
    decided = len(given) - ties
    if not decided:
        return f"{ties} ties"
    interval = binomtest(wins, decided).proportion_ci(method="wilson")
    return (
        f"second {wins}, first {decided - wins}, ties {ties}; share of the second {wins / decided:.3f} "
        f"[{interval.low:.3f}, {interval.high:.3f}]"
    )


if __name__ == "__main__":
    main()
