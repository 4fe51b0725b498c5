"""OME-XML: the images that it describes, and in which file and directory each of their planes lies."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from xml.etree import ElementTree as ET

from magnet_cli.geometry import Size
from magnet_cli.images.resolution import decimal, not_positive, objective, stated
from magnet_cli.images.units import unit_in_um

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from fractions import Fraction

    from magnet_cli.images.protocol import Resolution
    from magnet_cli.images.resolution import Found

HEAD = 4096
"""Characters of a description within which OME-XML begins."""
ORDERS = ("XYZCT", "XYZTC", "XYCTZ", "XYCZT", "XYTCZ", "XYTZC")
MOST_PLANES = 1 << 20
"""Largest number of channels whose planes are searched; a damaged count could ask for any amount of memory."""


class OmeError(ValueError):
    """OME-XML that contradicts its schema."""


@dataclass(frozen=True, kw_only=True)
class Plane:
    """The place at which a plane of an image is stored."""

    file: str | None
    """Name of the file that holds the plane, in the same folder; None for the file that holds the XML."""
    directory: int
    """Number of the TIFF directory in that file."""


@dataclass(frozen=True, kw_only=True)
class OmeImage:
    """An image that OME-XML describes."""

    name: str
    size: Size
    samples: int
    """Number of channels times samples a channel (`SizeC`)."""
    channels: int
    """Number of planes at one z and t."""
    channel_names: tuple[str, ...]
    """Names of the channels in small letters; empty where not every channel has a name of its own."""
    depth: int
    times: int
    planes: tuple[Plane | None, ...]
    """Planes of the channels at the first z and t; None for a channel whose place the XML does not state."""
    files: tuple[str, ...]
    """Names of the other files that hold planes of it, in the order of the XML."""
    resolution: Resolution | None = None
    objective: Fraction | None = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Ome:
    """Images and files that an OME-XML text describes."""

    images: tuple[OmeImage, ...] = ()
    elsewhere: str | None = None
    """Name of the file that holds the description where this one only refers to it (`BinaryOnly`)."""
    identity: str | None = None
    """UUID of the file that holds the description."""
    files: tuple[str, ...] = field(default=())
    """Names of all files that the description mentions, its own among them."""


def is_ome(text: str) -> bool:
    """Return whether a description is OME-XML."""
    return "<OME" in text[:HEAD] or ":OME " in text[:HEAD]


def parse_ome(text: str, *, own: str | None = None, identity: str | None = None) -> Ome:
    """Parse an OME-XML text into the images that it describes.

    Args:
        text: The OME-XML as it stands in the file.
        own: Name of the file whose planes have no file name in `Plane.file`.
        identity: UUID of that file, where the XML comes from another file; None for the UUID that the XML states.

    Raises:
        OmeError: The XML is damaged, or has a text where a number belongs.
    """
    if "<!DOCTYPE" in text or "<!ENTITY" in text:
        message = "the OME-XML has a document type, whose entities could grow without bound"
        raise OmeError(message)
    try:
        # Some writers end the text with the zero byte that TIFF wants, inside the value.
        root = ET.fromstring(text.strip().rstrip("\0"))  # noqa: S314 (entities were refused)
    except (ET.ParseError, ValueError) as error:
        message = f"the OME-XML is damaged: {error}"
        raise OmeError(message) from error
    mine = identity if identity is not None else root.get("UUID")
    reference = next(_children(root, "BinaryOnly"), None)
    if reference is not None:
        return Ome(elsewhere=reference.get("MetadataFile") or "", identity=root.get("UUID"))
    try:
        powers = _objectives(root)
        images = tuple(_image(element, powers, mine=mine, own=own) for element in _children(root, "Image"))
    except (TypeError, ValueError, IndexError) as error:
        message = f"the OME-XML cannot be understood: {error}"
        raise OmeError(message) from error
    names = [element.get("FileName") or "" for element in root.iter() if _tag(element) == "UUID"]
    return Ome(
        images=images, identity=root.get("UUID"), files=tuple(dict.fromkeys(_base(name) for name in names if name))
    )


def _tag(element: ET.Element) -> str:
    return str(element.tag).rpartition("}")[2]


def _children(element: ET.Element, tag: str) -> Iterator[ET.Element]:
    return (child for child in element if _tag(child) == tag)


def _objectives(root: ET.Element) -> dict[str, Fraction | None]:
    found = (element for element in root.iter() if _tag(element) == "Objective")
    return {element.get("ID", ""): objective(element.get("NominalMagnification")) for element in found}


def _image(
    element: ET.Element, powers: Mapping[str, Fraction | None], *, mine: str | None, own: str | None
) -> OmeImage:
    pixels = next(_children(element, "Pixels"), None)
    if pixels is None:
        message = f"image {element.get('ID')} has no Pixels"
        raise OmeError(message)
    width, height, samples, depth, times = (_count(pixels, f"Size{axis}") for axis in "XYCZT")
    channels = list(_children(pixels, "Channel"))
    each = [int(channel.get("SamplesPerPixel") or 1) for channel in channels]
    # The schema allows descriptions without Channel elements, and files have wrong ones: SizeC then counts.
    count = len(channels) if sum(each) == samples else samples
    names = tuple((channel.get("Name") or "").strip().lower() for channel in channels)
    planes, files = _planes(pixels, {"C": count, "Z": depth, "T": times}, mine=mine, own=own)
    resolution, notes = _resolution(pixels)
    return OmeImage(
        name=(element.get("Name") or "").strip(),
        size=Size(width=width, height=height),
        samples=samples,
        channels=count,
        channel_names=names,
        depth=depth,
        times=times,
        planes=planes,
        files=files,
        resolution=resolution,
        objective=_objective(element, powers),
        notes=notes,
    )


def _count(pixels: ET.Element, key: str) -> int:
    value = int(pixels.get(key) or 1)
    if value < 1:
        message = f"{key} is {value}"
        raise OmeError(message)
    return value


def _objective(image: ET.Element, powers: Mapping[str, Fraction | None]) -> Fraction | None:
    """Return the magnification of an image's objective, or of the file's only objective where the image names none."""
    settings = next(_children(image, "ObjectiveSettings"), None)
    if settings is not None:
        return powers.get(settings.get("ID", ""))
    return next(iter(powers.values())) if len(powers) == 1 else None


def _resolution(pixels: ET.Element) -> Found:
    x, y = pixels.get("PhysicalSizeX"), pixels.get("PhysicalSizeY")
    if x is None or y is None:
        return None, ()
    units = [pixels.get(f"PhysicalSize{axis}Unit") or "um" for axis in "XY"]
    um_x, um_y = map(unit_in_um, units)
    if um_x is None or um_y is None:
        strange = units[0] if um_x is None else units[1]
        return None, (f"the pixel size is stated in {strange[:20]!r}, which is no length: ignored",)
    exact_x, exact_y = decimal(x), decimal(y)
    if exact_x is None or exact_y is None:
        return None, (not_positive(x, y),)
    return stated(exact_x * um_x, exact_y * um_y, unit="um")


def _planes(
    pixels: ET.Element, lengths: Mapping[str, int], *, mine: str | None, own: str | None
) -> tuple[tuple[Plane | None, ...], tuple[str, ...]]:
    """Return the planes of the channels at the first z and t, and the names of other files with planes of the image."""
    order = (pixels.get("DimensionOrder") or "XYCZT").upper()
    if order not in ORDERS:
        message = f"the order of dimensions is {order[:10]!r}"
        raise OmeError(message)
    strides, total = {}, 1
    for axis in order[2:]:
        strides[axis] = total
        total *= lengths[axis]
    wanted = [channel * strides["C"] for channel in range(min(lengths["C"], MOST_PLANES))]
    found: dict[int, Plane] = {}
    files: dict[str, None] = {}
    blocks = list(_children(pixels, "TiffData"))
    for block in blocks:
        uuid = next(_children(block, "UUID"), None)
        file = None if uuid is None else _file(uuid, mine=mine, own=own)
        if file is not None:
            files[file] = None
        first = sum(int(block.get(f"First{axis}") or 0) * strides[axis] for axis in "CZT")
        directory = int(block.get("IFD") or 0)
        # Defaults of the OME schema: one plane where IFD is given, else all that are left.
        count = int(block.get("PlaneCount") or (1 if block.get("IFD") is not None else total - first))
        if directory < 0 or first < 0:
            message = f"a plane lies in directory {directory}"
            raise OmeError(message)
        for index in wanted:
            if first <= index < first + count:
                found[index] = Plane(file=file, directory=directory + index - first)
    if not blocks:
        found = {index: Plane(file=None, directory=index) for index in wanted}
    return tuple(found.get(index) for index in wanted), tuple(files)


def _file(uuid: ET.Element, *, mine: str | None, own: str | None) -> str | None:
    """Return the name of the file that a UUID names; None where it is the file's own."""
    name, identity = _base(uuid.get("FileName") or ""), (uuid.text or "").strip()
    # A renamed file keeps its UUID; a copied description keeps the name.
    if (mine is not None and identity == mine) or (own is not None and name == own):
        return None
    if not name:
        return None if mine is None else identity
    return name


def _base(name: str) -> str:
    """Return the last part of a path of any system, as all pieces are read from one folder."""
    return name.replace("\\", "/").rpartition("/")[2]
