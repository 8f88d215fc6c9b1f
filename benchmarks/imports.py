"""Import scores that another tool computed: a table of them becomes a run that leaderboards compare."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from leaderboards.records import Header, Planned, Sample, Score, ScoreSet, folder_name, short_id
from leaderboards.run_state import RunState
from leaderboards.scores import SAMPLES
from tcbench.errors import FileFormatError
from tcbench.files import locked, sha256
from tcbench.tables import read_table
from textcraftor.diffusion.prompts import Prompt, canonical, prompts_sha256

_PROMPT, _REWARD, _SCORE = "prompt", "reward", "score"
_OPTIONAL = ("prompt_id", "sample", "category", "image")


@dataclass(frozen=True)
class ScoreTable:
    """A table of scores, with the information that the table does not contain."""

    path: Path
    """A .csv, .tsv or .jsonl file with a row per score (columns prompt, reward, score) or per image."""
    system: str
    """Name of the system in leaderboards."""
    out: Path
    """Folder that holds the run folders."""
    prompts: tuple[str, Sequence[Prompt]] | None = None
    """Name and prompts of the suite; None makes a suite of the table's own prompts, named by their hash."""
    rewards: Sequence[str] = ()
    """Columns that are rewards, for a table with a row per image."""
    lower_is_better: Sequence[str] = ()
    trained_on: Sequence[str] | None = None
    """Rewards that the system was trained on; None if undeclared."""


@dataclass(frozen=True)
class _Entry:
    """One score of the table."""

    where: str
    """Such as "line 7"."""
    prompt: str
    prompt_id: str
    sample: int
    category: str
    image: str
    reward: str
    score: float | None

    @property
    def identity(self) -> str:
        """Key of the prompt: its id if there is one, because benchmarks repeat prompts."""
        return self.prompt_id or canonical(self.prompt)


def import_scores(table: ScoreTable) -> RunState:
    """Make a run of the table's scores. Repeating it changes nothing.

    Raises:
        FileFormatError: If the table is not as described, with file, line and fix.
    """
    entries = list(_entries(table))
    if not entries:
        raise FileFormatError(f"{table.path} has no score; expected at least one row")
    _check_names(table, {entry.reward for entry in entries})
    prompts, ids = _match_prompts(table, entries)
    prompts_hash = prompts_sha256(prompt.text for prompt in prompts)
    suite = table.prompts[0] if table.prompts else f"imported_{prompts_hash[:8]}"
    # samples are numbered from 0, whatever numbers the table uses
    indices = {number: index for index, number in enumerate(sorted({entry.sample for entry in entries}))}
    entries = [replace(entry, sample=indices[entry.sample]) for entry in entries]
    settings = {
        "scores_sha256": sha256(table.path),
        "prompts_sha256": prompts_hash,
        "rewards": list(table.rewards),
        "lower_is_better": sorted(table.lower_is_better),
    }
    planned = sorted(set(ids.values()))
    header = Header(
        suite=suite,
        suite_sha256=prompts_hash,
        system=table.system,
        generation_id=short_id(settings),
        generation=settings,
        planned=Planned(tuple(planned), of=len(prompts), seeds=len(indices)),
        watermarks=() if len(planned) == len(prompts) else (f"{len(planned)} of {len(prompts)} prompts",),
        details={"name": table.system, "table": table.path.name}
        | ({} if table.trained_on is None else {"trained_on": list(table.trained_on)}),
    )
    path = table.out / folder_name(suite, table.system, header.generation_id)
    with locked(path):
        run = RunState.create(path, header)
        if not run.samples:
            _write_records(run, table, prompts, ids, entries)
    return run


def _check_names(table: ScoreTable, rewards: set[str]) -> None:
    """Check names of rewards that are not from the table; `trained_on` may name other rewards."""
    for name in table.lower_is_better:
        if name not in rewards:
            raise FileFormatError(
                f"{table.path} has no reward {name!r}, which was given as lower-is-better; it has "
                f"{', '.join(sorted(rewards))}"
            )
    spellings = {name.lower(): name for name in rewards}
    for name in table.trained_on or ():
        if name not in rewards and name.lower() in spellings:
            raise FileFormatError(
                f"{table.path} has no reward {name!r}; did you mean {spellings[name.lower()]!r}?"
            )


def _write_records(
    run: RunState,
    table: ScoreTable,
    prompts: Sequence[Prompt],
    ids: Mapping[str, int],
    entries: Sequence[_Entry],
) -> None:
    samples: dict[tuple[int, int], Sample] = {}
    for entry in entries:
        prompt = prompts[ids[entry.identity]]
        if (prompt.id, entry.sample) not in samples:
            image, digest = _image(table.path, entry)
            category = prompt.category or entry.category
            samples[prompt.id, entry.sample] = Sample(
                prompt.id, entry.sample, prompt.text, prompt.text, category, 0, image, digest
            )
    for reward in dict.fromkeys(entry.reward for entry in entries):
        score_set = ScoreSet(
            reward,
            short_id({"imported": reward}),
            higher_is_better=reward not in table.lower_is_better,
            role="imported",
            family=reward,
            details={"table": table.path.name},
        )
        scores = [
            _score(samples[ids[entry.identity], entry.sample], entry)
            for entry in entries
            if entry.reward == reward
        ]
        run.append_scores(score_set, scores)
    # samples last: an interrupted import has none, and starts again
    run.append_samples(samples.values())


def _score(sample: Sample, entry: _Entry) -> Score:
    if entry.score is None:
        reason = "no score in the table"
        return Score(*sample.key, "failed", reason=reason, image_sha256=sample.sha256)
    return Score(*sample.key, "ok", entry.score, image_sha256=sample.sha256)


def _image(table: Path, entry: _Entry) -> tuple[str, str | None]:
    """Path and hash of the image; a table may have no images."""
    if not entry.image:
        return f"not in {table.name}", None
    path = table.parent / entry.image
    try:
        return str(path.resolve()), sha256(path)
    except OSError as error:
        raise FileFormatError(
            f"{table}, {entry.where}: cannot read the image {path} ({error.strerror}); fix the column "
            "'image' or remove it"
        ) from error


def _match_prompts(table: ScoreTable, entries: Sequence[_Entry]) -> tuple[Sequence[Prompt], dict[str, int]]:
    """The prompt set, and the id in it of each identity in the table."""
    first: dict[str, _Entry] = {}
    for entry in entries:
        same = first.setdefault(entry.identity, entry)
        if canonical(same.prompt) != canonical(entry.prompt):
            raise FileFormatError(
                f"{table.path}, {entry.where}: prompt_id {entry.prompt_id!r} has another prompt than in "
                f"{same.where}; each id must belong to one prompt"
            )
    if table.prompts is None:
        prompts = [
            Prompt(n, canonical(entry.prompt), entry.category) for n, entry in enumerate(first.values())
        ]
        return prompts, {identity: number for number, identity in enumerate(first)}
    suite, suite_prompts = table.prompts
    by_text: dict[str, int] = {}
    for prompt in suite_prompts:
        by_text.setdefault(prompt.text, prompt.id)
    ids: dict[str, int] = {}
    for identity, entry in first.items():
        text = canonical(entry.prompt)
        number = int(entry.prompt_id) if entry.prompt_id.isdecimal() else -1
        # an id counts only if its prompt fits; other tools may number prompts in another way
        fits = 0 <= number < len(suite_prompts) and suite_prompts[number].text == text
        if not fits and text not in by_text:
            raise FileFormatError(
                f"{table.path}, {entry.where}: {entry.prompt!r} is not a prompt of {suite}; omit --suite, or "
                "use the suite's exact prompts"
            )
        ids[identity] = number if fits else by_text[text]
    counts = Counter(ids.values())
    for identity, number in ids.items():
        if counts[number] > 1:
            raise FileFormatError(
                f"{table.path}, {first[identity].where}: two prompts of the table match prompt {number} of "
                f"{suite} ({suite_prompts[number].text!r}), which occurs several times; give prompt_id, "
                "counted from 0"
            )
    return suite_prompts, ids


def _entries(table: ScoreTable) -> Iterator[_Entry]:
    seen: dict[tuple[str, int, str], str] = {}
    for where, value in read_table(table.path, kinds=(".csv", ".tsv", ".jsonl"), quoted_tsv=True):
        row = _cells(table.path, where, value)
        for reward, text in _row_scores(table, where, row):
            entry = _Entry(
                where,
                prompt=row[_PROMPT],
                prompt_id=row.get("prompt_id", ""),
                sample=int(_number(table.path, where, "sample", row.get("sample") or "0")),
                category=row.get("category", ""),
                image=row.get("image", ""),
                reward=reward,
                score=_number(table.path, where, reward, text) if text.strip() else None,
            )
            twin = seen.setdefault((entry.identity, entry.sample, reward), where)
            if twin != where:
                raise FileFormatError(
                    f"{table.path}, {where}: {reward} of sample {entry.sample} of this prompt occurs already "
                    f"in {twin}; number the samples in a column 'sample'"
                )
            yield entry


def _row_scores(table: ScoreTable, where: str, row: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """(reward, score as text) of a row."""
    columns = ", ".join(row)
    if not row.get(_PROMPT, "").strip():
        raise FileFormatError(f"{table.path}, {where}: no {_PROMPT!r}; columns: {columns}; add it")
    if table.rewards:
        for reward in table.rewards:
            if reward not in row:
                raise FileFormatError(f"{table.path}, {where}: no column {reward!r}; columns: {columns}")
            yield reward, row[reward]
    elif _REWARD in row and _SCORE in row:
        yield row[_REWARD], row[_SCORE]
    else:
        others = [name for name in row if name not in (_PROMPT, *_OPTIONAL)]
        raise FileFormatError(
            f"{table.path}, {where}: no columns 'reward' and 'score'; name the columns that are rewards, "
            f"such as --rewards {','.join(others) or 'NAME'}"
        )


def _number(table: Path, where: str, name: str, text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    whole = math.isfinite(value) and 0 <= value < SAMPLES and value == int(value)
    if not math.isfinite(value) or (name == "sample" and not whole):
        raise FileFormatError(f"{table}, {where}: {name} is {text!r}; expected a number, or an empty cell")
    return value


def _cells(table: Path, where: str, value: object) -> dict[str, str]:
    """The cells of a row as text; empty for null."""
    if not isinstance(value, dict):
        raise FileFormatError(f"{table}, {where}: expected an object with 'prompt', not {str(value)[:40]!r}")
    return {
        name: "" if cell is None else cell if isinstance(cell, str) else json.dumps(cell)
        for name, cell in value.items()
    }
