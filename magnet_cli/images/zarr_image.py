"""OME-Zarr and plain zarr arrays, versions 2 and 3, in a folder or a zip file."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import zarr
from zarr.storage import FsspecStore, LocalStore, ZipStore

from magnet_cli.errors import SourceError
from magnet_cli.geometry import Box, Size
from magnet_cli.images.failures import naming, needing
from magnet_cli.images.inputs import ZARR_MARKS
from magnet_cli.images.levels import is_reduction, level_table
from magnet_cli.images.limits import check_pixels
from magnet_cli.images.protocol import ImageInfo, Resolution
from magnet_cli.images.reader import PyramidImage
from magnet_cli.images.resolution import Found, decimal, microscope, not_positive
from magnet_cli.images.store import Pixels
from magnet_cli.images.units import unit_in_um
from magnet_cli.images.urls import is_url

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

CHUNK_BYTES = 256 << 20
"""A chunk that decodes to more cannot be read by region."""

ADVICE = "Name the group of one image"
COLOURS = ("red", "green", "blue")
GUESSED_AXES = {2: "yx", 3: "cyx", 4: "zcyx", 5: "tczyx"}


@dataclass(frozen=True, kw_only=True)
class ZarrLevels:
    """The arrays of an image, finest first."""

    arrays: tuple[zarr.Array[Any], ...]
    axes: str
    """One letter a dimension, of t, c, z, y, x."""
    resolution: Resolution | None = None
    labels: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def open_zarr(path: str) -> PyramidImage:
    """An image over a zarr array or an OME-Zarr group.

    Args:
        path: A folder, a zip file with the same content, or the URL of a folder.

    Raises:
        SourceError: It holds no image, or one that cannot be read by region.
    """
    holder = _Holder(path)
    try:
        with (
            holder.reached(),
            naming(path, "this holds no zarr image that can be read", advice=ADVICE, also=holder.also),
        ):
            levels = _levels(path, zarr.open(store=holder.store, mode="r"))
            info = _info(path, levels)
    except SourceError:
        holder.close()
        raise
    return PyramidImage(info, ZarrStore(holder, levels, np.dtype(info.dtype)))


class _Holder:
    """The store of a zarr image, its name, and how its failures are told.

    Args:
        path: A folder, a zip file, or the URL of a folder.
    """

    also: tuple[type[Exception], ...] = ()
    """What the network raises."""

    def __init__(self, path: str) -> None:
        self.path = path
        self._remote = is_url(path)
        self.store: ZipStore | LocalStore | FsspecStore
        if not self._remote:
            self.store = ZipStore(path, mode="r") if Path(path).is_file() else LocalStore(path, read_only=True)
            return
        if path.endswith(".zip"):
            raise SourceError("a zip file is read from a disk only", file=path, advice="Download it, or unpack it")
        with needing("remote", path):
            from magnet_cli.images import remote  # noqa: PLC0415 (an extra)
        # zarr asks for all of these at once, and where one request fails the others end loudly.
        if not remote.holds_any(path, ZARR_MARKS):
            raise SourceError("there is no such zarr image", file=path, advice="Check the address")
        self.store, self.also = remote.zarr_store(path), remote.failures()

    def reached(self) -> AbstractContextManager[None]:
        """Say plainly how the network failed in the block."""
        if not self._remote:
            return nullcontext()
        from magnet_cli.images.remote import reaching  # noqa: PLC0415 (an extra)

        return reaching(self.path)

    def close(self) -> None:
        """Release files and connections."""
        self.store.close()
        if isinstance(self.store, FsspecStore):
            from magnet_cli.images.remote import close_session  # noqa: PLC0415 (an extra)

            close_session(self.store)


def _levels(path: str, node: zarr.Array[Any] | zarr.Group) -> ZarrLevels:
    if isinstance(node, zarr.Array):
        return ZarrLevels(arrays=(node,), axes=_plain_axes(path, node))
    attributes = node.attrs.asdict()
    inner = attributes.get("ome")
    metadata: Mapping[str, Any] = inner if isinstance(inner, dict) else attributes
    if "multiscales" not in metadata:
        if "0" in node:
            return _levels(path, node["0"])
        raise SourceError("the zarr group holds no multiscale image", file=path, advice=ADVICE)
    multiscale = metadata["multiscales"][0]
    nodes = [node[dataset["path"]] for dataset in multiscale["datasets"]]
    arrays = [array for array in nodes if isinstance(array, zarr.Array)]
    if not arrays or len(arrays) < len(nodes):
        raise SourceError("a level of the multiscale image is no array", file=path)
    axes = _axes(multiscale, arrays[0].ndim)
    resolution, said = _resolution(multiscale, axes)
    return ZarrLevels(
        arrays=(arrays[0], *_reduced(multiscale, arrays, axes)),
        axes=axes,
        resolution=resolution,
        labels=_labels(metadata),
        notes=_notes(arrays[0], axes) + said,
    )


def _plain_axes(path: str, array: zarr.Array[Any]) -> str:
    shape = array.shape
    if len(shape) == 3 and shape[2] <= 4 < shape[0]:  # noqa: PLR2004 (interleaved colours)
        return "yxc"
    if len(shape) not in (2, 3):
        raise SourceError("a plain zarr array has two or three dimensions", value=f"shape {shape}", file=path)
    return GUESSED_AXES[len(shape)]


def _axes(multiscale: Mapping[str, Any], dimensions: int) -> str:
    said = multiscale.get("axes")
    if not said:
        return GUESSED_AXES[dimensions] if dimensions != 4 else "czyx"  # noqa: PLR2004 (as OME-Zarr 0.3 orders them)
    return "".join(str(axis["name"] if isinstance(axis, dict) else axis)[0].lower() for axis in said)


def _size(array: zarr.Array[Any], axes: str) -> Size:
    return Size(width=array.shape[axes.index("x")], height=array.shape[axes.index("y")])


def _reduced(multiscale: Mapping[str, Any], arrays: list[zarr.Array[Any]], axes: str) -> Iterator[zarr.Array[Any]]:
    full, datasets = arrays[0], multiscale["datasets"]
    for array, dataset in zip(arrays[1:], datasets[1:], strict=True):
        alike = array.ndim == full.ndim and array.dtype == full.dtype
        if alike and is_reduction(_size(full, axes), _size(array, axes)) and _in_place(datasets[0], dataset, axes):
            yield array


def _in_place(first: Mapping[str, Any], dataset: Mapping[str, Any], axes: str) -> bool:
    """Whether a level begins where level 0 does: writers place its first pixel's centre, or say nothing."""
    at, start = (_transformation(one, "translation", axes, 0) for one in (dataset, first))
    scale = _transformation(dataset, "scale", axes, 1)
    return all(abs(at[i] - start[i]) <= abs(scale[i]) for i, name in enumerate(axes) if name in "yx")


def _transformation(holder: Mapping[str, Any], kind: str, axes: str, default: int) -> list[float]:
    steps = [step for step in holder.get("coordinateTransformations", ()) if step.get("type") == kind]
    return [float(value) for value in steps[0][kind]] if steps else [float(default)] * len(axes)


def _resolution(multiscale: Mapping[str, Any], axes: str) -> Found:
    units = [axis.get("unit") if isinstance(axis, dict) else None for axis in multiscale.get("axes", ())]
    x, y = (unit_in_um(str(units[axes.index(name)])) if units else None for name in "xy")
    if x is None or y is None:
        return None, ()
    for holder in (multiscale["datasets"][0], multiscale):
        for step in holder.get("coordinateTransformations", ()):
            if step.get("type") == "scale":
                across, down = (step["scale"][axes.index(name)] for name in "xy")
                factor_x, factor_y = decimal(across), decimal(down)
                if factor_x is None or factor_y is None:
                    return None, (not_positive(across, down),)
                x, y = x * factor_x, y * factor_y
    return microscope(x, y)


def _labels(metadata: Mapping[str, Any]) -> tuple[str, ...]:
    channels = metadata.get("omero", {}).get("channels", ())
    return tuple(str(channel.get("label", "")).lower() for channel in channels)


def _notes(array: zarr.Array[Any], axes: str) -> tuple[str, ...]:
    deep = [f"{name}={array.shape[i]}" for i, name in enumerate(axes) if name in "tz" and array.shape[i] > 1]
    return (f"only the first plane is read ({', '.join(deep)})",) if deep else ()


def _bands(levels: ZarrLevels) -> tuple[str, ...]:
    array = levels.arrays[0]
    count = array.shape[levels.axes.index("c")] if "c" in levels.axes else 1
    if len(levels.labels) == count and len(set(levels.labels)) == count and all(levels.labels):
        return levels.labels
    if count == len(COLOURS) and array.dtype == np.uint8:
        return COLOURS
    return ("grey",) if count == 1 else tuple(f"band{index + 1}" for index in range(count))


def _info(path: str, levels: ZarrLevels) -> ImageInfo:
    array = levels.arrays[0]
    if "x" not in levels.axes or "y" not in levels.axes or len(levels.axes) != array.ndim:
        raise SourceError("the zarr image has no x and y axes", value=levels.axes, file=path)
    check_pixels(array.shape[levels.axes.index("x")], array.shape[levels.axes.index("y")], path)
    if array.dtype.kind not in "buif":
        raise SourceError("pixels are whole or real numbers", value=array.dtype, file=path)
    for level in levels.arrays:
        needed = (
            int(np.prod([min(c, n) for c, n in zip(level.chunks, level.shape, strict=True)])) * level.dtype.itemsize
        )
        if needed > CHUNK_BYTES:
            raise SourceError(
                "a chunk is too large to be read by region",
                value=f"{needed:,} bytes",
                file=path,
                advice="Rechunk it to about 512 x 512 pixels",
            )
    size = _size(array, levels.axes)
    dtype = np.dtype(np.uint8) if array.dtype.kind == "b" else array.dtype.newbyteorder("=")
    return ImageInfo(
        path=path,
        backend="zarr",
        size=size,
        levels=level_table(size, [_size(level, levels.axes) for level in levels.arrays[1:]]),
        bands=_bands(levels),
        dtype=dtype.name,
        resolution=levels.resolution,
        has_mask=dtype.kind == "f",
        notes=levels.notes,
    )


class ZarrStore:
    """Levels of a zarr image.

    Args:
        holder: Closed at the end.
        levels: Its arrays.
        dtype: Of the pixels handed out.
    """

    def __init__(self, holder: _Holder, levels: ZarrLevels, dtype: np.dtype[Any]) -> None:
        self._holder = holder
        self._levels = levels
        self._dtype = dtype

    def block(self, level: int) -> Size:
        """See `Store`."""
        array, axes = self._levels.arrays[level], self._levels.axes
        return Size(width=array.chunks[axes.index("x")], height=array.chunks[axes.index("y")])

    def fetch(self, level: int, box: Box, bands: tuple[int, ...] | None = None) -> Pixels:
        """See `Store`."""
        axes = self._levels.axes
        rows, columns = box.slices
        channels = slice(None) if bands is None else np.array(bands)
        index: Any = tuple({"y": rows, "x": columns, "c": channels}.get(axis, 0) for axis in axes)
        rule, advice = f"box {box} of level {level} cannot be decoded", "A chunk is damaged: copy it again"
        with self._holder.reached(), naming(self._holder.path, rule, advice=advice, also=self._holder.also):
            array = self._levels.arrays[level]
            values = np.asarray(array[index] if bands is None else array.oindex[index])
        left = [axis for axis in axes if axis in "yxc"]
        if "c" not in left:
            values, left = values[..., None], [*left, "c"]
        values = values.transpose([left.index(axis) for axis in "yxc"])
        if values.dtype.kind == "b":
            values = values.astype(np.uint8) * np.uint8(255)
        values = values.astype(self._dtype, copy=False)
        return Pixels(values, None)

    def close(self) -> None:
        """See `Store`."""
        self._holder.close()
