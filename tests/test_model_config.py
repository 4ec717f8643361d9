"""Configurations: what can be built, what is refused and why, and the presets."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import mirnet_edge as me
from mirnet_edge.errors import ConfigError, FrameError
from mirnet_edge.model.checkpoints import facts_of
from mirnet_edge.model.config import PRESETS, MIRNetConfig, MIRNetV2Config, preset, preset_of


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"n_rrg": 0}, "n_rrg=0: must be at least 1"),
        ({"n_msrb": -1}, "n_msrb=-1: must be"),
        ({"width": 0}, "width=0: must be"),
        ({"in_channels": 0, "out_channels": 0}, "in_channels=0: must be"),
        ({"channels": (64,)}, r"channels=\(64,\): need at least two streams"),
        ({"channels": ()}, "need at least two streams"),
        ({"channels": (0, 8)}, "streams of at least 1 channel"),
        ({"channels": (64, 64, 128)}, "more channels than the one before"),
        ({"channels": (64, 32)}, "more channels than the one before"),
        ({"channels": (7, 14)}, "at least 8 channels"),
        ({"in_channels": 6}, "in_channels=6 and out_channels=3 differ"),
    ],
)
def test_mirnet_refuses(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        MIRNetConfig(**arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"n_mrb": 0}, "n_mrb=0: must be at least 1"),
        ({"out_channels": 0}, "out_channels=0: must be"),
        ({"channels": (8, 12)}, r"channels=\(8, 12\): MIRNet-v2 always has three streams"),
        ({"channels": (8, 12, 16, 20), "groups": (1,)}, "always has three streams"),
        ({"channels": (8, -12, 16)}, "streams of at least 1 channel"),
        ({"groups": ()}, "at least one recursive residual group"),
        ({"groups": (1, 0)}, r"groups=\(1, 0\): 0 must divide"),
        ({"groups": (-1,)}, "-1 must divide"),
        ({"groups": (1, 8)}, r"8 must divide \(80, 120, 180\)"),
        ({"in_channels": 6}, "set image_skip=False"),
        ({"shuffle": 0}, "shuffle=0: must be at least 1"),
    ],
)
def test_mirnet_v2_refuses(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        MIRNetV2Config(**arguments)


@given(
    channels=st.tuples(*[st.integers(1, 64)] * 3),
    groups=st.lists(st.integers(1, 9), min_size=1, max_size=4).map(tuple),
)
def test_groups_must_divide_every_stream(
    channels: tuple[int, int, int], groups: tuple[int, ...]
) -> None:
    divides = all(size % group == 0 for size in channels for group in groups)
    if divides:
        assert MIRNetV2Config(channels=channels, groups=groups).groups == groups
    else:
        with pytest.raises(ConfigError, match="must divide"):
            MIRNetV2Config(channels=channels, groups=groups)


@given(channels=st.lists(st.integers(1, 40), min_size=2, max_size=5).map(tuple))
def test_streams_of_a_mirnet_must_grow(channels: tuple[int, ...]) -> None:
    grows = list(channels) == sorted(set(channels)) and channels[0] >= 8
    if grows:
        assert MIRNetConfig(channels=channels).size_multiple == 2 ** (len(channels) - 1)
    else:
        with pytest.raises(ConfigError, match="channels="):
            MIRNetConfig(channels=channels)


@pytest.mark.parametrize(
    "config",
    [
        MIRNetConfig(channels=(8, 12), n_rrg=1, n_msrb=1),
        MIRNetConfig(channels=(8, 12, 16), n_rrg=1, n_msrb=1),
        MIRNetConfig(channels=(8, 9, 10, 11), n_rrg=1, n_msrb=1, width=1),
        MIRNetV2Config(channels=(4, 4, 4), groups=(1,), n_mrb=1),
        MIRNetV2Config(channels=(4, 4, 4), groups=(1,), n_mrb=1, shuffle=2),
        MIRNetV2Config(channels=(4, 4, 4), groups=(1,), n_mrb=1, shuffle=3, context=False),
    ],
    ids=str,
)
def test_the_least_size_is_the_least_that_runs(config: MIRNetConfig | MIRNetV2Config) -> None:
    torch = pytest.importorskip("torch")
    network = me.create_model(config, seed=0)
    least, multiple = config.min_size_px, config.size_multiple
    with torch.inference_mode():
        assert network(torch.zeros(1, 3, least, least)).shape == (1, 3, least, least)
        assert network(torch.zeros(1, 3, least, least + multiple)).shape[3] == least + multiple
        for size in (least - multiple, least + 1):
            with pytest.raises(FrameError, match=f"multiples of {multiple} and at least {least}"):
                network(torch.zeros(1, 3, size, least))


def test_presets_are_found_by_name_and_by_value() -> None:
    assert list(PRESETS) == ["mirnet", "mirnet-v2", "edge-m", "edge-s", "edge-xs"]
    for name, config in PRESETS.items():
        assert preset(name) is config
        tiny = dataclasses.replace(config, channels=(8, 16, 32), **depth(config))
        assert facts_of(me.create_model(name)).preset == name
        assert facts_of(me.create_model(tiny)).preset == "custom"


@pytest.mark.parametrize("name", ["edge-m", "edge-s", "edge-xs"])
def test_a_task_may_set_the_ends_of_an_edge_network(name: str) -> None:
    of_task = dataclasses.replace(preset(name), shuffle=3, context=True, noise_level=True)
    assert preset_of(of_task) == name
    assert preset_of(dataclasses.replace(of_task, n_mrb=5)) == "custom"
    assert preset_of(dataclasses.replace(preset("mirnet-v2"), noise_level=True)) == "custom"


def depth(config: object) -> dict[str, Any]:
    return {"n_rrg": 1} if isinstance(config, MIRNetConfig) else {"groups": (1,)}


def test_published_presets_are_the_papers() -> None:
    assert preset("mirnet") == MIRNetConfig((64, 128, 256), n_rrg=3, n_msrb=2, width=2)
    assert preset("mirnet-v2") == MIRNetV2Config((80, 120, 180), groups=(1, 2, 4, 4), n_mrb=2)


@pytest.mark.parametrize("name", ["edge-m", "edge-s", "edge-xs"])
def test_edge_presets_fill_the_tensor_cores_and_can_undo_all_noise(name: str) -> None:
    config = preset(name)
    assert isinstance(config, MIRNetV2Config)
    assert all(channels % 32 == 0 for channels in config.channels)
    assert set(config.groups) == {1}
    assert config.channels[0] > config.out_channels * config.shuffle**2


def test_an_unknown_preset_lists_the_known() -> None:
    with pytest.raises(ConfigError, match="no preset 'edge-xl'; there are: mirnet, mirnet-v2, ed"):
        preset("edge-xl")
    with pytest.raises(ConfigError, match="no preset"):
        me.create_model("edge-xl")


def test_configurations_are_values() -> None:
    assert MIRNetConfig() == MIRNetConfig()
    assert len({MIRNetV2Config(), MIRNetV2Config(), MIRNetConfig()}) == 2
    with pytest.raises(dataclasses.FrozenInstanceError):
        MIRNetConfig().width = 3  # type: ignore[misc]
