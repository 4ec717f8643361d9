"""Pooled vectors: how those of tiles add up to the frame's."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import mirnet_edge as me
from mirnet_edge.pooling.vectors import Partial, Statistics


@given(st.integers(1, 6), st.integers(0, 1000))
@settings(max_examples=50, deadline=None)
def test_partials_of_softmax_means_add_up_as_one_softmax(count: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    logits = random.normal(0, 30, (count, 50))
    features = random.normal(0, 1, (count, 50))
    areas = random.integers(1, 99, count)
    partials = []
    for area, logit, feature in zip(areas, logits, features):
        powers = np.exp(logit - logit.max())
        mean = np.full((1, 1, 1, 1), (powers * feature).sum() / powers.sum(), np.float32)
        log_mass = float(np.log(powers.mean()) + logit.max())
        partials.append(Partial((mean,), (log_mass,), int(area)))
    weights = np.exp(logits - logits.max()) * areas[:, None]
    expected = (weights * features).sum() / weights.sum()
    assert Statistics.of(partials).vectors[0].item() == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("mass", [-900.0, 900.0])
def test_masses_may_be_beyond_what_an_exponential_holds(mass: float) -> None:
    tiles = [Partial((np.full((1, 1, 1, 1), value, np.float32),), (mass,), 9) for value in (1, 3)]
    assert Statistics.of(tiles).vectors[0].item() == 2


def test_statistics_have_a_distance_and_points_between() -> None:
    a = Statistics((np.float32([1, 2]).reshape(1, 2, 1, 1), np.zeros((1, 1, 1, 1), np.float32)))
    b = Statistics((np.float32([1, 4]).reshape(1, 2, 1, 1), np.zeros((1, 1, 1, 1), np.float32)))
    assert a.distance(a) == 0
    assert a.distance(b) == b.distance(a) == 0.5
    assert a.towards(b, 0.25).vectors[0].ravel().tolist() == [1, 2.5]


def test_what_is_not_finite_is_an_error() -> None:
    bad = Partial((np.full((1, 2, 1, 1), np.nan, np.float32),), (0.0,), 16)
    with pytest.raises(me.EngineError, match="NaN or infinity at pool 0"):
        Statistics.of([bad])
