"""The networks that ours are compared with, small enough to be written down here, and how their
public weights are read; nothing of the files but numbers is.

Each is a chain of convolutions that its paper describes in a paragraph. Files are those of public
repositories, whose licences are their owners'; none of them is part of this project.
"""

from __future__ import annotations

import pickle
from collections import OrderedDict
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

Weights = Mapping[str, Tensor]


def chain(widths: list[int], bias: bool = True) -> nn.Sequential:
    """3x3 convolutions from width to width, with a ReLU between two of them."""
    layers: list[nn.Module] = []
    for before, after in pairwise(widths):
        layers += [nn.Conv2d(before, after, 3, padding=1, bias=bias), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


class DnCNN(nn.Module):
    """Zhang et al., IEEE TIP 2017: 20 layers that tell the noise, blind; for colour, batch
    normalization merged into the convolutions."""

    def __init__(self) -> None:
        super().__init__()
        self.model = chain([3, *[64] * 19, 3])

    def forward(self, frame: Tensor, _level: float | None) -> Tensor:
        """(1, 3, H, W) to the same; the level is not asked for."""
        result: Tensor = frame - self.model(frame)
        return result


class FFDNet(nn.Module):
    """Zhang et al., IEEE TIP 2018: 12 layers on blocks of 2x2 pixels and a plane of the level, for
    colour."""

    def __init__(self) -> None:
        super().__init__()
        self.model = chain([13, *[96] * 11, 12])

    def forward(self, frame: Tensor, level: float | None) -> Tensor:
        """(1, 3, H, W), and the level in units of 1/255, to the same shape."""
        height, width = frame.shape[-2:]
        padded = functional.pad(frame, (0, width % 2, 0, height % 2), mode="replicate")
        blocks = functional.pixel_unshuffle(padded, 2)
        plane = torch.full_like(blocks[:, :1], (level or 0.0) / 255)
        shuffled = self.model(torch.cat([blocks, plane], 1))
        return functional.pixel_shuffle(shuffled, 2)[..., :height, :width]


class SRCNN(nn.Module):
    """Dong et al., IEEE TPAMI 2016, as a Keras program trained it: 9x9, 3x3, 5x5 over luma."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(1, 128, 9), nn.Conv2d(128, 64, 3, padding=1)
        self.third = nn.Conv2d(64, 1, 5)

    def forward(self, luma: Tensor, _level: float | None) -> Tensor:
        """(1, 1, H, W), enlarged bicubically, to the same shape."""
        padded = functional.pad(luma, (6, 6, 6, 6), mode="replicate")
        features = functional.relu(self.second(functional.relu(self.first(padded))))
        result: Tensor = self.third(features)
        return result


class VDSR(nn.Module):
    """Kim et al., CVPR 2016: 20 layers over luma that tell what is missing, for all scales."""

    def __init__(self) -> None:
        super().__init__()
        self.model = chain([1, *[64] * 19, 1], bias=False)

    def forward(self, luma: Tensor, _level: float | None) -> Tensor:
        """(1, 1, H, W), enlarged bicubically, to the same shape."""
        result: Tensor = luma + self.model(luma)
        return result


class ZeroDCE(nn.Module):
    """Guo et al., CVPR 2020: seven layers that tell eight curves a pixel, by which it is lifted."""

    def __init__(self) -> None:
        super().__init__()
        inputs, outputs = (3, 32, 32, 32, 64, 64, 64), (32,) * 6 + (24,)
        self.layers = nn.ModuleList(
            nn.Conv2d(before, after, 3, padding=1) for before, after in zip(inputs, outputs)
        )

    def forward(self, frame: Tensor, _level: float | None) -> Tensor:
        """(1, 3, H, W) to the same."""
        kept = [frame]
        for layer in self.layers[:4]:
            kept.append(functional.relu(layer(kept[-1])))
        features = kept[4]
        for layer, earlier in zip(self.layers[4:6], (kept[3], kept[2])):
            features = functional.relu(layer(torch.cat([earlier, features], 1)))
        curves = torch.tanh(self.layers[6](torch.cat([kept[1], features], 1)))
        for curve in curves.chunk(8, 1):
            frame = frame + curve * (frame * frame - frame)
        return frame


def state_dict(path: Path) -> Weights:
    """Of a file that holds nothing but tensors."""
    return dict(torch.load(path, map_location="cpu", weights_only=True))


def zero_dce_weights(path: Path) -> Weights:
    """With the names of `ZeroDCE`: its layers have the numbers 1 to 7 in the file."""
    names = {f"e_conv{number + 1}": f"layers.{number}" for number in range(7)}
    return {
        f"{names[key.partition('.')[0]]}.{key.partition('.')[2]}": value
        for key, value in state_dict(path).items()
    }


def srcnn_weights(path: Path) -> Weights:
    """Of a file that Keras wrote: kernels are (height, width, in, out) there."""
    import h5py

    weights = {}
    with h5py.File(path) as file:
        for number, name in enumerate(("first", "second", "third"), 1):
            layer = file[f"convolution2d_{number}"]
            kernel, bias = (np.asarray(layer[f"convolution2d_{number}_{kind}:0"]) for kind in "Wb")
            weights[f"{name}.weight"] = torch.from_numpy(kernel.transpose(3, 2, 0, 1).copy())
            weights[f"{name}.bias"] = torch.from_numpy(bias)
    return weights


def vdsr_weights(path: Path) -> Weights:
    """Of a pickled network (PyTorch 0.2's format), without running any of what it names."""
    with path.open("rb") as file:
        network = _read_pickled(file)["model"]
    parts = network._modules
    inner = [block._modules["conv"] for block in parts["residual_layer"]._modules.values()]
    layers = [parts["input"], *inner, parts["output"]]
    return {
        f"model.{2 * number}.weight": layer._parameters["weight"]
        for number, layer in enumerate(layers)
    }


class _Shell:
    """Stands for every class and function that a pickle names: takes what it is given, and does
    nothing with it but keep its attributes."""

    arguments: tuple[Any, ...] = ()

    def __init__(self, *arguments: Any) -> None:
        self.arguments = arguments

    def __call__(self, *arguments: Any) -> _Shell:
        return _Shell(*arguments)

    def __setstate__(self, state: Any) -> None:
        self.__dict__.update(state if isinstance(state, dict) else {"state": state})


class _NamesNothing(pickle.Unpickler):
    """Reads the pickles of PyTorch 0.2's files; the storages of tensors come after them."""

    def __init__(self, file: BinaryIO, tensors: list[_Shell]) -> None:
        super().__init__(file, encoding="latin1")
        self._tensors = tensors

    def find_class(self, module: str, name: str) -> Any:
        """Return a shell for all but what holds plain data."""
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        if name == "_rebuild_tensor":
            return self._tensor
        return _Shell

    def persistent_load(self, pid: Any) -> Any:
        """Return a storage's key, or a shell for a class."""
        return str(pid[2]) if pid[0] == "storage" else _Shell

    def _tensor(self, storage: str, offset: int, shape: Any, stride: Any) -> _Shell:
        self._tensors.append(_Shell(storage, offset, tuple(shape), tuple(stride)))
        return self._tensors[-1]


def _read_pickled(file: BinaryIO) -> Any:
    """What `torch.save` of PyTorch 0.2 wrote: three heads, the object, the keys of its storages,
    and each of them as a count and float32 numbers."""
    tensors: list[_Shell] = []
    heads = [_NamesNothing(file, tensors).load() for _ in range(5)]
    storages = {}
    for key in heads[4]:
        count = int(np.frombuffer(file.read(8), "<i8")[0])
        storages[str(key)] = torch.from_numpy(np.frombuffer(file.read(4 * count), "<f4").copy())
    content = heads[3]
    made = {
        id(shell): torch.as_strided(storages[shell.arguments[0]], shape, stride, offset)
        for shell in tensors
        for _, offset, shape, stride in [shell.arguments]
    }
    _put_tensors(content, made, set())
    return content


def _put_tensors(value: Any, made: dict[int, Tensor], seen: set[int]) -> Any:
    """Replace the shells of tensors in a tree of dictionaries and attributes; a parameter is the
    tensor that it holds."""
    if id(value) in made:
        return made[id(value)]
    if isinstance(value, _Shell) and value.arguments and id(value.arguments[0]) in made:
        return made[id(value.arguments[0])]
    branches = value if isinstance(value, dict) else getattr(value, "__dict__", None)
    if branches is None or id(value) in seen:
        return value
    seen.add(id(value))
    for key, branch in list(branches.items()):
        branches[key] = _put_tensors(branch, made, seen)
    return value
