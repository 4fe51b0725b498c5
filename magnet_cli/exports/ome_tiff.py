"""A mask as OME-TIFF: class indices with a palette, reduced levels as sub-directories, classes in the metadata."""

from __future__ import annotations

from typing import TYPE_CHECKING
from xml.etree import ElementTree as ET

import tifffile

from magnet_cli.exports.relayout import TiffLayout, write_relaid
from magnet_cli.images.protocol import NODATA
from magnet_cli.system.characters import printable, xml_text
from magnet_cli.system.working_files import working_file

if TYPE_CHECKING:
    from pathlib import Path

    from magnet_cli.masks.mask_file import MaskFile

SCHEMA = "http://www.openmicroscopy.org/Schemas/OME/2016-06"
UNITS = {"um": "µm", "m": "m"}
CLASSES, EXPORT = "magnet/classes", "magnet/export"
"""Namespaces of the annotations: class names and colours by index, and the identity of the file."""


def write_ome_tiff(mask: MaskFile, target: Path, *, identity: str) -> None:
    """Write a copy of the mask. OME has no place for class names, so a map annotation holds them by index."""
    with working_file(target) as file:
        write_relaid(mask, file, TiffLayout(description=_metadata(mask, identity), nested=True))


def found_identity(path: Path) -> str | None:
    """Return the identity of an OME-TIFF that this program wrote; None for any other file."""
    try:
        with tifffile.TiffFile(path) as tiff:
            # An OME-TIFF that another program wrote may have any XML here, or none.
            root = ET.fromstring(tiff.pages.first.description)  # noqa: S314 - expat expands no external entities
    except (OSError, ValueError, ET.ParseError, tifffile.TiffFileError):
        return None
    for annotation in root.iter(f"{{{SCHEMA}}}MapAnnotation"):
        if annotation.get("Namespace") == EXPORT:
            return annotation.findtext(f".//{{{SCHEMA}}}M[@K='identity']")
    return None


def _metadata(mask: MaskFile, identity: str) -> str:
    """Return the OME-XML of one plane."""
    root = ET.Element("OME", {"xmlns": SCHEMA, "Creator": "magnet"})
    image = ET.SubElement(root, "Image", {"ID": "Image:0", "Name": printable(mask.path.name)})
    pixels = ET.SubElement(image, "Pixels", {"ID": "Pixels:0", "DimensionOrder": "XYZCT", **_sizes(mask)})
    ET.SubElement(pixels, "Channel", {"ID": "Channel:0:0", "Name": "class", "SamplesPerPixel": "1"})
    ET.SubElement(pixels, "TiffData", {"IFD": "0", "PlaneCount": "1"})
    notes = ET.SubElement(root, "StructuredAnnotations")
    rows = {str(label): f"{entry.name} {entry.color}" for label, entry in enumerate(mask.facts.classes)}
    for number, (namespace, values) in enumerate(
        ((CLASSES, {**rows, str(NODATA): "not computed"}), (EXPORT, {"identity": identity}))
    ):
        ET.SubElement(image, "AnnotationRef", {"ID": f"Annotation:{number}"})
        note = ET.SubElement(notes, "MapAnnotation", {"ID": f"Annotation:{number}", "Namespace": namespace})
        value = ET.SubElement(note, "Value")
        for key, text in values.items():
            ET.SubElement(value, "M", {"K": key}).text = xml_text(text)
    # UTF-8 as it is: Bio-Formats does not take XML with character references for OME-XML.
    data: bytes = ET.tostring(root, encoding="UTF-8", xml_declaration=True)
    return data.decode()


def _sizes(mask: MaskFile) -> dict[str, str]:
    found = {
        **{f"Size{axis}": "1" for axis in "ZCT"},
        "SizeX": str(mask.size.width),
        "SizeY": str(mask.size.height),
        "Type": "uint8",
        "SignificantBits": "8",
        "BigEndian": "false",
        "Interleaved": "false",
    }
    resolution = mask.facts.resolution
    if resolution is not None:
        for axis, value in (("X", resolution.x), ("Y", resolution.y)):
            # repr gives the shortest text that reads back as the same number.
            found[f"PhysicalSize{axis}"] = repr(float(value))
            found[f"PhysicalSize{axis}Unit"] = UNITS[resolution.unit]
    return found
