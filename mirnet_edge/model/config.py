"""The shape of a MIRNet as a value: hyperparameters, their checks, and the named presets.

Needs no torch, so the device side can read a configuration too.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from mirnet_edge.errors import ConfigError


@dataclass(frozen=True)
class MIRNetConfig:
    """MIRNet (Zamir et al., "Learning Enriched Features for Real Image Restoration and
    Enhancement", ECCV 2020).

    Attributes:
        channels: features of each parallel stream; stream ``s`` runs at ``1 / 2**s`` of the
            frame's size. Must grow from stream to stream (the resamplers' keys are named after
            their source's channels).
        n_rrg: recursive residual groups.
        n_msrb: multi-scale residual blocks in each group.
        width: columns of dual attention units; all columns of a stream share one unit's weights.
        in_channels, out_channels: equal, because the input is added to the output.
    """

    channels: tuple[int, ...] = (64, 128, 256)
    n_rrg: int = 3
    n_msrb: int = 2
    width: int = 2
    in_channels: int = 3
    out_channels: int = 3

    family = "mirnet"
    image_skip = True
    shuffle = 1
    noise_level = False

    @property
    def in_planes(self) -> int:
        """Planes of the input: the frame's channels."""
        return self.in_channels

    def __post_init__(self) -> None:
        _check(self, "n_rrg", "n_msrb", "width", "in_channels", "out_channels")
        if any(a >= b for a, b in zip(self.channels, self.channels[1:])):
            raise ConfigError(
                f"channels={self.channels}: each stream of a MIRNet needs more channels than the "
                "one before; e.g. (64, 128, 256)"
            )
        if self.channels[0] < 8:
            raise ConfigError(
                f"channels={self.channels}: channel attention squeezes by 8, so the first stream "
                "needs at least 8 channels"
            )
        if self.in_channels != self.out_channels:
            raise ConfigError(
                f"in_channels={self.in_channels} and out_channels={self.out_channels} differ, but "
                "MIRNet adds its input to its output"
            )

    @property
    def size_multiple(self) -> int:
        """Height and width of the input must be multiples of this (pixels)."""
        return int(2 ** (len(self.channels) - 1))

    @property
    def min_size_px(self) -> int:
        """Least height and width: the blur-pools reflect one pixel at every scale."""
        return 2 * self.size_multiple


@dataclass(frozen=True)
class MIRNetV2Config:
    """MIRNet-v2 (Zamir et al., "Learning Enriched Features for Fast Image Restoration and
    Enhancement", TPAMI 2022).

    Attributes:
        channels: features of the three streams at 1, 1/2 and 1/4 of the frame's size.
        groups: groups of the 3x3 convolutions in each recursive residual group, one entry a
            group, so its length is the depth of the network.
        n_mrb: multi-scale residual blocks in each group.
        in_channels, out_channels: of the frame; 6 and 3 for dual-pixel defocus deblurring.
        image_skip: True adds the input image to the output; False adds the first features to the
            last ones instead (the defocus network, where the channels differ).
        shuffle: the network works on blocks of ``shuffle`` x ``shuffle`` pixels as channels
            (pixel unshuffle before the first convolution, pixel shuffle after the last; Shi et
            al., CVPR 2016), so that ``channels`` are at ``1 / shuffle`` of the frame's size and
            less; 1 as published. A first stream of fewer channels than a block has values,
            ``out_channels * shuffle**2``, cannot make every change of it.
        context: whether the residual blocks have context blocks, whose means over all positions
            cost passes over memory and make tiles differ; as published with them.
        noise_level: whether one more plane follows the frame's, which tells how noisy the frame is
            (FFDNet, IEEE TIP 2018): the standard deviation of its noise, of which 1 stands for
            `mirnet_edge.facts.NOISE_UNIT` / 255.
    """

    channels: tuple[int, int, int] = (80, 120, 180)
    groups: tuple[int, ...] = (1, 2, 4, 4)
    n_mrb: int = 2
    in_channels: int = 3
    out_channels: int = 3
    image_skip: bool = True
    shuffle: int = 1
    context: bool = True
    noise_level: bool = False

    family = "mirnet-v2"

    def __post_init__(self) -> None:
        _check(self, "n_mrb", "in_channels", "out_channels", "shuffle")
        if len(self.channels) != 3:
            raise ConfigError(f"channels={self.channels}: MIRNet-v2 always has three streams")
        if not isinstance(self.groups, tuple) or not 1 <= len(self.groups) <= MOST_BLOCKS:
            raise ConfigError(
                f"groups={self.groups!r:.40}: MIRNet-v2 needs at least one recursive residual group"
                f", and at most {MOST_BLOCKS}"
            )
        for group in self.groups:
            whole = type(group) is int and group >= 1
            if not whole or any(channels % group for channels in self.channels):
                raise ConfigError(f"groups={self.groups}: {group} must divide {self.channels}")
        for name in ("image_skip", "context", "noise_level"):
            if not isinstance(getattr(self, name), bool):
                raise ConfigError(f"{name}={getattr(self, name)!r:.40}: must be true or false")
        if self.image_skip and self.in_channels != self.out_channels:
            raise ConfigError(
                f"in_channels={self.in_channels} and out_channels={self.out_channels} differ, so "
                "the image cannot be added to the output; set image_skip=False"
            )

    @property
    def in_planes(self) -> int:
        """Planes of the input: the frame's channels, and the noise level."""
        return self.in_channels + self.noise_level

    @property
    def size_multiple(self) -> int:
        """Height and width of the input must be multiples of this (pixels)."""
        return 4 * self.shuffle

    @property
    def min_size_px(self) -> int:
        """Least height and width."""
        return self.size_multiple


Config = MIRNetConfig | MIRNetV2Config


MOST = {"channels": 4096, "in_channels": 64, "out_channels": 64, "shuffle": 16}
"""Far beyond any network that was ever trained: a file may say anything, and a network is built of
what it says before its weights are looked at."""
MOST_STREAMS, MOST_BLOCKS = 8, 64
"""Of a kind in a row, as `MOST`."""


def _check(config: Config, *counts: str) -> None:
    for name in counts:
        _check_count(name, getattr(config, name), MOST.get(name, MOST_BLOCKS))
    channels: tuple[int, ...] = config.channels
    within = isinstance(channels, tuple) and 2 <= len(channels) <= MOST_STREAMS
    if not within or any(type(n) is not int or not 1 <= n <= MOST["channels"] for n in channels):
        raise ConfigError(
            f"channels={channels!r:.60}: need at least two streams of at least 1 channel, and at "
            f"most {MOST_STREAMS} of {MOST['channels']}"
        )


def _check_count(name: str, count: object, most: int) -> None:
    if type(count) is not int or not 1 <= count <= most:
        raise ConfigError(
            f"{name}={count!r:.40}: must be at least 1 and at most {most}, a whole number"
        )


TASKS = ("denoise", "super-resolution", "enhance", "defocus-deblurring")
"""What a network may be said to restore: the tasks of the published checkpoints. No scale, because
none of these networks enlarges: the frame is enlarged before."""
UNKNOWN_TASK = "unknown"


def task_of(known: str, said: str | None) -> str:
    """The task of a network whose file knows ``known`` and whose user says ``said``, if anything; a
    `ConfigError` where there is no such task, or the file knows another."""
    if said is None:
        return known
    if said not in (*TASKS, UNKNOWN_TASK):
        raise ConfigError(f"no task {said!r}; there are: {', '.join(TASKS)}")
    # A label that is none of ours may be corrected; one that training wrote is the truth.
    if known in TASKS and said != known:
        raise ConfigError(f"this network is for {known!r}, not {said!r}; leave the task out")
    return said


PRESETS: dict[str, Config] = {
    "mirnet": MIRNetConfig(),
    "mirnet-v2": MIRNetV2Config(),
    "edge-m": MIRNetV2Config(channels=(64, 128, 160), groups=(1,), shuffle=2, context=False),
    "edge-s": MIRNetV2Config(channels=(32, 64, 128), groups=(1,), shuffle=2, context=False),
    "edge-xs": MIRNetV2Config(
        channels=(64, 64, 64), groups=(1,), n_mrb=1, shuffle=4, context=False
    ),
}
"""Named networks.

``mirnet`` and ``mirnet-v2`` are the published ones. The ``edge`` networks are ours, in the v2
family, made for the memory traffic and tensor cores of a Jetson:

* they work on blocks of 2x2 pixels (``edge-xs``: 4x4), a quarter of the positions with more
  features each: at 1080p the arithmetic of a wider network in the time of a narrow one.
* the first stream has more features than a block has values (12, or 48 of 64): what is added to the
  frame is linear in the last features, so that with fewer of them a part of all noise could not be
  undone. 32 features for 48 values end at 10 log10(48 / 16) = 4.8 dB.
* channels double from stream to stream (the paper: x1.5), so that every stream is a multiple of
  32, which is the channel block of INT8 tensor cores. Doubling also moves the arithmetic to the
  small scales, where a feature map has a quarter or a sixteenth of the bytes. The last stream of
  ``edge-m`` ends at 160: 256 channels there held two thirds of the weights; those of ``edge-xs``
  stay at 64.
* no grouped convolutions (the paper: groups of 1, 2, 4, 4): groups of 20 or 45 channels fill
  no tensor core.
* one recursive residual group: width gained more than depth in equal time (see
  `benchmarks/NOTES.md`).
* no context blocks, but for the tasks that gain by them (`mirnet_edge.workstation.tasks`).

A task may set ``shuffle``, ``context`` and ``noise_level`` of an ``edge`` network to what it needs;
it keeps its name.
"""


def preset(name: str) -> Config:
    """The configuration called ``name``; a `ConfigError` lists those there are."""
    if name not in PRESETS:
        raise ConfigError(f"no preset {name!r}; there are: {', '.join(PRESETS)}")
    return PRESETS[name]


def preset_of(config: Config) -> str:
    """Name of the preset that ``config`` is, whatever a task set of an ``edge`` network; "custom"
    where it is none."""
    if isinstance(config, MIRNetV2Config):
        for name, known in PRESETS.items():
            of_task = {key: getattr(config, key) for key in ("shuffle", "context", "noise_level")}
            if name.startswith("edge") and replace(known, **of_task) == config:
                return name
    return next((name for name, known in PRESETS.items() if known == config), "custom")
