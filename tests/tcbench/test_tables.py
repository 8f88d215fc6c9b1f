"""Tables: one reader for CSV, TSV, JSON and JSON lines."""

from __future__ import annotations

from pathlib import Path

import pytest

from tcbench.errors import FileFormatError
from tcbench.tables import Row, read_table


def read(folder: Path, name: str, content: str) -> list[Row]:
    (folder / name).write_text(content, encoding="utf-8")
    return list(read_table(folder / name))


def test_rows_have_their_line_and_cells(tmp_path: Path) -> None:
    assert read(tmp_path, "t.csv", '\ufeff Text ,b,,\n"x\ny",2,,\n\n3,4\n') == [
        Row("line 3", {"Text": "x\ny", "b": "2"}),
        Row("line 5", {"Text": "3", "b": "4"}),
    ]
    assert read(tmp_path, "t.jsonl", '{"prompt": "c", "a": null}\n\n"b"\n') == [
        Row("line 1", {"prompt": "c", "a": ""}),
        Row("line 3", {"prompt": "b"}),
    ]


def test_columns_are_read_by_their_meaning_in_any_case(tmp_path: Path) -> None:
    (row,) = read(tmp_path, "t.csv", "Caption,File_Name,HPS\na cat, a.png ,3\n")
    assert (row.column("prompt"), row.get("prompt"), row.get("image")) == ("Caption", "a cat", "a.png")
    assert (row.column("sample"), row.get("sample")) == (None, "")


PANDAS = {
    "list": '{"Prompt": ["a", "b"], "n": [1, 2]}',
    "columns": '{"Prompt": {"0": "a", "1": "b"}, "n": {"0": 1, "1": 2}}',
    "index": '{"0": {"Prompt": "a", "n": 1}, "1": {"Prompt": "b", "n": 2}}',
    "split": '{"columns": ["Prompt", "n"], "index": [0, 1], "data": [["a", 1], ["b", 2]]}',
    "table": '{"schema": {"fields": []}, "data": [{"Prompt": "a", "n": 1}, {"Prompt": "b", "n": 2}]}',
    "records": '[{"Prompt": "a", "n": 1}, {"Prompt": "b", "n": 2}]',
}


@pytest.mark.parametrize("orientation", PANDAS)
def test_json_tables_of_pandas_are_rows(tmp_path: Path, orientation: str) -> None:
    assert read(tmp_path, "t.json", PANDAS[orientation]) == [
        Row("entry 1", {"Prompt": "a", "n": "1"}),
        Row("entry 2", {"Prompt": "b", "n": "2"}),
    ]


def test_an_object_of_lists_without_prompts_has_categories_as_keys(tmp_path: Path) -> None:
    rows = read(tmp_path, "t.json", '{"pets": ["a", "b"], "Colours": ["c"]}')
    assert [(row.get("prompt"), row.get("category")) for row in rows] == [
        ("a", "pets"),
        ("b", "pets"),
        ("c", "Colours"),
    ]


def test_lists_of_equal_length_are_categories_if_none_holds_labels(tmp_path: Path) -> None:
    content = '{"anime": ["a cat", "a dog", "a cat"], "photo": ["red sky", "a tree", "a lamp"]}'
    rows = read(tmp_path, "t.json", content)
    assert [row.get("category") for row in rows] == ["anime"] * 3 + ["photo"] * 3


MAYBE_TABLES = {
    "a known column": '{"description": ["a cat", "a dog"], "category": ["of cats", "of dogs"]}',
    "a known column alone": '{"query": ["a cat", "a dog", "a cow"], "Style": ["oil paint"]}',
    "prompts of several kinds": '{"positive_prompt": ["a cat", "a dog"], "negative_prompt": ["bad blur"]}',
    "names in camel case": '{"positivePrompt": ["a cat"], "seedText": ["a dog"]}',
    "single words": '{"query": ["a cat", "a dog"], "topic": ["pets", "pets"]}',
    "repeated texts": '{"query": ["a cat", "a dog"], "topic": ["some pets", "some pets"]}',
    "numbers": '{"query": ["a cat", "a dog"], "seed": [1, 2]}',
    "one column": '{"description": ["a cat", "a dog"]}',
}


@pytest.mark.parametrize("content", MAYBE_TABLES.values(), ids=MAYBE_TABLES)
def test_tables_without_a_known_column_of_prompts_are_an_error(tmp_path: Path, content: str) -> None:
    message = (
        "may be a table without a column of prompts; keys: .*; name that column prompt, prompts, text or"
    )
    with pytest.raises(FileFormatError, match=message) as raised:
        read(tmp_path, "t.json", content)
    assert "if the keys are categories, write a list of objects" in str(raised.value)


@pytest.mark.parametrize("key", ["prompts", "data", "rows"])
def test_rows_may_stand_under_one_key(tmp_path: Path, key: str) -> None:
    content = f'{{"version": 1, "{key}": [{{"prompt": "a cat", "category": "pets"}}, {{"prompt": "b"}}]}}'
    assert read(tmp_path, "t.json", content) == [
        Row("entry 1", {"prompt": "a cat", "category": "pets"}),
        Row("entry 2", {"prompt": "b"}),
    ]


def test_cells_of_a_table_may_be_objects(tmp_path: Path) -> None:
    (row,) = read(tmp_path, "t.json", '{"prompt": ["a cat"], "include": [{"class": "cat"}]}')
    assert row == Row("entry 1", {"prompt": "a cat", "include": '{"class": "cat"}'})


def test_several_lists_of_rows_are_an_error(tmp_path: Path) -> None:
    content = '{"train": [{"prompt": "a"}], "test": [{"prompt": "b"}]}'
    with pytest.raises(FileFormatError, match=r"several lists \(train, test\); expected one .*remove"):
        read(tmp_path, "t.json", content)


def test_a_message_names_some_of_many_columns_only(tmp_path: Path) -> None:
    header = ",".join(f"column_{number}" for number in range(99))
    with pytest.raises(
        FileFormatError, match=r"columns: column_0, .*, and 9\d more; name one prompt"
    ) as raised:
        read(tmp_path, "t.csv", header + "\n" + "," * 98 + "\n")
    assert len(str(raised.value).removeprefix(str(tmp_path))) < 200


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"prompt": ["a", "b"], "category": ["x"]}', "different lengths .*rename 'prompt'"),
        ('{"Text": ["a", "b"], "Colours": ["c", "d"]}', "'Text' is either a category or the column"),
    ],
)
def test_ambiguous_json_objects_are_an_error(tmp_path: Path, content: str, message: str) -> None:
    with pytest.raises(FileFormatError, match=message):
        read(tmp_path, "t.json", content)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"columns": ["prompt"], "data": [["a"], 1]}', "entry 2: expected a list of 1 cells, .* not 1; fix"),
        ('{"columns": ["prompt", "n"], "data": [["a"]]}', r"entry 1: expected a list of 2 cells, .*\['a'\]"),
        ('{"columns": ["prompt"], "data": [["a", 1]]}', r"entry 1: expected a list of 1 cells, .*\['a', 1\]"),
        ('[{"prompt": null}]', "entry 1: the prompt is None; expected text"),
    ],
)
def test_entries_without_the_cells_of_the_table_are_an_error(
    tmp_path: Path, content: str, message: str
) -> None:
    with pytest.raises(FileFormatError, match=message):
        read(tmp_path, "t.json", content)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("t.txt", "a cat\n # animals\na dog\n"),
        ("t.csv", "prompt\n# animals\na dog\n"),
        ("t.csv", "# animals\nprompt\na dog\n"),
        ("t.csv", "prompt,n\n\n # animals,\n"),
        ("t.csv", "prompt,n\n# animals\n"),
        ("t.tsv", "prompt\n# animals\na dog\n"),
        ("t.tsv", 'prompt\tn\n"a\nb"\t1\n# animals\t2\n'),
    ],
)
def test_lines_that_look_like_comments_are_an_error(tmp_path: Path, name: str, content: str) -> None:
    line = next(number for number, line in enumerate(content.split("\n"), 1) if "animals" in line)
    message = rf"line {line}: '# animals.*' begins with '#'.*no comments; remove .* in quotes in a .csv"
    with pytest.raises(FileFormatError, match=message):
        read(tmp_path, name, content)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("t.csv", 'prompt,n\n"#hashtag art",1\n"a\n#b",2\n'),
        ("t.csv", 'n,prompt\n1,#hashtag art\n2,"a\n#b"\n'),
        ("t.jsonl", '"#hashtag art"\n{"prompt": "a\\n#b"}\n'),
    ],
)
def test_prompts_may_begin_with_a_hash_where_no_line_does(tmp_path: Path, name: str, content: str) -> None:
    assert [row.get("prompt") for row in read(tmp_path, name, content)] == ["#hashtag art", "a\n#b"]


@pytest.mark.parametrize(
    ("content", "prompts"),
    [
        # as PartiPrompts writes them: quotes are part of the text
        ('Prompt\tn\n"G O" on a wall\t1\n"x"\t2\na "b"\t3\n', ['"G O" on a wall', '"x"', 'a "b"']),
        # as pandas and spreadsheets write them: quotes enclose cells that hold quotes, tabs or line ends
        ('prompt\tn\n"""G O"" on a wall"\t1\nplain\t2\n', ['"G O" on a wall', "plain"]),
        ('prompt\tn\n"a\tb"\t1\nplain\t2\n', ["a\tb", "plain"]),
        ('prompt\tn\n"a\nb"\t1\nplain\t2\n', ["a\nb", "plain"]),
        # everything quoted, as R does
        ('"prompt"\t"n"\n"x"\t"1"\n', ["x"]),
    ],
)
def test_quotes_of_tsv_are_read_as_they_were_written(
    tmp_path: Path, content: str, prompts: list[str]
) -> None:
    assert [row.get("prompt") for row in read(tmp_path, "t.tsv", content)] == prompts


def test_an_unclosed_quote_of_a_quoted_tsv_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileFormatError, match="fix the quotes of the row"):
        read(tmp_path, "t.tsv", 'prompt\tn\n"a ""b"""\t1\n"c\t2\n')


def test_short_rows_are_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileFormatError, match="line 3: expected 2 cells"):
        read(tmp_path, "t.csv", "prompt,b\n1,2\n3\n")


def test_other_kinds_are_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileFormatError, match=r"unknown file type '.xlsx'; expected one of .txt"):
        read(tmp_path, "t.xlsx", "")
