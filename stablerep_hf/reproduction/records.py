"""What was measured, a line a training run: committed, so that another machine goes on without the weights."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..errors import InputError
from ..evaluation import EvaluationResult

_DIGITS = 5
# What a kept result says for itself; the rest is the same for all of a record and stands there once.
_OWN = ("protocol", "metric", "variant", "value", "low", "high", "n", "chance", "interval", "split")
_DATA = ("dataset", "revision")  # of a record; a result on other data than its first has its own
_SETTINGS = ("k", "c", "converged")


class Records:
    """A file of JSON lines by key, added to and never rewritten.

    A line counts once it is whole: it is synced, and one that a kill left torn at the end is passed over, and cut off
    before the next is added. One process writes; others may read at any time, and change nothing.

    Args:
        path: Made with its folder when the first line is added.

    Raises:
        InputError: A line before the last is no record.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._records: dict[str, dict[str, Any]] = {}
        self._length = 0  # bytes of whole lines
        if not self.path.exists():
            return
        content = self.path.read_bytes()
        whole, newline, _ = content.rpartition(b"\n")
        self._length = len(whole) + len(newline)
        for number, line in enumerate(whole.splitlines() if newline else [], start=1):
            try:
                record = json.loads(line)
                self._records[record["key"]] = record
            except (ValueError, KeyError, TypeError) as error:
                raise InputError(
                    f"Line {number} of {self.path.name} is no record of a training run: remove the line, and the "
                    "run is done again."
                ) from error

    def __contains__(self, key: str) -> bool:
        return key in self._records

    def __getitem__(self, key: str) -> dict[str, Any]:
        return self._records[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._records)

    def __len__(self) -> int:
        return len(self._records)

    def add(self, record: Mapping[str, Any]) -> None:
        """Append one; JSON values with a `key`."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        line = json.dumps(record, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
        with self.path.open("ab") as file:
            file.truncate(self._length)
            self._length += file.write(f"{line}\n".encode())
            file.flush()
            os.fsync(file.fileno())
        self._records[str(record["key"])] = dict(record)


def pack_results(results: Sequence[EvaluationResult]) -> dict[str, Any]:
    """Results of one encoder as the JSON values of a record."""
    first = results[0]
    rows = []
    for result in results:
        row = {name: getattr(result, name) for name in _OWN}
        row |= {
            name: round(row[name], _DIGITS) for name in ("value", "low", "high", "chance") if row[name] is not None
        }
        row["settings"] = {name: result.settings[name] for name in _SETTINGS if name in result.settings}
        row |= {name: getattr(result, name) for name in _DATA if getattr(result, name) != getattr(first, name)}
        rows.append({name: value for name, value in row.items() if value not in ("", None, {})})
    return {"dataset": first.dataset, "revision": first.revision, "seeds": list(first.seeds), "results": rows}


def unpack_results(record: Mapping[str, Any], encoder: str) -> dict[str, EvaluationResult]:
    """Measure -> result of a record, under the name that a table gives the encoder."""
    shared = {"encoder": encoder, **{name: record[name] for name in (*_DATA, "seeds")}}
    results = [EvaluationResult(**shared | row) for row in record["results"]]
    # as the claims ask for them: "knn accuracy", "retrieval recall@1, frequency = tail"
    return {", ".join(filter(None, (f"{one.protocol} {one.metric}", one.variant))): one for one in results}
