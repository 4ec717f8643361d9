"""Twins of the kernels that let one captured graph serve every batch of a frame."""

from __future__ import annotations

from kernel_twins.frames import Array


def take_row(table: Array, cursor: int) -> Array:
    """A copy of a row, rows beginning again at the first."""
    return table[cursor % len(table)].copy()


def put_row(row: Array, cursor: int, table: Array) -> Array:
    """A copy of the table with the row in its place, rows beginning again at the first."""
    out = table.copy()
    out[cursor % len(table)] = row
    return out


def lap(clock: Array, index: int, now_ns: int) -> Array:
    """A copy of the clock after a lap that ends ``now_ns``."""
    out = clock.copy()
    if index > 0:
        out[index] += now_ns - clock[0]
    out[0] = now_ns
    return out
