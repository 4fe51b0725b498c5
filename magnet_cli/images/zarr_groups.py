"""The images of a zarr hierarchy: one, several multiscales, the series of bioformats2raw, or the fields of a plate."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import zarr

from magnet_cli.geometry import Size
from magnet_cli.images.ome import OmeError, is_ome, parse_ome

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

GUESSED_AXES = {2: "yx", 3: "cyx", 4: "zcyx", 5: "tczyx"}
MAX_SERIES = 4096
"""Largest number of images that are listed; damaged metadata could name any number."""
LARGEST_XML = 64 << 20
"""Most bytes of OME-XML that are read into memory."""


@dataclass(frozen=True, kw_only=True)
class ZarrNode:
    """An image of a zarr hierarchy whose arrays are not opened yet."""

    name: str
    node: zarr.Array[Any] | zarr.Group
    multiscale: Mapping[str, Any] = field(default_factory=dict)
    """Entry of the image in `multiscales`; empty for a plain array."""
    metadata: Mapping[str, Any] = field(default_factory=dict)
    """All metadata of the image's group."""
    size: Size | None = None
    """Size of level 0; None for a plain array."""


def zarr_images(root: zarr.Array[Any] | zarr.Group, *, described: Sequence[str] = ()) -> list[ZarrNode]:
    """Return the images of a hierarchy in its order; an empty list where it holds no image.

    Args:
        root: Root group or array of the hierarchy.
        described: Names of the images by the OME-XML in the hierarchy, in the same order.
    """
    if isinstance(root, zarr.Array):
        return [ZarrNode(name="", node=root)]
    metadata = _metadata(root)
    if "multiscales" in metadata:
        return list(_of_group(root, "", metadata))
    paths = _paths(root, metadata)
    groups = [(path, root[path]) for path in paths]
    found = [
        (path, image)
        for path, group in groups
        if isinstance(group, zarr.Group)
        for image in _of_group(group, path, _metadata(group))
    ]
    names = described if len(described) == len(found) and all(described) else [image.name for _, image in found]
    if len(set(names)) < len(names):
        names = [path for path, _ in found]
    return [replace(image, name=name) for name, (_, image) in zip(names, found, strict=True)]


def described_names(root: Path) -> tuple[str, ...]:
    """Return the names of the images of a folder that bioformats2raw wrote, by its OME-XML.

    There are none where the folder holds no OME-XML.
    """
    file = root / "OME" / "METADATA.ome.xml"
    try:
        text = file.read_text(encoding="utf-8", errors="replace") if file.stat().st_size < LARGEST_XML else ""
        return tuple(image.name for image in parse_ome(text).images) if is_ome(text) else ()
    except (OSError, OmeError):
        return ()


def axes_of(multiscale: Mapping[str, Any], dimensions: int) -> str:
    """Return one letter for each dimension, of t, c, z, y, x."""
    said = multiscale.get("axes")
    if not said:
        # Version 0.3 and later state axes; before, an array had five dimensions in this order.
        return GUESSED_AXES[dimensions] if dimensions != 4 else "czyx"  # noqa: PLR2004 (as OME-Zarr 0.3 orders them)
    names = [axis["name"] if isinstance(axis, dict) else axis for axis in said]
    if not all(isinstance(name, str) for name in names):
        # The word of `true` would begin with the letter of time.
        message = f"the names of the axes are {str(names)[:80]}, and not all of them are texts"
        raise ValueError(message)
    letters = [name[0].lower() for name in names]
    # The channels of spectra are called by many names, and their axis is known by its type.
    typed = [index for index, axis in enumerate(said) if isinstance(axis, dict) and axis.get("type") == "channel"]
    if "c" not in letters and len(typed) == 1:
        letters[typed[0]] = "c"
    return "".join(letters)


def _metadata(group: zarr.Group) -> Mapping[str, Any]:
    attributes = group.attrs.asdict()
    inner = attributes.get("ome")
    return inner if isinstance(inner, dict) else attributes


def _of_group(group: zarr.Group, path: str, metadata: Mapping[str, Any]) -> Iterator[ZarrNode]:
    """Return the images of a group, named as the group states or by its path."""
    for multiscale in metadata.get("multiscales", ()):
        array = group[multiscale["datasets"][0]["path"]]
        name = str(multiscale.get("name") or "").strip().strip("/") or path
        size = None
        if isinstance(array, zarr.Array):
            axes = axes_of(multiscale, array.ndim)
            if "x" in axes and "y" in axes and len(axes) == array.ndim:
                size = Size(width=array.shape[axes.index("x")], height=array.shape[axes.index("y")])
        yield ZarrNode(name=name, node=group, multiscale=multiscale, metadata=metadata, size=size)


def _paths(root: zarr.Group, metadata: Mapping[str, Any]) -> list[str]:
    """Return the paths of the images of a group that holds several."""
    if "plate" in metadata:
        return list(_fields(root, metadata["plate"]))
    inside = root.get("OME", None)
    listed = _metadata(inside).get("series") if isinstance(inside, zarr.Group) else None
    if isinstance(listed, list):
        if any(isinstance(path, bool) for path in listed):
            message = "the list of series holds a truth value where a path belongs"
            raise ValueError(message)
        return [str(path) for path in listed[:MAX_SERIES]]
    found: list[str] = []
    while str(len(found)) in root and len(found) < MAX_SERIES:
        found.append(str(len(found)))
    return found


def _fields(root: zarr.Group, plate: Mapping[str, Any]) -> Iterator[str]:
    """Yield the paths of a plate's images, well by well."""
    for well in plate.get("wells", ()):
        group = root[str(well["path"])]
        wanted = _metadata(group).get("well", {}) if isinstance(group, zarr.Group) else {}
        for image in wanted.get("images", ()):
            yield f"{well['path']}/{image['path']}"
