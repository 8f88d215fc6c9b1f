"""Settings: frozen records that are validated, and read from TOML files and the command line.

`validated` makes a class a validated record; pydantic does the work, and its errors become the project's own:
one line per problem, with what was given and what was expected. Free of torch.
"""

from __future__ import annotations

import inspect
import json
import tomllib
import types
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, fields, is_dataclass
from difflib import get_close_matches
from functools import wraps
from pathlib import Path
from typing import (
    Any,
    NamedTuple,
    TypeVar,
    Union,
    cast,
    dataclass_transform,
    get_args,
    get_origin,
    get_type_hints,
)

from pydantic import AfterValidator, ConfigDict, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass as pydantic_dataclass
from pydantic_core import ErrorDetails

from tcbench.errors import ConfigError, Problems, TcbenchError, UnknownName

T = TypeVar("T")


@dataclass_transform(frozen_default=True)
def validated(cls: type[T]) -> type[T]:
    """Make ``cls`` a frozen dataclass whose fields are validated whenever a record is created.

    Types are strict: text is not a number, and true is not 1; a whole number is accepted as a float, and
    infinity and NaN are not. Ranges are declared with ``Annotated[int, Field(ge=1)]``, choices with `one_of`;
    ``__post_init__`` checks fields together. Every error is a `TcbenchError`, also from
    `dataclasses.replace`.
    """
    config = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)
    record = pydantic_dataclass(frozen=True, config=config)(cls)
    names = list(inspect.signature(record).parameters)
    validate = record.__init__

    @wraps(validate)
    def __init__(self: Any, *args: Any, **kwargs: Any) -> None:
        try:
            validate(self, *args, **kwargs)
        except ValidationError as error:
            given = dict(zip(names, args, strict=False)) | kwargs
            raise _translated(error, record, given, source="") from None

    record.__init__ = __init__  # type: ignore[method-assign]
    return cast("type[T]", record)


def one_of(kind: str, known: Sequence[str] | Mapping[str, Any]) -> AfterValidator:
    """Return a validator that accepts known names only, for use in an ``Annotated`` type.

    Any other text raises `UnknownName`, with close matches:

        sampler: Annotated[str, one_of("sampler", SAMPLERS)] = "ddim"
    """

    def check(given: str) -> str:
        if given not in known:
            raise UnknownName(kind, given, [name for name in known if name])
        return given

    return AfterValidator(check)


def build_settings(
    cls: type[T],
    values: Mapping[str, Any],
    *,
    source: str,
    renamed: Mapping[str, str] | None = None,
    also: Sequence[str] = (),
) -> T:
    """Validate nested ``values`` into a record.

    TOML lists become tuples. A text where a list is expected is split at its commas; brackets and quotes
    around it may be left out, because a shell removes quotes.

    Args:
        cls: A class made with `validated`.
        values: Fields by name; the value of a nested record is a mapping, or such a record.
        source: Where the values are from, such as a file's path; errors begin with it.
        renamed: Old dotted keys and those that replaced them; an old key is an error that names the new one.
        also: Keys that the caller handles itself, offered as matches for an unknown one.

    Returns:
        The record.

    Raises:
        UnknownName: For a key that ``cls`` does not have.
        ConfigError: For an old key, a missing one, or a wrong value.
        Problems: For several of these.
    """
    plain = _plain(cls, values)
    errors: list[TcbenchError] = [
        ConfigError(f"{_prefix(source)}{old!r} is now {new!r}")
        for old, new in (renamed or {}).items()
        if _remove(plain, old.split("."))
    ]
    try:
        # JSON mode: strict about types, but a list is accepted for a tuple, and text for a path
        record = TypeAdapter(cls).validate_json(json.dumps(plain, default=str))
    except ValidationError as error:
        errors.append(_translated(error, cls, plain, source, also))
    if errors:
        raise Problems.of(errors)
    return record


def read_toml(path: Path) -> dict[str, Any]:
    """Return a TOML file's content; a byte-order mark is accepted.

    Raises:
        ConfigError: If the file cannot be read or is not TOML.
    """
    try:
        return tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not TOML: {error}") from error


def toml_value(value: Any) -> str:
    """Return text, a number, a truth value, a list or a table (inline) of these as TOML."""
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{toml_value(k)} = {toml_value(v)}" for k, v in value.items()) + " }"
    # JSON is TOML here, with two exceptions: TOML knows no surrogate pairs, which JSON's escapes use for
    # characters beyond U+FFFF, and requires an escape for U+007F
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def parse_assignment(text: str) -> dict[str, Any]:
    """Parse ``a.b=1`` into ``{"a": {"b": 1}}``. The value is TOML, or plain text if it is not.

    Raises:
        ConfigError: If there is no name or no equals sign.
    """
    name, equals, value = text.partition("=")
    keys = [key.strip() for key in name.split(".")]
    if not equals or not all(keys):
        raise ConfigError(f"invalid setting {text!r}; expected name=value, such as optimiser.lr=1e-4")
    parsed = _parse_value(value.strip())
    for key in reversed(keys):
        parsed = {key: parsed}
    return cast("dict[str, Any]", parsed)


def merge(*layers: Mapping[str, Any]) -> dict[str, Any]:
    """Merge nested mappings; later ones win, key by key."""
    merged: dict[str, Any] = {}
    for layer in layers:
        for key, value in layer.items():
            if isinstance(value, Mapping) and isinstance(before := merged.get(key, {}), Mapping):
                value = merge(before, value)
            merged[key] = value
    return merged


def rename_keys(values: Mapping[str, Any], renamed: Mapping[str, str]) -> dict[str, Any]:
    """Return ``values`` with old top-level keys under their new dotted keys, for files of earlier versions.

    A new key that is present wins over its old one.
    """
    result = {key: value for key, value in values.items() if key not in renamed or not _is_old(value)}
    for old, new in renamed.items():
        if old in values and old not in result:
            moved: Any = values[old]
            for key in reversed(new.split(".")):
                moved = {key: moved}
            result = merge(moved, result)
    return result


def _is_old(value: Any) -> bool:
    # A table is never old: `rewards = "..."` may have become `[rewards] mix = "..."`, under the same name.
    return not isinstance(value, Mapping)


def _remove(values: Any, keys: Sequence[str]) -> bool:
    """Remove an old key, also from each table of a list, and return whether it was there."""
    if isinstance(values, list):
        return bool(sum(_remove(item, keys) for item in values))  # not any(), which stops at the first
    if not isinstance(values, dict) or keys[0] not in values:
        return False
    if len(keys) > 1:
        return _remove(values[keys[0]], keys[1:])
    old = _is_old(values[keys[0]])
    if old:
        del values[keys[0]]
    return old


def _plain(annotation: Any, value: Any) -> Any:
    """Return ``value`` with records as mappings, and a text where a list is expected as a list."""
    annotation = _without_none(annotation)
    if is_dataclass(value) and not isinstance(value, type):
        value = asdict(value)
    if isinstance(value, Mapping):
        hints = get_type_hints(annotation) if is_dataclass(annotation) else {}
        return {key: _plain(hints.get(key, Any), item) for key, item in value.items()}
    if get_origin(annotation) is tuple and isinstance(value, str):
        return _split(value, get_args(annotation)[0])
    return [_plain(Any, item) for item in value] if isinstance(value, list | tuple) else value


def _split(text: str, kind: Any) -> Any:
    """Return a text as a list of names or whole numbers, split at its commas; unchanged if it is none."""
    stripped = text.strip()
    if stripped.startswith("[") and stripped.endswith("]"):
        stripped = stripped[1:-1]
    items = [item.strip().strip("\"'") for item in stripped.split(",")]
    if kind is int:
        return [int(item) for item in items] if all(item.isdecimal() for item in items) else text
    return [item for item in items if item] if kind is str else text


def _parse_value(text: str) -> Any:
    """Parse a TOML value; a text that is not TOML stands for itself."""
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


# Errors of pydantic in the project's words


_EXPECTED: Mapping[Any, tuple[str, str]] = {
    str: ("text", "names"),
    int: ("a whole number", "whole numbers"),
    float: ("a number", "numbers"),
    bool: ("true or false", "true or false values"),
    Path: ("a path", "paths"),
}
"""Descriptions of types: for one value, for several values."""

_LIMITS: Mapping[str, tuple[str, str]] = {
    "greater_than_equal": ("ge", "at least"),
    "greater_than": ("gt", "more than"),
    "less_than_equal": ("le", "at most"),
    "less_than": ("lt", "less than"),
}
"""Pydantic's error types for ranges: the key of the limit, and the text before it."""


class _Field(NamedTuple):
    """The field of a (nested) record that an error is about."""

    key: str
    """Dotted name, as a user writes it."""
    annotation: Any
    value: Any
    siblings: list[str]
    """Dotted names of the fields beside it."""


def _translated(
    error: ValidationError, cls: Any, values: Mapping[str, Any], source: str, also: Sequence[str] = ()
) -> TcbenchError:
    """Return the project's error for each of pydantic's; `Problems` for several."""
    errors: dict[str, TcbenchError] = {}  # by message: two wrong items of a list are one problem
    for detail in error.errors(include_url=False):
        ours = _one(detail, cls, values, source, also)
        errors.setdefault(str(ours), ours)
    return Problems.of(errors.values())


def _one(
    detail: ErrorDetails, cls: Any, values: Mapping[str, Any], source: str, also: Sequence[str]
) -> TcbenchError:
    field, kind, context = _locate(detail, cls, values), detail["type"], detail.get("ctx", {})
    prefix = _prefix(source)
    if kind == "unexpected_keyword_argument":
        return UnknownName("key", field.key, _matches(field, cls, also), source=source)
    if kind == "value_error":
        raised = context["error"]
        if isinstance(raised, TcbenchError):
            return _with_source(raised, source)
        return ConfigError(f"{prefix}{raised}")
    if kind == "missing" and field.value is None:
        return ConfigError(f"{prefix}{field.key} is missing; expected {_describe(field.annotation)}")
    expected = _describe(field.annotation)
    if kind == "finite_number":
        expected = expected.replace("a number", "a finite number").replace("numbers", "finite numbers")
    if kind in _LIMITS:
        name, words = _LIMITS[kind]
        each = "each " if isinstance(field.value, list | tuple) else ""
        expected = f"{each}{words} {context[name]:g}"
    return ConfigError(f"{prefix}{field.key} = {_shown(field.value)}; expected {expected}")


def _locate(detail: ErrorDetails, cls: Any, values: Mapping[str, Any]) -> _Field:
    """Follow pydantic's location through nested records, down to the last name that a user can write."""
    key, annotation, value, siblings = "", cls, cast("Any", values), [""]
    for step in detail["loc"]:
        inner = _without_none(annotation)
        if is_dataclass(inner):
            names = [field.name for field in fields(inner)]
            name = names[step] if isinstance(step, int) else step  # an argument given by position
            siblings = [f"{key}.{other}" if key else other for other in names]
            key, annotation = f"{key}.{name}" if key else name, get_type_hints(inner).get(name, Any)
        elif isinstance(step, int) and is_dataclass(item := (get_args(inner) or (Any,))[0]):
            key, annotation = f"{key}[{step}]", item
        else:
            break
        value = _item(value, step if isinstance(step, int) and not is_dataclass(inner) else name)
    return _Field(key, annotation, value, siblings)


def _item(value: Any, step: int | str) -> Any:
    if isinstance(value, Mapping):
        return value.get(str(step))
    if isinstance(step, int) and isinstance(value, list | tuple) and step < len(value):
        return value[step]
    return getattr(value, str(step), None)


def _matches(field: _Field, cls: Any, also: Sequence[str]) -> list[str]:
    """Return the keys that an unknown one may stand for: the same name in a group, a close one, or any."""
    prefix, dot, name = field.key.rpartition(".")
    siblings = field.siblings if prefix else [*also, *field.siblings]
    same = [key for key in _leaves(cls) if key.rpartition(".")[2] == name]
    # compared without the group's name, which all of them begin with
    close = get_close_matches(name, [key.removeprefix(prefix + dot) for key in siblings], cutoff=0.5)
    return same or [f"{prefix}{dot}{key}" for key in close] or siblings


def _leaves(cls: Any, prefix: str = "") -> Iterator[str]:
    for name, annotation in get_type_hints(cls).items():
        inner = _without_none(annotation)
        if is_dataclass(inner):
            yield from _leaves(inner, f"{prefix}{name}.")
        else:
            yield prefix + name


def _describe(annotation: Any) -> str:
    """Describe the value that a field expects."""
    annotation = _without_none(annotation)
    if annotation in _EXPECTED:
        return _EXPECTED[annotation][0]
    if is_dataclass(annotation):
        return f"a table with {', '.join(field.name for field in fields(annotation))}"
    arguments = get_args(annotation)
    if get_origin(annotation) is tuple:
        number = "" if Ellipsis in arguments else f"{len(arguments)} "
        return f"a list of {number}{_EXPECTED.get(arguments[0], ('', 'tables'))[1]}"
    if get_origin(annotation) is not None and issubclass(get_origin(annotation), Mapping):
        return f"a table of {_EXPECTED[arguments[1]][1]}"
    return f"{getattr(annotation, '__name__', annotation)}"


def _without_none(annotation: Any) -> Any:
    """Return ``X`` for ``X | None``."""
    if get_origin(annotation) in (Union, types.UnionType):
        return next(part for part in get_args(annotation) if part is not type(None))
    return annotation


def _shown(value: Any) -> str:
    return repr(list(value) if isinstance(value, tuple) else value)


def _prefix(source: str) -> str:
    return f"{source}: " if source else ""


def _with_source(error: TcbenchError, source: str) -> TcbenchError:
    if not source:
        return error
    if isinstance(error, Problems):
        return Problems(_with_source(one, source) for one in error.errors)
    if isinstance(error, UnknownName):
        further: dict[str, Any] = {
            "hint": error.hint,
            "listing": error.listing,
            "synonyms": error.synonyms,
        }
        return UnknownName(error.kind, error.given, error.known, source=source, **further)
    return type(error)(f"{source}: {error}")
