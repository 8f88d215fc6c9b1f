"""Records of a run: ids, names and the header's text."""

from __future__ import annotations

from pathlib import Path

import pytest

from leaderboards.records import Header, Planned, Sample, folder_name, from_record, short_id
from tcbench.errors import FileFormatError

HEADER = Header(
    suite="toy",
    suite_sha256="0" * 64,
    system="micro",
    generation_id="aaaaaaaaaaaa",
    generation={"steps": 2},
    planned=Planned((0, 1, 2), of=5, seeds=1),
    provenance=({"torch": "1"},),
)


def test_short_id_depends_on_content_alone() -> None:
    assert short_id({"a": 1, "b": 2}) == short_id({"b": 2, "a": 1}) != short_id({"a": 1, "b": 3})
    assert len(short_id({})) == 12


def test_folder_name_is_safe() -> None:
    assert folder_name("parti", "org/model: v2", "abc") == "parti-org_model_v2-abc"


def test_header_round_trip() -> None:
    assert Header.from_json(HEADER.to_json(), Path("run.json")) == HEADER


def test_damaged_header_is_an_error() -> None:
    with pytest.raises(FileFormatError, match=r"run.json is not a run header"):
        Header.from_json("{}", Path("run.json"))


def test_plan_contains_its_prompts_and_seeds() -> None:
    assert HEADER.planned.count == 3
    assert (2, 0) in HEADER.planned
    assert (3, 0) not in HEADER.planned
    assert (2, 1) not in HEADER.planned


def test_a_plan_is_wider_only_if_it_contains_the_other_one() -> None:
    plan = Planned((0, 1, 2), of=5, seeds=2)
    assert Planned((3, 2, 1, 0), of=5, seeds=2).is_wider_than(plan)
    assert Planned((0, 1, 2), of=5, seeds=3).is_wider_than(plan)
    assert not Planned((2, 1, 0), of=5, seeds=2).is_wider_than(plan)
    assert not Planned((0, 1, 2, 3, 4), of=5, seeds=1).is_wider_than(plan)  # fewer images of each prompt
    assert not Planned((0, 1, 3, 4), of=5, seeds=2).is_wider_than(plan)  # without prompt 2
    assert not Planned((0, 1), of=5, seeds=9).is_wider_than(plan)


def test_record_with_unknown_fields_is_an_error() -> None:
    with pytest.raises(FileFormatError, match="a Sample record has the fields"):
        from_record(Sample, {"prompt_id": 0, "colour": "red"})
