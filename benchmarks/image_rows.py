"""Match rows of a table to prompts and samples."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from leaderboards.scores import SAMPLES
from tcbench.errors import FileFormatError
from tcbench.tables import Row
from textcraftor.diffusion.prompts import canonical


def number_images(path: Path, rows: Sequence[Row], images: Sequence[str]) -> list[tuple[str, int]]:
    """Return the identity of each row's prompt and the number of its image among those of the prompt.

    The identity is the column `prompt_id`, otherwise the prompt itself. The number comes from the column
    `sample`; without one, the images of a prompt are counted in the order of the file.

    Args:
        path: The table, for messages.
        rows: Its rows.
        images: The image of each row; "" where there is none.

    Raises:
        FileFormatError: If a `prompt_id` has two prompts, a `sample` is not a number, or it is unclear
            whether repeated prompts are several prompts or several images of one.
    """
    identities = _identities(path, rows)
    if any(row.column("sample") for row in rows):
        return list(zip(identities, _stated_numbers(path, rows, identities), strict=True))
    identities = _separated(path, rows, identities, images)
    counted: dict[str, dict[str, int]] = {}
    keys = []
    for identity, image in zip(identities, images, strict=True):
        numbers = counted.setdefault(identity, {})
        keys.append((identity, numbers.setdefault(image, len(numbers))))
    return keys


def _identities(path: Path, rows: Sequence[Row]) -> list[str]:
    first: dict[str, Row] = {}
    identities = []
    for row in rows:
        prompt = canonical(row.get("prompt"))
        identity = row.get("prompt_id") or prompt
        same = first.setdefault(identity, row)
        if canonical(same.get("prompt")) != prompt:
            raise FileFormatError(
                f"{path}, {row.where}: prompt_id {identity!r} has a different prompt in {same.where}; each "
                "id must belong to one prompt"
            )
        identities.append(identity)
    return identities


def _stated_numbers(path: Path, rows: Sequence[Row], identities: Sequence[str]) -> list[int]:
    """Return the numbers of the column `sample`, counted from 0.

    A number means the same image everywhere if some prompt has all numbers. Otherwise the numbers run on from
    prompt to prompt, and only their order within a prompt counts.
    """
    stated = [_number(path, row) for row in rows]
    by_prompt: dict[str, set[int]] = {}
    for identity, number in zip(identities, stated, strict=True):
        by_prompt.setdefault(identity, set()).add(number)
    everywhere = sorted(set(stated))
    common = any(len(numbers) == len(everywhere) for numbers in by_prompt.values())
    places = {
        identity: {number: place for place, number in enumerate(everywhere if common else sorted(numbers))}
        for identity, numbers in by_prompt.items()
    }
    return [places[identity][number] for identity, number in zip(identities, stated, strict=True)]


def _number(path: Path, row: Row) -> int:
    text = row.get("sample") or "0"
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not (0 <= value < SAMPLES and value == int(value)):
        raise FileFormatError(
            f"{path}, {row.where}: sample is {text!r}; expected a whole number, or an empty cell"
        )
    return int(value)


def _separated(path: Path, rows: Sequence[Row], identities: list[str], images: Sequence[str]) -> list[str]:
    """Return identities that tell repeated prompts without an id apart, unless they are images of one prompt.

    Equal numbers for all prompts are images of one prompt. Where most prompts occur once, the others are
    repeated prompts, as in some benchmarks.
    """
    texts = dict.fromkeys(
        (identity, image)
        for row, identity, image in zip(rows, identities, images, strict=True)
        if image and not row.get("prompt_id")
    )
    counts = Counter(identity for identity, _ in texts)
    if len(set(counts.values())) < 2:
        return identities
    if 2 * sum(count == 1 for count in counts.values()) <= len(counts):
        repeated = next(identity for identity, count in counts.items() if count > 1)
        where = next(row.where for row, one in zip(rows, identities, strict=True) if one == repeated)
        raise FileFormatError(
            f"{path}, {where}: {repeated!r} has {counts[repeated]} images, but other prompts have a "
            "different number; add a column 'prompt_id' (equal for the images of one prompt) or 'sample'"
        )
    return [
        identity if row.get("prompt_id") else f"{identity}\n{image}"
        for row, identity, image in zip(rows, identities, images, strict=True)
    ]
