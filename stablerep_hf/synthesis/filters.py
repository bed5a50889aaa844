"""Which rows to keep, said as a condition on their columns: `alignment > 0.2 and not is_blank`.

A small language of its own: Python's parser reads it, and only comparisons of columns and constants joined by `and`,
`or` and `not` mean anything. Nothing is evaluated by Python.
"""

from __future__ import annotations

import ast
import operator
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import reduce
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ..captions import TermMatcher
from ..errors import InputError

if TYPE_CHECKING:
    import datasets

BoolArray = npt.NDArray[np.bool_]
Compiled = Callable[[Mapping[str, npt.NDArray[Any]]], Any]
_COMPARE: dict[type[ast.cmpop], Callable[[Any, Any], Any]] = {
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
}
_SCORES = ("alignment", "nsfw", "diversity")


@dataclass(frozen=True)
class RowFilter:
    """A condition on rows.

    Attributes:
        text: As it was written.
        columns: The columns it names, in order.
    """

    text: str
    columns: tuple[str, ...]
    compiled: Compiled = field(repr=False)

    def mask(self, columns: Mapping[str, npt.ArrayLike]) -> BoolArray:
        """Which rows fulfil the condition, bool (N,); a value that is missing (None, NaN) fulfils no comparison.

        Args:
            columns: Name -> (N,) values.
        """
        arrays = {name: np.asarray(columns[name]) for name in self.columns}
        number = len(next(iter(arrays.values())))
        return np.broadcast_to(_truth(self.compiled(arrays)), (number,))


def parse_filter(text: str) -> RowFilter:
    """Read a condition.

    Args:
        text: Comparisons (`<`, `<=`, `>`, `>=`, `==`, `!=`, also chained) of columns with numbers, texts or other
            columns, and columns of bools, joined by `and`, `or`, `not` and brackets.

    Raises:
        InputError: It is anything else, or names no column.
    """
    try:
        tree = ast.parse(text.strip(), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise InputError(
            f"The filter {text!r} cannot be read ({getattr(error, 'msg', error)}); write one such as "
            "'alignment > 0.2 and not is_blank'."
        ) from error
    compiled = _compile(tree, text)
    names = dict.fromkeys(node.id for node in ast.walk(tree) if isinstance(node, ast.Name))
    if not names:
        raise InputError(f"The filter {text!r} names no column, so it keeps all rows or none; name one.")
    return RowFilter(text, tuple(names), compiled)


@dataclass(frozen=True)
class FilterReport:
    """What a filter took.

    Attributes:
        num_kept: Rows that stay.
        num_dropped: Rows that went.
        num_captions_lost: Captions none of whose rows stay.
        by_concept: Concept -> (rows dropped, rows in all), the hardest hit first; empty without concepts.
    """

    num_kept: int
    num_dropped: int
    num_captions_lost: int
    by_concept: Mapping[str, tuple[int, int]] = field(default_factory=dict)

    def __str__(self) -> str:
        lines = [
            f"kept {self.num_kept:,} rows, dropped {self.num_dropped:,}; "
            f"{self.num_captions_lost:,} captions have none left"
        ]
        lines += [
            f"  {concept}: dropped {gone:,} of {number:,}"
            for concept, (gone, number) in list(self.by_concept.items())[:20]
            if gone
        ]
        return "\n".join(lines)


def filter_rows(
    dataset: datasets.Dataset, text: str, concepts: Iterable[str] | None = None
) -> tuple[datasets.Dataset, FilterReport]:
    """Keep the rows of a data set that fulfil a condition; no image is decoded.

    Args:
        dataset: Map-style, such as `load_dataset(folder, split="train")`.
        text: See `parse_filter`.
        concepts: Terms by which to count what went, looked for in the column `caption`.

    Raises:
        InputError: The condition cannot be read, names a column that is not there or was never measured, or keeps
            nothing.
    """
    condition = _parse_for(dataset.column_names, text)
    columns = {name: dataset[name][:] for name in condition.columns}
    for name, values in columns.items():
        if all(value is None for value in values):
            how = "`stablerep score` measures it" if name in _SCORES else "leave it out"
            raise InputError(f"The filter {text!r} names {name!r}, which no row has a value of; {how}.")
    keep = condition.mask(columns)
    if not keep.any():
        raise InputError(f"The filter {text!r} keeps none of {len(dataset)} rows; loosen it.")
    captions = dataset["caption"][:] if "caption" in dataset.column_names else [""] * len(dataset)
    lost = set(captions) - {caption for caption, kept in zip(captions, keep, strict=True) if kept}
    gone: Counter[str] = Counter()
    number: Counter[str] = Counter()
    if concepts is not None:
        matcher = TermMatcher(concepts)
        named = {caption: matcher.find(caption) for caption in set(captions)}
        for caption, kept in zip(captions, keep, strict=True):
            number.update(named[caption])
            if not kept:
                gone.update(named[caption])
    by_concept = {
        concept: (gone[concept], number[concept])
        for concept in sorted(number, key=lambda concept: -gone[concept] / number[concept])
    }
    report = FilterReport(int(keep.sum()), int((~keep).sum()), len(lost), by_concept)
    return dataset.select(np.flatnonzero(keep)), report


def filter_stream(dataset: datasets.IterableDataset, text: str) -> datasets.IterableDataset:
    """Keep the rows of a stream that fulfil a condition, as they come; no image is decoded.

    Their images stay encoded, dicts of `bytes` and `path`, which `datasets.Image().decode_example` decodes.

    Raises:
        InputError: The condition cannot be read or names a column that is not there.
    """
    condition = _parse_for(dataset.column_names or [], text)
    names = list(condition.columns)

    def keep(*columns: Any) -> list[bool]:
        kept: list[bool] = condition.mask(dict(zip(names, columns, strict=True))).tolist()
        return kept

    return dataset.decode(False).filter(keep, batched=True, input_columns=names)


def _parse_for(columns: Sequence[str], text: str) -> RowFilter:
    condition = parse_filter(text)
    for name in condition.columns:
        if name not in columns:
            raise InputError(f"The filter {text!r} names {name!r}, but the columns are {', '.join(columns)}; use one.")
    return condition


def _compile(node: ast.expr, text: str) -> Compiled:
    """What computes a condition from columns; refuses whatever is not of the little language."""
    match node:
        case ast.BoolOp(op=joint, values=values):
            parts = [_compile(value, text) for value in values]
            join = operator.and_ if isinstance(joint, ast.And) else operator.or_
            return lambda columns: reduce(join, (_truth(part(columns)) for part in parts))
        case ast.UnaryOp(op=ast.Not() | ast.USub() as sign, operand=operand):
            inner = _compile(operand, text)
            if isinstance(sign, ast.Not):
                return lambda columns: ~_truth(inner(columns))
            return lambda columns: _negative(inner(columns))
        case ast.Compare(left=left, ops=ops, comparators=comparators) if all(type(op) in _COMPARE for op in ops):
            sides = [_compile(side, text) for side in (left, *comparators)]
            pairs = list(zip(ops, sides, sides[1:], strict=False))
            return lambda columns: reduce(
                operator.and_, (_compare(_COMPARE[type(op)], one(columns), other(columns)) for op, one, other in pairs)
            )
        case ast.Name(id=name):
            return lambda columns: columns[name]
        case ast.Constant(value=bool() | int() | float() | str() as value):
            return lambda columns: value
    raise InputError(
        f"The filter {text!r} holds {ast.unparse(node)!r}, which is not a comparison of columns and constants; write "
        "one such as 'alignment > 0.2 and not is_blank'."
    )


def _missing(array: npt.NDArray[np.object_]) -> BoolArray:
    """Which values are None or NaN."""
    return np.asarray(np.frompyfunc(lambda value: value is None or value != value, 1, 1)(array), bool)


def _truth(value: Any) -> BoolArray:
    """A column or a comparison as bools; what is missing (None, NaN) is not true."""
    array = np.asarray(value, object)  # where it holds numbers as text, numpy would read them
    result: BoolArray = array.astype(bool) & ~_missing(array)
    return result


def _negative(value: Any) -> npt.NDArray[np.object_]:
    """Numbers with the other sign; what is missing stays missing."""
    result = np.array(value, object)
    there = ~_missing(result)
    try:
        result[there] = -result[there]
    except TypeError as error:
        raise InputError(
            f"The filter negates {result[there][0]!r}, which is not a number; compare it without the sign."
        ) from error
    return result


def _compare(compare: Callable[[Any, Any], Any], one: Any, other: Any) -> BoolArray:
    """Compare element by element; what is missing, or of another kind, fulfils nothing."""
    one, other = np.broadcast_arrays(np.asarray(one, object), np.asarray(other, object))
    there = ~(_missing(one) | _missing(other))
    result = np.zeros(one.shape, bool)
    try:
        result[there] = compare(one[there], other[there])
    except TypeError as error:
        raise InputError(
            f"The filter compares {one[there][0]!r} with {other[there][0]!r}, which have no order; compare numbers "
            "with numbers."
        ) from error
    return result
