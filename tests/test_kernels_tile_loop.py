"""The CUDA kernels of the tile loop, run on the host, against their NumPy twins."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from kernel_host import HostKernels
from kernel_host import host_fixture as host_fixture
from kernel_samples import assert_same
from kernel_twins import Array, lap, put_row, take_row

# Less than a vector, one, a region, odd ones, and more than the threads of the grid move at once.
WORDS = (1, 3, 4, 5, 8, 63, 64, 4099)
# Of each buffer from a multiple of 16 bytes, in words.
OFFSETS = tuple(itertools.product((0, 1), (0, 3)))
GUARD = 0xA5A5A5A5


def guarded(rows: int, words: int, offset: int) -> tuple[Array, Array]:
    """A buffer of guards, and the table (rows, words) that lies in it ``offset`` words off a
    multiple of 16 bytes."""
    size = rows * words
    raw = np.full(size + 16, GUARD, np.uint32)
    start = -raw.ctypes.data // 4 % 4 + 4 + offset
    return raw, raw[start : start + size].reshape(rows, words)


def random_words(shape: tuple[int, ...]) -> Array:
    return np.random.default_rng(61).integers(0, 1 << 32, shape, np.uint32)


@pytest.mark.parametrize("words", WORDS)
def test_take_row(host: HostKernels, words: int) -> None:
    for (here, there), cursor in itertools.product(OFFSETS, (0, 1, 4, 5, 7, 1000)):
        _, table = guarded(5, words, here)
        table[...] = random_words(table.shape)
        buffer, out = guarded(1, words, there)
        host.take_row(table, cursor, out[0])
        what = f"{words} words, offsets {here}, {there}, cursor {cursor}"
        assert_same(out[0], take_row(table, cursor), what)
        assert np.count_nonzero(buffer == GUARD) == 16, "wrote outside its row"


@pytest.mark.parametrize("words", WORDS)
def test_put_row(host: HostKernels, words: int) -> None:
    for (here, there), cursor in itertools.product(OFFSETS, (0, 1, 2, 3, 7, 1000)):
        _, row = guarded(1, words, here)
        row[...] = random_words(row.shape)
        buffer, table = guarded(3, words, there)
        table[...] = np.arange(table.size, dtype=np.uint32).reshape(table.shape)
        expected = put_row(row[0], cursor, table)
        host.put_row(row[0], cursor, table)
        assert_same(table, expected, f"{words} words, offsets {here}, {there}, cursor {cursor}")
        assert np.count_nonzero(buffer == GUARD) == 16, "wrote outside its table"


def test_advance(host: HostKernels) -> None:
    cursor = np.array([7, 41, 7], np.int32)
    host.advance(cursor[1:])
    host.advance(cursor[1:])
    assert cursor.tolist() == [7, 43, 7]


def test_laps_add_up_what_lies_between_them(host: HostKernels) -> None:
    clock = np.zeros(4, np.uint64)
    for index in (0, 1, 2, 1, 3, 0, 2, 2):
        before = clock.copy()
        now_ns = host.lap(clock, index)
        assert_same(clock, lap(before, index, now_ns), f"lap {index}")
    # Seven laps after the first of a microsecond each; the sixth, of index 0, counts for none.
    assert clock[1:].tolist() == [2000, 3000, 1000]
