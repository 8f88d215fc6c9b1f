"""Scores that other tools computed: a table of them becomes a run that leaderboards compare."""

from __future__ import annotations

import csv
import io
import json
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path

from leaderboards.records import Header, Planned, Sample, Score, ScoreSet, folder_name, short_id
from leaderboards.run_state import RunState
from leaderboards.scores import SAMPLES
from tcbench.errors import FileFormatError
from tcbench.files import locked
from textcraftor.diffusion.prompts import Prompt, canonical, prompts_sha256, read_text

PROMPT, REWARD, SCORE = "prompt", "reward", "score"
OPTIONAL = ("prompt_id", "sample", "category", "image")


@dataclass(frozen=True)
class Import:
    """A table and what it does not say itself."""

    table: Path
    system: str
    out: Path
    prompts: tuple[str, Sequence[Prompt]] | None = None
    """Name and prompts of the suite that the table's are of; None: the table's own are one, called by their
    hash.
    """
    rewards: Sequence[str] = ()
    """Columns that are rewards, of a table with a line an image; a table with a line a score needs none."""
    lower_is_better: Sequence[str] = ()
    trained_on: Sequence[str] | None = None
    """None: nobody says."""


@dataclass(frozen=True)
class _Line:
    """One score as the table has it."""

    place: str
    prompt: str
    prompt_id: str
    sample: int
    category: str
    image: str
    reward: str
    score: float | None


def adopt_table(asked: Import) -> RunState:
    """The run, below `out`, of the table's scores. Doing it again changes nothing.

    Raises FileFormatError.
    """
    lines = list(_lines(asked))
    if not lines:
        raise FileFormatError(f"{asked.table} holds no score; expected at least one line")
    _check_names(asked, {line.reward for line in lines})
    prompts, ids = _prompts(asked, lines)
    prompts_hash = prompts_sha256(prompts)
    name = asked.prompts[0] if asked.prompts else f"imported_{prompts_hash[:8]}"
    numbers = {number: place for place, number in enumerate(sorted({line.sample for line in lines}))}
    lines = [replace(line, sample=numbers[line.sample]) for line in lines]
    settings = {
        "scores_sha256": sha256(asked.table.read_bytes()).hexdigest(),
        "prompts_sha256": prompts_hash,
        "rewards": list(asked.rewards),
        "lower_is_better": sorted(asked.lower_is_better),
    }
    shown = sorted(set(ids.values()))
    header = Header(
        suite=name,
        suite_sha256=prompts_hash,
        system=asked.system,
        generation_id=short_id(settings),
        generation=settings,
        planned=Planned(tuple(shown), of=len(prompts), seeds=len(numbers)),
        watermarks=() if len(shown) == len(prompts) else (f"{len(shown)} of {len(prompts)} prompts",),
        details={"name": asked.system, "table": asked.table.name}
        | ({} if asked.trained_on is None else {"trained_on": list(asked.trained_on)}),
    )
    path = asked.out / folder_name(name, asked.system, header.generation_id)
    with locked(path):
        run = RunState.create(path, header)
        if not run.samples:
            _record(run, asked, prompts, ids, lines)
    return run


def _check_names(asked: Import, rewards: set[str]) -> None:
    """What is said of rewards must be of the table's. `trained_on` may name others."""
    for name in asked.lower_is_better:
        if name not in rewards:
            raise FileFormatError(
                f"{asked.table} has no reward {name!r} to be better when lower; it has "
                f"{', '.join(sorted(rewards))}"
            )
    close = {name.lower(): name for name in rewards}
    for name in asked.trained_on or ():
        if name not in rewards and name.lower() in close:
            raise FileFormatError(
                f"{asked.table} has no reward {name!r}, but {close[name.lower()]!r}: write it so"
            )


def _record(
    run: RunState, asked: Import, prompts: Sequence[Prompt], ids: Mapping[str, int], lines: Sequence[_Line]
) -> None:
    samples: dict[tuple[int, int], Sample] = {}
    for line in lines:
        prompt = prompts[ids[_identity(line)]]
        place, digest = _image(asked.table, line)
        category = prompt.category or line.category
        samples.setdefault(
            (prompt.id, line.sample),
            Sample(prompt.id, line.sample, prompt.text, prompt.text, category, 0, place, digest),
        )
    for reward in dict.fromkeys(line.reward for line in lines):
        score_set = ScoreSet(
            reward,
            short_id({"imported": reward}),
            higher_is_better=reward not in asked.lower_is_better,
            role="imported",
            family=reward,
            details={"table": asked.table.name},
        )
        records = [
            _score(samples[ids[_identity(line)], line.sample], line)
            for line in lines
            if line.reward == reward
        ]
        run.append_scores(score_set, records)
    # last: a run without samples is begun anew
    run.append_samples(samples.values())


def _score(sample: Sample, line: _Line) -> Score:
    if line.score is None:
        reason = "no score in the table"
        return Score(*sample.key, "failed", reason=reason, image_sha256=sample.sha256)
    return Score(*sample.key, "ok", line.score, image_sha256=sample.sha256)


def _image(table: Path, line: _Line) -> tuple[str, str | None]:
    """Where the image lies, and its hash; a table may be without images."""
    if not line.image:
        return f"not in {table.name}", None
    file = table.parent / line.image
    try:
        return str(file.resolve()), sha256(file.read_bytes()).hexdigest()
    except OSError as error:
        raise FileFormatError(
            f"{table}, {line.place} names the image {file}, which cannot be read ({error.strerror}): mend "
            "the column 'image' or remove it"
        ) from error


def _identity(line: _Line) -> str:
    """What tells prompts apart: their id if the table has one, because benchmarks repeat prompts."""
    return line.prompt_id or canonical(line.prompt)


def _prompts(asked: Import, lines: Sequence[_Line]) -> tuple[Sequence[Prompt], dict[str, int]]:
    """The prompt set, and the place in it of each of the table's prompts."""
    first: dict[str, _Line] = {}
    for line in lines:
        seen = first.setdefault(_identity(line), line)
        if canonical(seen.prompt) != canonical(line.prompt):
            raise FileFormatError(
                f"{asked.table}, {line.place}: prompt_id {line.prompt_id!r} is of another prompt than in "
                f"{seen.place}; ids must name one prompt"
            )
    if asked.prompts is None:
        own = [Prompt(n, canonical(line.prompt), line.category) for n, line in enumerate(first.values())]
        return own, {identity: n for n, identity in enumerate(first)}
    name, prompts = asked.prompts
    places: dict[str, int] = {}
    for prompt in prompts:
        places.setdefault(prompt.text, prompt.id)
    found: dict[str, int] = {}
    for identity, line in first.items():
        by_id = int(line.prompt_id) if line.prompt_id.isdecimal() else -1
        text = canonical(line.prompt)
        fits = 0 <= by_id < len(prompts) and prompts[by_id].text == text
        place = by_id if fits else places.get(text)
        if place is None:
            raise FileFormatError(
                f"{asked.table}, {line.place}: {line.prompt!r} is no prompt of {name}; leave --suite out, or "
                "take the suite's prompts as they are"
            )
        found[identity] = place
    twins = Counter(found.values())
    for identity, place in found.items():
        if twins[place] > 1:
            raise FileFormatError(
                f"{asked.table}, {first[identity].place}: two of its prompts are prompt {place} of {name} "
                f"({prompts[place].text!r}), which stands there several times; give prompt_id, counted from 0"
            )
    return prompts, found


# reading the table


def _lines(asked: Import) -> Iterator[_Line]:
    seen: dict[tuple[str, int, str], str] = {}
    for place, row in _rows(asked.table):
        for reward, value in _scores(asked, place, row):
            sample = _number(asked.table, place, "sample", row.get("sample") or "0")
            line = _Line(
                place,
                prompt=row[PROMPT],
                prompt_id=row.get("prompt_id", ""),
                sample=int(sample),
                category=row.get("category", ""),
                image=row.get("image", ""),
                reward=reward,
                score=_number(asked.table, place, reward, value) if value.strip() else None,
            )
            twin = seen.setdefault((_identity(line), line.sample, reward), place)
            if twin != place:
                raise FileFormatError(
                    f"{asked.table}, {place}: {reward} of this prompt's sample {line.sample} stands already "
                    f"in {twin}; number the samples in a column 'sample'"
                )
            yield line


def _scores(asked: Import, place: str, row: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """(reward, score as text) of a row."""
    if not row.get(PROMPT, "").strip():
        raise FileFormatError(f"{asked.table}, {place}: no {PROMPT!r} among {', '.join(row)}; add it")
    if asked.rewards:
        for reward in asked.rewards:
            if reward not in row:
                raise FileFormatError(f"{asked.table}, {place}: no column {reward!r} among {', '.join(row)}")
            yield reward, row[reward]
    elif REWARD in row and SCORE in row:
        yield row[REWARD], row[SCORE]
    else:
        others = [name for name in row if name not in (PROMPT, *OPTIONAL)]
        raise FileFormatError(
            f"{asked.table}, {place}: no columns 'reward' and 'score'; name those that are rewards, such as "
            f"--rewards {','.join(others) or 'NAME'}"
        )


def _number(table: Path, place: str, name: str, text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    whole = 0 <= value < SAMPLES and value == int(value) if math.isfinite(value) else False
    if not math.isfinite(value) or (name == "sample" and not whole):
        raise FileFormatError(f"{table}, {place}: {name} is {text!r}; expected a number, or nothing")
    return value


def _rows(table: Path) -> Iterator[tuple[str, dict[str, str]]]:
    """(place, cells) of a CSV, TSV or JSONL file."""
    text = read_text(table)
    kind = table.suffix.lower()
    if kind == ".jsonl":
        for number, line in enumerate(text.split("\n"), 1):
            if line.strip():
                yield f"line {number}", _cells(table, f"line {number}", line)
    elif kind in (".csv", ".tsv"):
        reader = csv.DictReader(io.StringIO(text), delimiter="," if kind == ".csv" else "\t", strict=True)
        try:
            for row in reader:
                if None in row or None in row.values():
                    raise FileFormatError(
                        f"{table}, line {reader.line_num}: not as many cells as in the head; mend the row"
                    )
                yield f"line {reader.line_num}", {key.strip(): value for key, value in row.items()}
        except csv.Error as error:
            raise FileFormatError(f"{table}, line {reader.line_num}: {error}; mend the quotes") from error
    else:
        raise FileFormatError(f"{table}: unknown kind {kind!r}; give .csv, .tsv or .jsonl")


def _cells(table: Path, place: str, line: str) -> dict[str, str]:
    try:
        record = json.loads(line)
    except ValueError as error:
        raise FileFormatError(f"{table}, {place}: not JSON ({error}); mend it") from error
    if not isinstance(record, dict):
        raise FileFormatError(f"{table}, {place}: expected an object with 'prompt', not {line[:40]!r}")
    return {
        key: "" if value is None else value if isinstance(value, str) else json.dumps(value)
        for key, value in record.items()
    }
