"""The shape of a MIRNet as a value: hyperparameters, their checks, and the named presets.

Needs no torch, so the device side can read a configuration too.
"""

from __future__ import annotations

from dataclasses import dataclass

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
    """

    channels: tuple[int, int, int] = (80, 120, 180)
    groups: tuple[int, ...] = (1, 2, 4, 4)
    n_mrb: int = 2
    in_channels: int = 3
    out_channels: int = 3
    image_skip: bool = True

    family = "mirnet-v2"
    size_multiple = 4
    min_size_px = 4

    def __post_init__(self) -> None:
        _check(self, "n_mrb", "in_channels", "out_channels")
        if len(self.channels) != 3:
            raise ConfigError(f"channels={self.channels}: MIRNet-v2 always has three streams")
        if not self.groups:
            raise ConfigError("groups=(): MIRNet-v2 needs at least one recursive residual group")
        for group in self.groups:
            if group < 1 or any(channels % group for channels in self.channels):
                raise ConfigError(f"groups={self.groups}: {group} must divide {self.channels}")
        if self.image_skip and self.in_channels != self.out_channels:
            raise ConfigError(
                f"in_channels={self.in_channels} and out_channels={self.out_channels} differ, so "
                "the image cannot be added to the output; set image_skip=False"
            )


Config = MIRNetConfig | MIRNetV2Config


def _check(config: Config, *counts: str) -> None:
    for name in counts:
        if getattr(config, name) < 1:
            raise ConfigError(f"{name}={getattr(config, name)}: must be at least 1")
    channels: tuple[int, ...] = config.channels
    if len(channels) < 2 or min(channels) < 1:
        raise ConfigError(f"channels={channels}: need at least two streams of at least 1 channel")


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
    "edge-m": MIRNetV2Config(channels=(32, 64, 128), groups=(1, 1)),
    "edge-s": MIRNetV2Config(channels=(16, 32, 64), groups=(1, 1)),
}
"""Named networks.

``mirnet`` and ``mirnet-v2`` are the published ones. The two ``edge`` networks are ours, in the
v2 family, made for the memory traffic and tensor cores of a Jetson:

* channels double from stream to stream (the paper: x1.5), so that every stream is a multiple of
  16, which is the channel block of FP16 tensor cores; of ``edge-m`` all are multiples of 32, the
  block of INT8. Doubling also moves the arithmetic to the small scales, where a feature map has a
  quarter or a sixteenth of the bytes.
* no grouped convolutions (the paper: groups of 1, 2, 4, 4): groups of 20 or 45 channels fill
  no tensor core.
* two recursive residual groups instead of four, with two blocks each: half the passes over
  full-resolution maps, which hold most of the bytes.
* 32 and 16 features: 1.88 M parameters / 31.6 GMAC and 0.47 M / 7.9 GMAC at 256x256, against
  5.86 M / 139.6 GMAC of ``mirnet-v2``.
"""


def preset(name: str) -> Config:
    """The configuration called ``name``; a `ConfigError` lists those there are."""
    if name not in PRESETS:
        raise ConfigError(f"no preset {name!r}; there are: {', '.join(PRESETS)}")
    return PRESETS[name]
