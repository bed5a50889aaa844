from __future__ import annotations

import numpy as np
import pytest

from stablerep_hf.synthesis import group_rows


@pytest.mark.parametrize("seed", range(5))
def test_groups_equal_a_dictionary_of_lists(seed: int) -> None:
    ids = np.random.default_rng(seed).choice([2**62, 5, 0, 7, 2**63 - 1, 9], 40)
    expected: dict[int, list[int]] = {}
    for row, caption in enumerate(ids.tolist()):
        expected.setdefault(caption, []).append(row)

    groups = group_rows(ids)
    assert groups.ids.tolist() == list(expected)  # in the order of their first rows
    assert [rows.tolist() for rows in groups] == list(expected.values())
    assert groups.sizes.tolist() == [len(rows) for rows in expected.values()]
    assert groups.offsets[0] == 0
    assert groups.offsets[-1] == len(ids)
    assert groups[-1].tolist() == list(expected.values())[-1]
    assert {groups.ids.dtype, groups.offsets.dtype, groups.rows.dtype} == {np.dtype(np.int64)}
    with pytest.raises(IndexError):
        groups[len(groups)]


def test_contiguous_siblings_stay_where_they_are() -> None:
    groups = group_rows(np.repeat([30, 10, 20], [2, 1, 3]))
    assert groups.ids.tolist() == [30, 10, 20]
    assert groups.rows.tolist() == [0, 1, 2, 3, 4, 5]
    assert groups.offsets.tolist() == [0, 2, 3, 6]


def test_no_rows_make_no_groups() -> None:
    groups = group_rows([])
    assert len(groups) == 0
    assert list(groups) == []
    assert groups.offsets.tolist() == [0]


def test_ids_must_be_one_axis_of_integers() -> None:
    for ids in ([[1, 2]], [0.5], ["a"]):
        with pytest.raises(ValueError, match="give one axis of integers"):
            group_rows(ids)
