"""OME-Zarr and plain zarr arrays, versions 2 and 3, in a folder or a zip file."""

from __future__ import annotations

import struct
from base64 import b64decode
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass, replace
from functools import partial
from math import log
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeGuard

import numpy as np
import zarr
from zarr.storage import FsspecStore, LocalStore, ZipStore

from magnet_cli.errors import SourceError
from magnet_cli.geometry import Box, Size
from magnet_cli.images.channels import channel_bands, scale_note
from magnet_cli.images.contents import Content, choose, largest, others
from magnet_cli.images.failures import check_pixels, naming, needing
from magnet_cli.images.inputs import ZARR_MARKS
from magnet_cli.images.levels import level_table, placements
from magnet_cli.images.protocol import ImageInfo, Level, Resolution
from magnet_cli.images.reader import PyramidImage
from magnet_cli.images.resolution import Found, decimal, not_positive, stated
from magnet_cli.images.store import Pixels
from magnet_cli.images.units import unit_in_um
from magnet_cli.images.urls import is_url
from magnet_cli.images.validity import storable, without_nodata
from magnet_cli.images.zarr_codecs import checked_codecs
from magnet_cli.images.zarr_groups import GUESSED_AXES, ZarrNode, axes_of, described_names, zarr_images
from magnet_cli.images.zarr_stores import BoundedZipStore, RegularStore

if TYPE_CHECKING:
    from collections.abc import Mapping

CHUNK_BYTES = 256 << 20
"""Largest decoded size of a chunk that is read by region, in bytes."""

AXIS_NAMES = {
    **dict.fromkeys(("x", "lon", "longitude", "easting", "width", "column", "columns", "col"), "x"),
    **dict.fromkeys(("y", "lat", "latitude", "northing", "height", "row", "rows"), "y"),
    **dict.fromkeys(("c", "channel", "channels", "band", "bands", "class", "wavelength", "rgb", "rgba"), "c"),
    **dict.fromkeys(("z", "depth", "level"), "z"),
    **dict.fromkeys(("t", "time"), "t"),
}
"""Axes by the names that programs give to the dimensions of an array."""

PACKED = ("scale_factor", "add_offset")
"""Attributes by which netCDF and xarray turn stored values into physical ones."""

ADVICE = "Name the group of one image"
COLOURS = ("red", "green", "blue")


@dataclass(frozen=True, kw_only=True)
class ZarrLevels:
    """The arrays of an image, finest first."""

    arrays: tuple[zarr.Array[Any], ...]
    places: tuple[Level, ...]
    """Levels of the arrays after the first."""
    axes: str
    """One letter for each dimension of the arrays, of t, c, z, y, x."""
    resolution: Resolution | None = None
    labels: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def open_zarr(path: str, *, series: str | int | None = None) -> PyramidImage:
    """Open a zarr array or an OME-Zarr group.

    Args:
        path: A folder, a zip file with the same content, or the URL of a folder.
        series: Number or name of the image that is read, where the group holds several; None for the largest.

    Raises:
        SourceError: It holds no image, or one that cannot be read by region.
    """
    holder = _Holder(path)
    try:
        with (
            holder.reached(),
            checked_codecs(),
            naming(path, "this holds no zarr image that can be read", advice=ADVICE, also=holder.also),
        ):
            described = described_names(Path(path)) if isinstance(holder.store, LocalStore) else ()
            nodes = zarr_images(zarr.open(store=holder.store, mode="r"), described=described)
            if not nodes:
                raise SourceError("the zarr group holds no multiscale image", file=path, advice=ADVICE)  # noqa: TRY301
            contents = [Content(name=one.name, size=one.size) for one in nodes]
            index = choose(contents, series, default=largest(contents), path=path)
            levels = _levels(path, nodes[index])
            info = _info(path, levels)
            info = replace(info, notes=(*others(contents, index), *info.notes))
    except SourceError:
        holder.close()
        raise
    store = ZarrStore(holder, levels, np.dtype(info.dtype), nodata=info.nodata)
    return PyramidImage(info, store).holding(contents, index)


class _Holder:
    """The store of a zarr image, its name, and the handling of its failures.

    Args:
        path: A folder, a zip file, or the URL of a folder.
    """

    also: tuple[type[Exception], ...] = ()
    """Exception types that the network library raises."""

    def __init__(self, path: str) -> None:
        self.path = path
        self._remote = is_url(path)
        self.store: ZipStore | LocalStore | FsspecStore
        if not self._remote:
            self.store = BoundedZipStore(path, mode="r") if Path(path).is_file() else RegularStore(path, read_only=True)
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
        """Turn a network error of the block into one that names what failed."""
        if not self._remote:
            return nullcontext()
        from magnet_cli.images.remote import reaching  # noqa: PLC0415 (an extra)

        return reaching(self.path)

    def close(self) -> None:
        """Close the store's files and connections."""
        # zarr opens a zip file when it is first read, and cannot close one that it could not open.
        if not isinstance(self.store, ZipStore) or self.store._is_open:  # noqa: SLF001 (nothing public says it)
            self.store.close()
        if isinstance(self.store, FsspecStore):
            from magnet_cli.images.remote import close_session  # noqa: PLC0415 (an extra)

            close_session(self.store)


def _levels(path: str, image: ZarrNode) -> ZarrLevels:
    node, multiscale, metadata = image.node, image.multiscale, image.metadata
    if isinstance(node, zarr.Array):
        plain = _plain_axes(path, node)
        return ZarrLevels(arrays=(node,), places=(), axes=plain, notes=_notes(node, plain))
    nodes = [node[dataset["path"]] for dataset in multiscale["datasets"]]
    arrays = [array for array in nodes if isinstance(array, zarr.Array)]
    if not arrays or len(arrays) < len(nodes):
        raise SourceError(
            "a level of the multiscale image is no array",
            file=path,
            advice="Name the array of an image, or export it again as OME-Zarr",
        )
    axes = axes_of(multiscale, arrays[0].ndim)
    if any(array.size > arrays[0].size for array in arrays):
        raise SourceError(
            "the levels of a multiscale image go from the largest to the smallest",
            value=", ".join("x".join(map(str, array.shape)) for array in arrays[:3]),
            file=path,
            advice="Export it again as OME-Zarr, or name the array of the largest level",
        )
    resolution, said = _resolution(multiscale, axes)
    reduced = _reduced(multiscale, arrays, axes)
    return ZarrLevels(
        arrays=(arrays[0], *(array for array, _ in reduced)),
        places=tuple(place for _, place in reduced),
        axes=axes,
        resolution=resolution,
        labels=_labels(metadata),
        notes=_notes(arrays[0], axes) + said,
    )


def _plain_axes(path: str, array: zarr.Array[Any]) -> str:
    stated = _stated_axes(array)
    if stated is not None:
        return stated
    shape = array.shape
    if len(shape) == 3 and shape[2] <= 4 < shape[0]:  # noqa: PLR2004 (interleaved colours)
        return "yxc"
    if len(shape) not in (2, 3):
        raise SourceError(
            "a plain zarr array has two or three dimensions",
            value=f"shape {shape}",
            file=path,
            advice="Name the array of an image, or export it again as OME-Zarr",
        )
    return GUESSED_AXES[len(shape)]


def _stated_axes(array: zarr.Array[Any]) -> str | None:
    """Return one letter for each dimension as the array names them; None where it names none, or others than these.

    Version 3 has a place for the names, and xarray puts them into an attribute of version 2.
    """
    names = getattr(array.metadata, "dimension_names", None) or array.attrs.asdict().get("_ARRAY_DIMENSIONS")
    if not isinstance(names, list | tuple):
        return None
    words = [str(name).strip().lower() for name in names]
    letters = [AXIS_NAMES.get(word, "") for word in words]
    # Programs for pictures call interleaved colours the depth of a picture.
    if words[-1:] == ["depth"] and len(words) == array.ndim and array.shape[-1] <= 4:  # noqa: PLR2004 (red to alpha)
        letters[-1] = "c"
    axes = "".join(letters)
    complete = len(axes) == len(names) == array.ndim == len(set(axes))
    return axes if complete and {"x", "y"} <= set(axes) else None


def _size(array: zarr.Array[Any], axes: str) -> Size:
    return Size(width=array.shape[axes.index("x")], height=array.shape[axes.index("y")])


def _reduced(
    multiscale: Mapping[str, Any], arrays: list[zarr.Array[Any]], axes: str
) -> list[tuple[zarr.Array[Any], Level]]:
    """Return the reduced levels and their places; a level padded to whole chunks has the scale that it states."""
    full, datasets = arrays[0], multiscale["datasets"]
    found: list[tuple[zarr.Array[Any], Level]] = []
    for array, dataset in zip(arrays[1:], datasets[1:], strict=True):
        if array.ndim != full.ndim or array.dtype != full.dtype or not _in_place(datasets[0], dataset, axes):
            continue
        chunk = Size(width=array.chunks[axes.index("x")], height=array.chunks[axes.index("y")])
        before = [place.downsample for _, place in found]
        places = placements(_size(full, axes), _size(array, axes), tile=chunk, before=before)
        stated = _step(datasets[0], dataset, axes)
        if places and stated is not None:
            places = tuple(sorted(places, key=partial(_apart, stated)))
        if places:
            found.append((array, places[0]))
    return found


def _apart(stated: float, place: Level) -> float:
    """Return how far a level's downsample is from the stated one: the absolute logarithm of their ratio."""
    return abs(log(float(place.downsample.x) / stated))


def _step(first: Mapping[str, Any], dataset: Mapping[str, Any], axes: str) -> float | None:
    """Return the level-0 pixels that a pixel covers along x by the stated scales; None where none is stated."""
    across = [_transformation(one, "scale", axes, 0)[axes.index("x")] for one in (first, dataset)]
    step = across[1] / across[0] if across[0] > 0 else 0.0
    return step if 0 < step < float("inf") else None


def _in_place(first: Mapping[str, Any], dataset: Mapping[str, Any], axes: str) -> bool:
    """Return whether a level begins within one pixel of level 0's origin; writers may state its pixel centre."""
    at, start = (_transformation(one, "translation", axes, 0) for one in (dataset, first))
    scale = _transformation(dataset, "scale", axes, 1)
    return all(abs(at[i] - start[i]) <= abs(scale[i]) for i, name in enumerate(axes) if name in "yx")


def _transformation(holder: Mapping[str, Any], kind: str, axes: str, default: int) -> list[float]:
    steps = [step for step in holder.get("coordinateTransformations", ()) if step.get("type") == kind]
    return [float(value) for value in _numbers(steps[0], kind)] if steps else [float(default)] * len(axes)


def _numbers(step: Mapping[str, Any], kind: str) -> list[Any]:
    """Return the numbers of a coordinate transformation, one an axis.

    Raises:
        ValueError: One of them is `true` or `false`, which Python counts as 1 and 0.
    """
    values = list(step[kind])
    if any(isinstance(value, bool) for value in values):
        message = f"the {kind} of a level holds {str(values)[:80]}, and truth values are no numbers"
        raise ValueError(message)
    return values


def _resolution(multiscale: Mapping[str, Any], axes: str) -> Found:
    units = [axis.get("unit") if isinstance(axis, dict) else None for axis in multiscale.get("axes", ())]
    x, y = (unit_in_um(str(units[axes.index(name)])) if units else None for name in "xy")
    if x is None or y is None:
        return None, ()
    for holder in (multiscale["datasets"][0], multiscale):
        for step in holder.get("coordinateTransformations", ()):
            if step.get("type") == "scale":
                numbers = _numbers(step, "scale")
                across, down = (numbers[axes.index(name)] for name in "xy")
                factor_x, factor_y = decimal(across), decimal(down)
                if factor_x is None or factor_y is None:
                    return None, (not_positive(across, down),)
                x, y = x * factor_x, y * factor_y
    return stated(x, y, unit="um")


def _labels(metadata: Mapping[str, Any]) -> tuple[str, ...]:
    channels = metadata.get("omero", {}).get("channels", ())
    labels = [channel.get("label") for channel in channels]
    if any(isinstance(label, bool) for label in labels):
        message = "the label of a channel is a truth value, which names nothing"
        raise ValueError(message)
    return channel_bands([str(label or "") for label in labels])


def is_number(value: object) -> TypeGuard[int | float]:
    """Return whether a value of JSON is a number: in Python its `true` and `false` are whole numbers too."""
    return isinstance(value, int | float | np.number) and not isinstance(value, bool)


def _notes(array: zarr.Array[Any], axes: str) -> tuple[str, ...]:
    deep = [f"{name}={array.shape[i]}" for i, name in enumerate(axes) if name not in "yxc" and array.shape[i] > 1]
    stated = array.attrs.asdict()
    scales, offsets = ([value] if is_number(value) else [] for value in map(stated.get, PACKED))
    strange = [name for name in PACKED if isinstance(stated.get(name), bool)]
    said = (f"{' and '.join(strange)} of the array is a truth value and no number: it is ignored",) if strange else ()
    planes = (f"only the first plane is read ({', '.join(deep)})",) if deep else ()
    return (*planes, *scale_note(scales, offsets), *said)


def _nodata(array: zarr.Array[Any]) -> float | None:
    """Return the value of missing pixels that an array states by the conventions of netCDF, as xarray writes them."""
    stated = array.attrs.asdict()
    # Version 2 has no other place for it; 0 is what libraries fill arrays with that state nothing.
    own = array.fill_value if "_ARRAY_DIMENSIONS" in stated and array.fill_value else None
    for value in (stated.get("_FillValue"), stated.get("missing_value"), own):
        number = value[0] if isinstance(value, list) and len(value) == 1 else value
        if isinstance(number, str):
            with suppress(ValueError, struct.error):
                # xarray writes the eight bytes of a number, in base 64, into version 3.
                number = struct.unpack("<d", b64decode(number))[0]
        if is_number(number):
            return storable(float(number), array.dtype)
    return None


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
        raise SourceError(
            "the zarr image has no x and y axes",
            value=levels.axes,
            file=path,
            advice="Name the array of an image, or export it again as OME-Zarr",
        )
    check_pixels(array.shape[levels.axes.index("x")], array.shape[levels.axes.index("y")], path)
    if 0 in array.shape:
        raise SourceError(
            "the image has no bands or planes",
            value=f"shape {array.shape}",
            file=path,
            advice="Name the array of an image, or export it again as OME-Zarr",
        )
    if array.dtype.kind not in "buif":
        raise SourceError(
            "pixels are whole or real numbers",
            value=array.dtype,
            file=path,
            advice="Name the array of an image, or export it again as OME-Zarr",
        )
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
        levels=(*level_table(size, []), *levels.places),
        bands=_bands(levels),
        dtype=dtype.name,
        bilevel=array.dtype.kind == "b",
        nodata=_nodata(array) if array.dtype.kind != "b" else None,
        resolution=levels.resolution,
        has_mask=dtype.kind == "f" or (array.dtype.kind != "b" and _nodata(array) is not None),
        notes=levels.notes,
    )


class ZarrStore:
    """Levels of a zarr image, read chunk by chunk.

    Args:
        holder: Holder of the zarr store, closed with this one.
        levels: Arrays of the levels.
        dtype: NumPy dtype of the pixels that are returned.
        nodata: Value of missing pixels.
    """

    def __init__(
        self, holder: _Holder, levels: ZarrLevels, dtype: np.dtype[Any], *, nodata: float | None = None
    ) -> None:
        self._holder = holder
        self._levels = levels
        self._dtype = dtype
        self._nodata = nodata

    def block(self, level: int) -> Size:
        """Return the chunk size of a level."""
        array, axes = self._levels.arrays[level], self._levels.axes
        return Size(width=array.chunks[axes.index("x")], height=array.chunks[axes.index("y")])

    def fetch(self, level: int, box: Box, bands: tuple[int, ...] | None = None) -> Pixels:
        """Decode a box of a level from its chunks, at index 0 of every axis but x, y and channel."""
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
        return Pixels(values, without_nodata(values, self._nodata))

    def close(self) -> None:
        """Close the store of the image."""
        self._holder.close()
