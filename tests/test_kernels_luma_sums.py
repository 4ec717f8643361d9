"""The CUDA kernels that sum luma over cells, run on the host, against their NumPy twin."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from kernel_host import HostKernels
from kernel_host import host_fixture as host_fixture
from kernel_samples import FORMATS, assert_same, pitched_buffer, rows_in
from kernel_twins import ORDERS, SAMPLES, luma_sums

FRAME_SIZES_PX = ((1, 1), (3, 70), (13, 17), (37, 90), (64, 64))


@pytest.mark.parametrize("frame_format", [*FORMATS, "yuyv_u8"])
def test_luma_sums(host: HostKernels, frame_format: str) -> None:
    random = np.random.default_rng(34)
    order, sample = frame_format.split("_")
    channels = 2 if order == "yuyv" else len(ORDERS[order])
    for size_px, gap, row_step in itertools.product(FRAME_SIZES_PX, (0, 1), (1, 4)):
        shape = (*size_px, channels)
        frame = rows_in(pitched_buffer(random, shape, gap, SAMPLES[sample]), shape, gap)
        actual = host.luma_sums(frame, order, row_step)
        expected = luma_sums(frame, order, row_step)
        assert_same(actual, expected, f"frame {size_px}, gap {gap}, row step {row_step}")


def test_a_white_frame_has_the_greatest_sum_in_every_cell(host: HostKernels) -> None:
    for order, sample in itertools.product(ORDERS, SAMPLES):
        dtype = SAMPLES[sample]
        white = 1 if dtype.kind == "f" else np.iinfo(dtype).max
        frame = np.full((80, 160, len(ORDERS[order])), white, dtype)
        sums = host.luma_sums(frame, order, 1)
        steps = 255 if sample == "u8" else 65535
        assert (sums == 256 * steps * 10 * 20).all(), (order, sample, sums)


def test_samples_that_are_no_number_count_as_black(host: HostKernels) -> None:
    frame = np.array([[[np.nan], [-1.0], [np.inf], [0.5]]], np.float32)
    assert host.luma_sums(frame, "gray", 1).sum() == 256 * (0 + 0 + 65535 + 32768)
