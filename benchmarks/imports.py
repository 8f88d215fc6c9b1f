"""Import scores that another tool computed: a table of them becomes a run that leaderboards compare."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.image_rows import number_images
from benchmarks.systems import System
from leaderboards.records import Header, Planned, Sample, Score, ScoreSet, folder_name, short_id
from leaderboards.run_state import RunState
from tcbench.errors import ConfigError, FileFormatError, UnknownName
from tcbench.files import locked, sha256
from tcbench.tables import Row, read_table
from textcraftor.diffusion.prompts import Prompt, canonical, prompts_sha256

_MEANINGS = ("prompt", "prompt_id", "sample", "category", "image", "reward", "score")


@dataclass(frozen=True)
class ScoreTable:
    """A table of scores, with the information that the table does not contain."""

    path: Path
    """A file that `tcbench.tables.read_table` reads, with a row per score (columns prompt, reward, score) or
    per image."""
    system: str
    """Name of the system in leaderboards; "" if the table names the systems."""
    out: Path
    """Folder that holds the run folders."""
    prompts: tuple[str, Sequence[Prompt]] | None = None
    """Name and prompts of the suite; None makes a suite of the table's own prompts, named by their hash."""
    rewards: Sequence[str] = ()
    """Columns that are rewards, for a table with a row per image."""
    lower_is_better: Sequence[str] = ()
    trained_on: Sequence[str] | None = None
    """Rewards that the systems of the table were trained on; None if undeclared."""
    system_column: str = ""
    """Column with the name of the system of each row, for a table of several systems."""

    def __post_init__(self) -> None:
        if bool(self.system) == bool(self.system_column):
            raise ConfigError(
                "give either the name of the table's system (--system NAME) or the column that names the "
                "system of each row (--system-column COLUMN)"
            )


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
    identity: str
    """Key of the prompt: its id if there is one, because benchmarks repeat prompts."""


def import_scores(table: ScoreTable) -> list[RunState]:
    """Make a run of the scores of each system in the table. Repeating it changes nothing.

    Returns:
        The runs, in the order of their systems in the table.

    Raises:
        FileFormatError: If the table is not as described, with file, line and fix.
    """
    rows = list(read_table(table.path))
    # all systems are read before the first run is written
    systems = {name: list(_entries(table, own)) for name, own in _by_system(table, rows).items()}
    for entries in systems.values():
        if not entries:
            raise FileFormatError(f"{table.path} has no score; expected at least one row")
    # the prompts of all systems are one suite, also where a system lacks some; so are their rewards
    everything = [entry for entries in systems.values() for entry in entries]
    rewards = {entry.reward for entry in everything}
    _check_names(table, rewards)
    prompts, ids = _match_prompts(table, everything)
    declaration = _declaration(table, rewards)
    return [_import_system(table, name, own, prompts, ids, declaration) for name, own in systems.items()]


def _by_system(table: ScoreTable, rows: Sequence[Row]) -> dict[str, list[Row]]:
    """The rows of each system of the table."""
    if not table.system_column:
        return {table.system: list(rows)}
    systems: dict[str, list[Row]] = {}
    for row in rows:
        if table.system_column not in row.cells:
            raise UnknownName("column", table.system_column, row.cells, source=f"{table.path}, {row.where}")
        name = row.cells[table.system_column].strip()
        if not name:
            raise FileFormatError(
                f"{table.path}, {row.where}: the column {table.system_column!r} is empty; name the system"
            )
        systems.setdefault(name, []).append(row)
    if not systems:
        raise FileFormatError(f"{table.path} has no score; expected at least one row")
    return systems


def _import_system(
    table: ScoreTable,
    system: str,
    entries: Sequence[_Entry],
    prompts: Sequence[Prompt],
    ids: Mapping[str, int],
    declaration: Mapping[str, Sequence[str]],
) -> RunState:
    prompts_hash = prompts_sha256(prompt.text for prompt in prompts)
    suite = table.prompts[0] if table.prompts else f"imported_{prompts_hash[:8]}"
    settings = {
        "scores_sha256": sha256(table.path),
        "prompts_sha256": prompts_hash,
        "rewards": list(table.rewards),
        "lower_is_better": sorted(table.lower_is_better),
    }
    if table.system_column:  # otherwise the systems of one file would be one run
        settings["system"] = [table.system_column, system]
    planned = sorted({ids[entry.identity] for entry in entries})
    header = Header(
        suite=suite,
        suite_sha256=prompts_hash,
        system=system,
        generation_id=short_id(settings),
        generation=settings,
        planned=Planned(tuple(planned), of=len(prompts), seeds=1 + max(entry.sample for entry in entries)),
        watermarks=() if len(planned) == len(prompts) else (f"{len(planned)} of {len(prompts)} prompts",),
        details={"name": system, "table": table.path.name, **declaration},
    )
    path = table.out / folder_name(suite, system, header.generation_id)
    with locked(path):
        run = RunState.create(path, header)
        if not run.samples:
            _write_records(run, table, prompts, ids, entries)
    return run


def _declaration(table: ScoreTable, rewards: Container[str]) -> dict[str, list[str]]:
    """The declared training rewards, as boards need them; the table's own rewards have no known family."""
    if table.trained_on is None:
        return {}
    known = System.reward_families([name for name in table.trained_on if name not in rewards])
    return {"trained_on": list(table.trained_on)} | known


def _check_names(table: ScoreTable, rewards: set[str]) -> None:
    """Check names of rewards that are not from the table; `trained_on` may name other rewards."""
    for name in table.lower_is_better:
        if name not in rewards:
            raise FileFormatError(
                f"{table.path} has no reward {name!r}, which was given as lower-is-better; it has "
                f"{FileFormatError.listed(sorted(rewards))}"
            )
    System.check_rewards(table.trained_on or (), also=sorted(rewards), source=f"{table.path}, trained on")


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
        first.setdefault(entry.identity, entry)
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


def _entries(table: ScoreTable, rows: Sequence[Row]) -> Iterator[_Entry]:
    numbered = number_images(table.path, rows, [row.get("image") for row in rows])
    seen: dict[tuple[str, int, str], Row] = {}
    for row, (identity, sample) in zip(rows, numbered, strict=True):
        if not canonical(row.get("prompt")):
            raise FileFormatError(
                f"{table.path}, {row.where}: the prompt is empty; write one or remove the row"
            )
        for reward, text in _row_scores(table, row):
            twin = seen.setdefault((identity, sample, reward), row)
            if twin is not row:
                raise FileFormatError(
                    f"{table.path}, {row.where}: {reward} of sample {sample} of this prompt is already given "
                    f"in {twin.where}; {_apart(twin, row, table)}"
                )
            yield _Entry(
                row.where,
                prompt=row.get("prompt"),
                prompt_id=row.get("prompt_id"),
                sample=sample,
                category="" if row.column("category") in table.rewards else row.get("category"),
                image=row.get("image"),
                reward=reward,
                score=_number(table.path, row.where, reward, text) if text.strip() else None,
                identity=identity,
            )


def _apart(first: Row, second: Row, table: ScoreTable) -> str:
    """Advice for two rows with the same reward, prompt and sample: a column that tells them apart, if any."""
    known = {first.column(meaning) for meaning in _MEANINGS} | set(table.rewards)
    names = [
        name
        for name, cell in first.cells.items()
        if name not in known and cell != second.cells.get(name, cell) and not _is_number(cell)
    ]
    samples = "number the samples in a column 'sample'"
    if table.system_column or not names:
        return samples
    return (
        f"if the column {names[0]!r} names systems, give --system-column {names[0]} instead of --system; "
        f"otherwise {samples}"
    )


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _row_scores(table: ScoreTable, row: Row) -> Iterator[tuple[str, str]]:
    """(reward, score as text) of a row."""
    where = f"{table.path}, {row.where}"
    if table.rewards:
        for reward in table.rewards:
            if reward not in row.cells:
                raise UnknownName("column", reward, row.cells, source=where)
            yield reward, row.cells[reward]
    elif row.column("reward") and row.column("score"):
        reward = row.get("reward")
        if not reward:
            raise FileFormatError(f"{where}: the reward is empty; name it")
        yield reward, row.get("score")
    else:
        known = {row.column(meaning) for meaning in _MEANINGS} | {table.system_column}
        scores = [name for name, cell in row.cells.items() if name not in known and _is_number(cell)]
        scores = scores or [name for name in [row.column("score")] if name]
        raise FileFormatError(
            f"{where}: no columns 'reward' and 'score'; name the columns that are rewards, such as "
            f"--rewards {','.join(scores) or 'NAME'}"
        )


def _number(table: Path, where: str, name: str, text: str) -> float:
    value = float(text) if _is_number(text) else math.nan
    if not math.isfinite(value):
        raise FileFormatError(f"{table}, {where}: {name} is {text!r}; expected a number, or an empty cell")
    return value
