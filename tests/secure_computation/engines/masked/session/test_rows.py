"""Rows that come one after another: nothing is computed before it is wanted, and nothing twice."""

import numpy as np
import pytest

from secure_computation.engines.masked.session.rows import (
    Rows,
    computed,
    from_row_after_row,
    row_after_row,
    row_by_row,
)

SHAPE = (2, 5, 3)


def arriving(array: np.ndarray[tuple[int, ...], np.dtype[np.uint32]], asked: list[tuple[int, int]]) -> Rows:
    """Rows of `array`; notes what was asked for."""

    def compute(start: int, stop: int) -> np.ndarray[tuple[int, ...], np.dtype[np.uint32]]:
        asked.append((start, stop))
        return array[:, start:stop]

    return computed(array.shape, compute)


@pytest.mark.parametrize("shape", [SHAPE, (7,)])
def test_row_after_row_is_undone(shape: tuple[int, ...]) -> None:
    array = np.arange(np.prod(shape), dtype=np.uint32).reshape(shape)
    flat = row_after_row(array)
    np.testing.assert_array_equal(from_row_after_row(flat, shape), array)
    assert flat.shape == (array.size,)


def test_the_elements_of_a_row_stand_together() -> None:
    array = np.arange(30, dtype=np.uint32).reshape(SHAPE)
    assert row_after_row(array)[:6].tolist() == [0, 1, 2, 15, 16, 17]
    np.testing.assert_array_equal(row_after_row(array[:, 1:3]), row_after_row(array)[6:18])


def test_rows_come_when_they_are_wanted() -> None:
    array = np.arange(30, dtype=np.uint32).reshape(SHAPE)
    asked: list[tuple[int, int]] = []
    rows = arriving(array, asked)
    assert (rows.shape, rows.count, rows.are_there, asked) == (SHAPE, 5, False, [])
    np.testing.assert_array_equal(rows.take(1, 2), array[:, 1:2])
    rows.require(2)
    np.testing.assert_array_equal(rows.whole(), array)
    rows.take(0, 5)
    assert asked == [(0, 2), (2, 5)]
    assert rows.are_there


def test_a_step_row_by_row_wants_of_its_sources_what_is_wanted_of_it() -> None:
    array = np.arange(30, dtype=np.uint32).reshape(SHAPE)
    asked: list[tuple[int, int]] = []
    total = row_by_row(lambda rows: rows[0] + rows[1], [arriving(array, asked), Rows(array)])
    assert asked == []
    np.testing.assert_array_equal(total.take(0, 3), 2 * array[:, :3])
    assert asked == [(0, 3)]
    np.testing.assert_array_equal(total.whole(), 2 * array)


def test_a_step_whose_sources_are_there_is_computed_at_once() -> None:
    array, widths = np.arange(30, dtype=np.uint32).reshape(SHAPE), []

    def step(
        rows: list[np.ndarray[tuple[int, ...], np.dtype[np.uint32]]],
    ) -> np.ndarray[tuple[int, ...], np.dtype[np.uint32]]:
        widths.append(rows[0].shape[1])
        return rows[0]

    assert row_by_row(step, [Rows(array)]).are_there
    assert widths == [5]


def test_repr_shows_no_element() -> None:
    assert repr(Rows(np.full(SHAPE, 1234567, np.uint32))) == "Rows(5 of 5)"
