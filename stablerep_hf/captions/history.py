"""How a caption set came to be, kept in the metadata of its parquet file."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ..errors import refusing

_KEY = b"stablerep.history"
_OVERLAPS = ("equal", "near", "classes_named")


def read_history(path: str | Path) -> dict[str, Any]:
    """The `CaptionSet.history` in a parquet file, read without the captions; {} if it has none or is not parquet.

    Raises:
        InputError: The history is malformed.
    """
    try:
        schema = pq.read_schema(path)
    except (OSError, pa.ArrowInvalid):
        return {}
    return history_of(schema)


def history_of(schema: pa.Schema) -> dict[str, Any]:
    """The history that a schema carries, {} if it carries none; `InputError` if it is malformed."""
    with refusing(
        "The history of the caption set is malformed",
        "write the set again with `stablerep captions`",
        (ValueError, RecursionError),
    ):
        history = json.loads((schema.metadata or {}).get(_KEY, b"{}"))
        if what := _what_is_wrong(history):
            raise ValueError(what)
    return dict(history)


def as_metadata(history: Mapping[str, Any]) -> dict[bytes, bytes] | None:
    """The metadata of a schema that carries a history."""
    return {_KEY: json.dumps(dict(history)).encode()} if history else None


def _what_is_wrong(history: object) -> str:
    """Say which of the entries that cards and reports read has another form; '' if none."""
    if not isinstance(history, dict):
        return f"{history!r:.60} instead of an object"
    forms = {
        **{name: _is_number(history.get(name, 0)) for name in ("read", "empty", "equal")},
        **{name: isinstance(history.get(name), str | None) for name in ("allocation", "language_model", "revision")},
        "dropped": _is_table(history.get("dropped", {}), _is_number),
        "audit": not history.get("audit") or _is_audit(history["audit"]),
    }
    return ", ".join(f"{name!r} has the wrong type" for name, is_right in forms.items() if not is_right)


def _is_audit(value: object) -> bool:
    return (
        isinstance(value, dict)
        and _is_pair(value.get("num_captions"))
        and all(_is_table(value.get(name), _is_pair) for name in ("concepts", "demographics"))
        and isinstance(value.get("overlaps"), list)
        and all(isinstance(overlap, dict) and {"name", *_OVERLAPS} <= set(overlap) for overlap in value["overlaps"])
    )


def _is_number(value: object) -> bool:
    return isinstance(value, int)


def _is_pair(value: object) -> bool:
    return isinstance(value, list) and len(value) == 2 and all(map(_is_number, value))


def _is_table(value: object, is_right: Any) -> bool:
    return isinstance(value, dict) and all(map(is_right, value.values()))
