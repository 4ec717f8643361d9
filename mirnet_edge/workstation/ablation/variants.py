"""The variants of an ablation, and what the papers say of them; loads without torch."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any

from mirnet_edge.errors import ConfigError
from mirnet_edge.model.config import PRESETS, Config, MIRNetConfig, MIRNetV2Config
from mirnet_edge.workstation.tasks.batch import Task, edge_network

BASES: dict[str, Config] = {
    "v2": replace(edge_network(PRESETS["edge-s"], "ablation"), context=True),
    "v1": MIRNetConfig(channels=(16, 32, 64), n_rrg=1, n_msrb=1),
}
"""By family, what its variants differ from: `edge-s` with all that the paper's network has, and
a MIRNet with a quarter of the paper's channels, which has about its arithmetic."""


@dataclass(frozen=True)
class Variant:
    """One row of an ablation.

    Attributes:
        name, about: of the row; the name begins with that of the family.
        changed: fields of the family's base that are otherwise.
        scales: of the base's three; the smallest are left out.
        selective: False adds feature maps where the paper fuses them by channel weights.
        channel_attention: False leaves out the channel half of the dual attention units.
        patch_factor: times the side of the patches.
    """

    name: str
    about: str
    changed: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))
    scales: int = 3
    selective: bool = True
    channel_attention: bool = True
    patch_factor: float = 1.0

    @property
    def family(self) -> str:
        """Of its network: "v1" or "v2"."""
        return self.name.partition("-")[0]

    @property
    def is_exportable(self) -> bool:
        """Whether its trained weights are a network of the package. The others are cut out of one:
        their files are refused, as some of its tensors are missing."""
        scales = 3 if self.family == "v2" else 2  # the fewest that a configuration has
        return self.scales >= scales and self.selective and self.channel_attention

    def config(self, task: Task) -> Config:
        """That of its network, before anything is cut out of it. A MIRNet is told no noise level,
        whatever the task."""
        base = BASES[self.family]
        if isinstance(base, MIRNetV2Config):
            # What a task sets comes before what the row is about.
            of_task = task.network(base)
            return replace(of_task, **{"context": base.context, **self.changed})
        return replace(base, **{"channels": base.channels[: max(self.scales, 2)], **self.changed})

    def patch_px(self, base_px: int) -> int:
        """Side of its patches where the others' have ``base_px``."""
        return round(self.patch_factor * base_px)


VARIANTS: dict[str, Variant] = {
    variant.name: variant
    for variant in (
        Variant("v2", "edge-s with context blocks: all that the paper has"),
        Variant("v2-no-context", "without context blocks: edge-s", changed={"context": False}),
        Variant("v2-sum", "sums instead of selective fusion", selective=False),
        Variant("v2-local", "neither of both: no mean over the frame", selective=False,
                changed={"context": False}),
        Variant("v2-two-scales", "without the smallest scale", scales=2),
        Variant("v2-one-scale", "full size alone", scales=1),
        Variant("v2-depth-2", "two residual groups", changed={"groups": (1, 1)}),
        Variant("v2-depth-3", "three residual groups", changed={"groups": (1, 1, 1)}),
        Variant("v2-small-patch", "patches of half the side", patch_factor=0.5),
        Variant("v2-large-patch", "patches of 1.5 times the side", patch_factor=1.5),
        Variant("v2-shuffle-1", "on pixels instead of blocks of 2×2", changed={"shuffle": 1}),
        Variant("v2-shuffle-4", "on blocks of 4×4 pixels", changed={"shuffle": 4}),
        Variant("v1", "MIRNet with a quarter of the channels, one block"),
        Variant("v1-no-channel-attention", "without channel attention",
                channel_attention=False),
        Variant("v1-sum", "sums instead of selective fusion", selective=False),
        Variant("v1-two-scales", "without the smallest scale", scales=2),
        Variant("v1-one-scale", "full size alone", scales=1),
        Variant("v1-depth-2", "two residual groups", changed={"n_rrg": 2}),
        Variant("v1-depth-3", "three residual groups", changed={"n_rrg": 3}),
        Variant("v1-small-patch", "patches of half the side", patch_factor=0.5),
        Variant("v1-large-patch", "patches of 1.5 times the side", patch_factor=1.5),
    )
}  # fmt: skip
"""All there are, by name."""


def variants_named(names: Iterable[str]) -> list[Variant]:
    """Those of some names, each once; a `ConfigError` lists those there are."""
    found = dict.fromkeys(names)
    if unknown := [name for name in found if name not in VARIANTS]:
        raise ConfigError(f"no row {', '.join(unknown)}; there are: {', '.join(VARIANTS)}")
    return [VARIANTS[name] for name in found]


@dataclass(frozen=True)
class Claim:
    """That one row restores better than another.

    Attributes:
        text: what is said.
        source: who says so.
        better, worse: names of the rows.
    """

    text: str
    source: str
    better: str
    worse: str


ECCV, TPAMI, OURS = "MIRNet (ECCV 2020)", "MIRNet-v2 (TPAMI 2022)", "mirnet_edge"
CLAIMS = (
    Claim("context blocks help", TPAMI, "v2", "v2-no-context"),
    Claim("selective fusion is better than sums", TPAMI, "v2", "v2-sum"),
    Claim("three scales are better than two", TPAMI, "v2", "v2-two-scales"),
    Claim("two scales are better than one", TPAMI, "v2-two-scales", "v2-one-scale"),
    Claim("two groups are better than one", TPAMI, "v2-depth-2", "v2"),
    Claim("three groups are better than two", TPAMI, "v2-depth-3", "v2-depth-2"),
    Claim("larger patches are better than small ones", TPAMI, "v2", "v2-small-patch"),
    Claim("patches larger still are better", TPAMI, "v2-large-patch", "v2"),
    Claim("blocks of 2×2 pixels are better than single ones", OURS, "v2", "v2-shuffle-1"),
    Claim("blocks of 2×2 pixels are better than of 4×4", OURS, "v2", "v2-shuffle-4"),
    Claim("channel attention helps", ECCV, "v1", "v1-no-channel-attention"),
    Claim("selective fusion is better than sums", ECCV, "v1", "v1-sum"),
    Claim("three scales are better than two", ECCV, "v1", "v1-two-scales"),
    Claim("two scales are better than one", ECCV, "v1-two-scales", "v1-one-scale"),
    Claim("two groups are better than one", ECCV, "v1-depth-2", "v1"),
    Claim("three groups are better than two", ECCV, "v1-depth-3", "v1-depth-2"),
)
"""Those of the papers are what they give as the reason of their design and show in their tables of
ablations, larger patches as training with patches that grow; ours are the reasons of
`mirnet_edge.model.config.PRESETS`."""
