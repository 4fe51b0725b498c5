"""A network that a Python program hands over instead of the name of a bundle, and its description."""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import isfinite
from pathlib import Path
from types import CodeType
from typing import TYPE_CHECKING, Any, Literal, Self, cast, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from magnet_cli.errors import UsageError, WeightsError
from magnet_cli.geometry import Size
from magnet_cli.models.bundle_writer import palette_colors
from magnet_cli.models.facts import facts_of, largest_tensors
from magnet_cli.models.foreign.adapter import COARSEST, covers_patch, enlarged
from magnet_cli.models.foreign.trial import SAME, SUM
from magnet_cli.models.network_spec import (
    MOST_CLASSES,
    Bundle,
    ClassSpec,
    InputSpec,
    MagnetDefaults,
    NetworkSpec,
    PixelSize,
    Temperature,
)
from magnet_cli.models.networks import Networks, placed
from magnet_cli.options.forms import BYTES
from magnet_cli.options.lengths import PhysicalScales, in_unit
from magnet_cli.options.scales import SCALES, parse_scales
from magnet_cli.system.memory import PeakSampler, host_memory

if TYPE_CHECKING:
    from magnet_cli.plan import ModelFacts

ADVICE = "Correct the argument; docs/python.md describes it"

Activation = Literal["softmax", "sigmoid", "none"]
PatchFunction = Callable[[Tensor], Tensor | NDArray[Any]]
"""Maps normalised patches `(n, bands, h, w)`, float32 on the device, to scores `(n, classes, h', w')`."""

PYTHON = "python"
"""Architecture of a network that no bundle describes."""


@dataclass(frozen=True, kw_only=True)
class NetworkDescription:
    """Facts about a network that is given to `segment`, with the keys of a bundle's `bundle.json`.

    Raises:
        UsageError: A value is not allowed.
    """

    classes: int | Sequence[str]
    """The number of the network's classes, or their names in order. At most 255."""
    size: int | str | Size
    """Size of a patch in pixels: a side, `512x384` (width first), or a `Size`."""
    bands: Sequence[str] = ("red", "green", "blue")
    """Names of the network's bands. An image's bands are matched by name, else by count."""
    range: tuple[float, float] = (0.0, 255.0)
    """Stored values that become 0 and 1, before mean and standard deviation."""
    mean: Sequence[float] | None = None
    """Mean of each band, of values from 0 to 1. None is 0."""
    std: Sequence[float] | None = None
    """Standard deviation of each band. None is 1."""
    activation: Activation = "softmax"
    """Function from scores to probabilities. `sigmoid` takes one score for two classes as that of the second; `none`
    is for scores that are probabilities."""
    scales: str | Sequence[int | Size] | None = None
    """Sides of the windows that the network was trained at, in pixels: the default of `SegmentOptions.scales`. None is
    `size`: one stage, in which each patch shows as many pixels as it has."""
    pixel_size: str | None = None
    """Physical size of a pixel at which the network was trained: `0.5um`, `0.3m`. Images are read at that size. None
    takes every image as it is."""
    colors: Sequence[str] | None = None
    """`#RRGGBB` for each class. None takes colours of the program's own."""
    name: str = "network"
    """Name of the network in messages and reports."""
    version: str | None = None
    """A text that changes when the network does. An interrupted run continues only with the same version. Modules are
    identified by their weights, their attributes and the code of `forward` and need none, unless other functions that
    `forward` calls may change; other callables do."""
    memory: int | str | None = None
    """Bytes that one patch takes while the network runs, or `512MiB`. None measures one patch."""

    def __post_init__(self) -> None:
        if self.activation not in get_args(Activation):
            raise UsageError(
                f"activation is one of {', '.join(get_args(Activation))}",
                value=repr(self.activation),
                advice=ADVICE,
            )
        low, high = self.range
        if not low < high or not (isfinite(low) and isfinite(high)):
            raise UsageError(
                "the lower end of the range of stored values is below the upper end",
                value=f"{low}, {high}",
                advice=ADVICE,
            )
        if not self.bands or len(set(self.bands)) < len(self.bands) or isinstance(self.bands, str):
            raise UsageError(
                "bands are different names", value=repr(self.bands), advice="Write ('red', 'green', 'blue')"
            )
        for key, values in (("mean", self.mean), ("std", self.std)):
            if values is not None and len(values) != len(self.bands):
                raise UsageError(
                    f"{key} has a value for each of {len(self.bands)} bands",
                    value=len(values),
                    advice=ADVICE,
                )
        if self.std is not None and min(self.std) <= 0:
            raise UsageError(
                "standard deviations are positive",
                value=list(self.std),
                advice=ADVICE,
            )
        # These raise where a value cannot be understood.
        _ = self.input_size, self.trained, self.class_specs, self.resolution, self.patch_bytes

    @cached_property
    def input_size(self) -> Size:
        """Size of a patch, in pixels."""
        found = SCALES.take(self.size if isinstance(self.size, str) else [self.size], "size")
        if not isinstance(found, tuple) or len(found) != 1 or not isinstance(found[0], Size):
            raise UsageError(
                "size is that of one patch in pixels", value=repr(self.size), advice="Write 512 or 512x384"
            )
        return found[0]

    @cached_property
    def trained(self) -> tuple[Size, ...]:
        """Sizes of the windows that the network was trained at, coarsest first."""
        if self.scales is None:
            return (self.input_size,)
        found = SCALES.take(self.scales if isinstance(self.scales, str) else list(self.scales), "scales")
        if not isinstance(found, tuple) or not found:
            raise UsageError("scales are sides in pixels", value=repr(self.scales), advice="Write (256, 512, 1024)")
        return found

    @cached_property
    def class_specs(self) -> tuple[ClassSpec, ...]:
        """Names and colours of the classes."""
        names = [f"class{index}" for index in range(self.classes)] if isinstance(self.classes, int) else self.classes
        if isinstance(names, str) or not 2 <= len(names) <= MOST_CLASSES or len(set(names)) < len(names):  # noqa: PLR2004
            raise UsageError(
                f"there are 2 to {MOST_CLASSES} classes of different names",
                value=repr(self.classes),
                advice=ADVICE,
            )
        colors = self.colors or palette_colors(len(names))
        if len(colors) != len(names):
            raise UsageError(
                f"there is a colour for each of {len(names)} classes",
                value=len(colors),
                advice=ADVICE,
            )
        for color in colors:
            if (
                len(color) != len("#RRGGBB")
                or color[0] != "#"
                or not all(c in "0123456789abcdefABCDEF" for c in color[1:])
            ):
                raise UsageError(
                    "a colour is written #RRGGBB",
                    value=repr(color),
                    advice=ADVICE,
                )
        return tuple(ClassSpec(name=name, color=color) for name, color in zip(names, colors, strict=True))

    @cached_property
    def resolution(self) -> PixelSize | None:
        """Physical size of a pixel, in micrometres or metres."""
        if self.pixel_size is None:
            return None
        found = parse_scales(self.pixel_size)
        if not isinstance(found, PhysicalScales) or len(found.sizes) != 1 or len({*_sides(found)}) != 1:
            raise UsageError(
                "pixel_size is a length with a unit", value=repr(self.pixel_size), advice="Write 0.5um or 0.3m"
            )
        unit: Literal["um", "m"] = "um" if found.sizes[0].unit in ("nm", "um", "mm") else "m"
        return PixelSize(value=in_unit(found.sizes[0].width, unit), unit=unit)

    @cached_property
    def patch_bytes(self) -> int | None:
        """Bytes that one patch takes while the network runs; None where they are to be measured."""
        return None if self.memory is None else cast("int", BYTES.take(self.memory, "memory"))

    def describe(self) -> dict[str, object]:
        """Return all that a mask depends on, as JSON values."""
        return {
            "classes": [entry.name for entry in self.class_specs],
            "colors": [entry.color for entry in self.class_specs],
            "size": str(self.input_size),
            "bands": list(self.bands),
            "range": list(map(float, self.range)),
            "mean": [float(value) for value in self.mean or ()],
            "std": [float(value) for value in self.std or ()],
            "activation": self.activation,
            "scales": [str(size) for size in self.trained],
            "pixel": None if self.resolution is None else [str(self.resolution.value), self.resolution.unit],
            "name": self.name,
            "version": self.version,
        }


def _sides(scales: PhysicalScales) -> tuple[Any, Any]:
    return scales.sizes[0].width, scales.sizes[0].height


class _Scores(nn.Module):
    """Calls a caller's network as a backbone: it returns scores of each pixel of the patches, as a float32 tensor.

    Networks in files go through `foreign.adapter.Adapted`, which also selects outputs and fits axes, types and batches.
    A caller's function does these itself, and its scores are activated as those of a bundle are.
    """

    def __init__(self, network: PatchFunction, *, channels: int) -> None:
        super().__init__()
        self._call = network
        self._channels = channels

    def forward(self, x: Tensor) -> Tensor:
        """Map `(n, bands, h, w)` to `(n, channels, h, w)`."""
        found: object = self._call(x)
        if isinstance(found, np.ndarray):
            found = torch.from_numpy(np.ascontiguousarray(found))
        if not isinstance(found, Tensor):
            raise WeightsError(
                "a network gives a tensor or an array of scores",
                value=f"a value of type {type(found).__name__}",
                advice="Hand in a function that takes the scores out of it, like lambda x: network(x)['out']",
            )
        count, sides = len(x), x.shape[2:]
        right = found.ndim == x.ndim and found.shape[:2] == (count, self._channels)
        if not right or not covers_patch(found.shape[2:], sides):
            raise WeightsError(
                f"for patches {tuple(x.shape)} a network gives scores ({count}, {self._channels}, h, w), h and w being "
                f"those of the patch, or smaller down to a {COARSEST}th",
                value=tuple(found.shape),
                advice="Check classes, size and activation of the description",
            )
        return enlarged(found.to(x.device).float(), sides)


@dataclass(frozen=True, kw_only=True, eq=False)
class PythonNetwork:
    """A network of a Python program with its description, which stands in for a bundle.

    Args:
        network: A module, which is copied and stays as it is, or any other callable.
        description: The facts about it that a run needs.
    """

    network: PatchFunction
    description: NetworkDescription

    @classmethod
    def of(cls, network: PatchFunction | None, description: NetworkDescription | None) -> Self | None:
        """Return the network that a caller hands over; None where there is none.

        Raises:
            UsageError: The description is missing, or there is nothing to describe.
        """
        if network is None and description is None:
            return None
        if network is None or description is None:
            raise UsageError(
                "a network of your own is given with its description",
                value="network alone" if description is None else "description alone",
                advice="Give network=... and description=NetworkDescription(classes=..., size=...)",
            )
        if not callable(network):
            raise UsageError(
                "a network is a module or another callable",
                value=type(network).__name__,
                advice="Hand in a torch.nn.Module, or a function from patches to scores",
            )
        found = cls(network=network, description=description)
        _ = found.bundle  # raises where the network cannot be told from another one
        return found

    @cached_property
    def bundle(self) -> Bundle:
        """A bundle of the same facts, without files.

        Raises:
            UsageError: The network cannot be identified: it has neither weights nor a version.
        """
        given, digest = self.description, self._digest()
        bands = len(given.bands)
        return Bundle(
            name=given.name,
            folder=Path(),
            digest=digest,
            classes=given.class_specs,
            input=InputSpec(
                bands=tuple(given.bands),
                range=given.range,
                mean=tuple(given.mean or (0.0,) * bands),
                std=tuple(given.std or (1.0,) * bands),
                size=given.input_size,
                resample="area",
            ),
            activation=given.activation,
            scales=given.trained,
            resolution=given.resolution,
            magnet=MagnetDefaults(merge="mean", points="all", patches="all", median=11, margin=0),
            compat="paper",
            backbone=NetworkSpec(architecture=PYTHON, options={}, temperature=Temperature(), file="", sha256=digest),
            refiners=(),
            selector=None,
            local=None,
        )

    def load(self, *, device: str, precision: str) -> tuple[ModelFacts, Networks]:
        """Place the network on a device, and try it on one patch.

        Args:
            device: `cpu`, `cuda:0`, `mps`.
            precision: `float32`, or what modules compute in under autocast.

        Raises:
            WeightsError: Its scores have another shape or no numbers, or differ when it is called again.
            DeviceError: The device cannot be used.
        """
        place, network, weights = placed(device), self.network, 0
        if isinstance(network, nn.Module):
            # The caller may train the module meanwhile, or use it on another device.
            network = _copied(network).eval().requires_grad_(requires_grad=False).to(place)
            weights = sum(tensor.numel() * tensor.element_size() for tensor in network.state_dict().values())
        networks = Networks(
            bundle=self.bundle,
            backbone=_Scores(network, channels=self.bundle.logits),
            refiners=(),
            device=place,
            precision=precision,
        )
        measured, needed = self._tried(networks, network), self.description.patch_bytes
        facts = facts_of(self.bundle, weight_bytes=weights, activation_bytes=measured if needed is None else needed)
        return facts, networks

    def _tried(self, networks: Networks, network: PatchFunction) -> int:
        """Run one patch of noise over the whole range of stored values twice, and return the bytes that it takes."""
        given, size = self.description, self.description.input_size
        shape = (1, size.height, size.width, len(given.bands))
        noise = np.random.default_rng(0).random(shape, dtype=np.float32)
        mean, std = (np.array(values, np.float32) for values in (self.bundle.input.mean, self.bundle.input.std))
        patch = torch.from_numpy((noise - mean) / std).permute(0, 3, 1, 2).to(networks.device)
        with torch.inference_mode():
            # A network may return the same array each time, so its first result is kept apart from the second one.
            if isinstance(network, nn.Module):
                with largest_tensors(network) as found:
                    first = networks.predict(patch, size).clone()
                taken = found.bytes
            else:
                found_once, taken = _measured(networks, patch, size)
                first = found_once.clone()
            again = networks.predict(patch, size)
        whole = first.sum(dim=1)
        if not bool(torch.isfinite(first).all()):
            raise WeightsError(
                "the network gives values that are not numbers for a patch of noise",
                value=given.name,
                advice="Check the weights, and the range that the network expects",
            )
        least, most = float(first.min()), float(first.max())
        sums = given.activation == "softmax" or (given.activation == "none" and bool(((whole - 1).abs() < SUM).all()))
        if given.activation == "none" and not (sums and least >= -SUM and most <= 1 + SUM):
            raise WeightsError(
                "with activation 'none' the scores of a pixel are probabilities, from 0 to 1, whose sum is 1",
                value=f"values from {least:.3g} to {most:.3g}",
                advice="Name the activation that makes probabilities of them: softmax or sigmoid",
            )
        apart = float((first - again).abs().max())
        if apart > SAME:
            raise WeightsError(
                "the network gives another result for the same patch when it is called again",
                value=f"{given.name}, probabilities up to {apart:.3g} apart",
                advice="Switch dropout and other randomness off, and change no patch in place: a mask has to be the "
                "same when it is computed again",
            )
        return max(taken, 4 * (patch.numel() + first.numel()))

    def _digest(self) -> str:
        """Return the SHA-256 over the description and the identity of the network."""
        total = hashlib.sha256(json.dumps(self.description.describe(), sort_keys=True).encode())
        network = self.network
        if not isinstance(network, nn.Module):
            if self.description.version is None:
                raise UsageError(
                    "a callable that is no module needs a version: nothing else tells a run of it from that of another",
                    value=self.description.name,
                    advice="Give NetworkDescription(version='1'), and another text when the network changes",
                )
            return total.hexdigest()
        # The representation has the options of all layers, which no weight shows: strides, dilations, activations.
        total.update(f"{type(network).__module__}.{type(network).__qualname__}\n{network!r}".encode())
        for key, value in sorted(network.state_dict().items()):
            if not isinstance(value, Tensor):
                if self.description.version is None:
                    raise UsageError(
                        "a module whose state is not tensors alone needs a version",
                        value=key,
                        advice="Give NetworkDescription(version='1'), and another text when the network changes",
                    )
                continue
            total.update(_tensor_text(key, value))
        for part in _unlisted(network):
            total.update(part)
        return total.hexdigest()


def _tensor_text(name: str, value: Tensor) -> bytes:
    """Return a tensor's name, type, shape and values. A tensor on the device `meta` has no values."""
    head = f"\n{name} {value.dtype} {tuple(value.shape)}\n".encode()
    if value.layout != torch.strided:
        head += f"{value.layout}\n".encode()
    if value.is_meta:
        return head + b"meta"
    if value.layout != torch.strided:
        value = value.detach().to_dense()
    return head + value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def _array_text(name: str, value: NDArray[Any]) -> bytes:
    """Return an array's name, type, byte order, shape and values."""
    head = f"\n{name} {value.dtype.str} {value.shape}\n".encode()
    if value.dtype.char in "gG":
        # Long doubles have bytes without a meaning, which differ from array to array.
        return head + " ".join(map(str, value.ravel())).encode()
    return head + np.ascontiguousarray(value).tobytes()


def _unlisted(network: nn.Module) -> Iterator[bytes]:
    """Yield what the result of a module depends on and neither its weights nor its representation show.

    This is the code of `forward` of classes that are not PyTorch's own, and plain values, arrays and tensors that such
    modules keep as attributes or as buffers that are not saved. Functions that `forward` calls are not followed.
    """
    for name, module in network.named_modules():
        for key in sorted(module._non_persistent_buffers_set):  # noqa: SLF001 - nothing else tells them from the others
            buffer = module._buffers[key]  # noqa: SLF001 - `get_buffer` refuses buffers that are None
            yield f"\n{name}.{key} None".encode() if buffer is None else _tensor_text(f"{name}.{key}", buffer)
        if type(module).__module__.partition(".")[0] == "torch":
            continue
        code = getattr(getattr(module, "forward", None), "__code__", None)
        if code is not None:
            yield f"\n{name} {_code_text(code)}".encode("utf-8", "backslashreplace")
        for key, value in sorted(vars(module).items()):
            if key.startswith("_") or key == "training":
                continue
            if isinstance(value, np.ndarray) and value.dtype.kind in "biufc":
                yield _array_text(f"{name}.{key}", value)
            elif isinstance(value, Tensor):
                yield _tensor_text(f"{name}.{key}", value)
            elif _is_plain(value):
                yield f"\n{name}.{key} {value!r}".encode("utf-8", "backslashreplace")


def _is_plain(value: object) -> bool:
    if isinstance(value, tuple | list):
        return all(map(_is_plain, value))
    return value is None or isinstance(value, bool | int | float | str | bytes)


def _code_text(code: CodeType) -> str:
    """Return what a function does as a text, without the file and the lines that it comes from."""
    found = []
    for value in code.co_consts:
        if isinstance(value, CodeType):
            found.append(_code_text(value))
        else:
            # A set has another order in each process.
            found.append(repr(sorted(map(repr, value)) if isinstance(value, frozenset) else value))
    return f"{code.co_code.hex()} {code.co_names} {code.co_varnames} {found}"


def _copied(network: nn.Module) -> nn.Module:
    """Return a copy that can be placed and set up without a change to the caller's module.

    Raises:
        UsageError: The module cannot be copied.
    """
    try:
        return copy.deepcopy(network)
    except (RuntimeError, TypeError, ValueError, NotImplementedError) as error:
        raise UsageError(
            "the module cannot be copied, and a run may not change a module that is in use elsewhere",
            value=f"{type(network).__name__}: {error}",
            advice="Hand in a function that calls it, with a version",
        ) from error


def _measured(networks: Networks, patch: Tensor, size: Size) -> tuple[Tensor, int]:
    """Return the probabilities of a patch, and the bytes by which memory grew for them, the device's or the host's."""
    if networks.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(networks.device)
        before = torch.cuda.memory_allocated(networks.device)
        found = networks.predict(patch, size)
        return found, torch.cuda.max_memory_allocated(networks.device) - before
    base = host_memory() or 0
    with PeakSampler(interval=0.005) as peaks:
        found = networks.predict(patch, size)
        peaks.sample()
    return found, max(0, (peaks.peak.pss or 0) - base)
