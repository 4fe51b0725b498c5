"""DICOM slides of which tiles are not stored, and of several optical paths, in files that the tests write."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from magnet_cli.geometry import LEVEL0, Box
from magnet_cli.images import Request, inspect, open_image

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

pydicom = pytest.importorskip("pydicom")
pytest.importorskip("wsidicom")

TILE, COLUMNS, ROWS = 32, 3, 2
SLIDE = "1.2.840.10008.5.1.4.1.1.77.1.6"
"""Class of whole-slide microscopy images."""


def values() -> NDArray[np.uint16]:
    return np.random.default_rng(5).integers(1, 60000, (ROWS * TILE, COLUMNS * TILE)).astype(np.uint16)


def sequence(**items: Any) -> Any:
    found = pydicom.Dataset()
    for name, value in items.items():
        setattr(found, name, value)
    return pydicom.Sequence([found])


def write(path: Path, *, missing: tuple[tuple[int, int], ...] = (), paths: int = 1, samples: int = 1) -> None:
    """Write a slide of one level, of 16 bits, or of colours in 8 bits where a pixel has three samples.

    Args:
        path: Path of the file.
        missing: Rows and columns of tiles that are not stored.
        paths: Number of optical paths.
        samples: Samples of a pixel.
    """
    uid = pydicom.uid.generate_uid
    meta = pydicom.dataset.FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = SLIDE, uid()
    meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    slide = pydicom.FileDataset(str(path), {}, file_meta=meta, preamble=b"\0" * 128)
    bits = 8 if samples > 1 else 16
    spacing = sequence(PixelSpacing=[0.0005, 0.0005], SliceThickness=0.001)
    kind = sequence(FrameType=["ORIGINAL", "PRIMARY", "VOLUME", "NONE"])
    facts = {
        "SOPClassUID": SLIDE,
        "SOPInstanceUID": meta.MediaStorageSOPInstanceUID,
        "Modality": "SM",
        "StudyInstanceUID": uid(),
        "SeriesInstanceUID": uid(),
        "FrameOfReferenceUID": uid(),
        "ContainerIdentifier": "c",
        "InstanceNumber": 1,
        "ImageType": ["ORIGINAL", "PRIMARY", "VOLUME", "NONE"],
        "DimensionOrganizationType": "TILED_SPARSE" if missing else "TILED_FULL",
        "Rows": TILE,
        "Columns": TILE,
        "TotalPixelMatrixColumns": COLUMNS * TILE,
        "TotalPixelMatrixRows": ROWS * TILE,
        "TotalPixelMatrixFocalPlanes": 1,
        "SamplesPerPixel": samples,
        "PixelRepresentation": 0,
        "PhotometricInterpretation": "RGB" if samples > 1 else "MONOCHROME2",
        "LossyImageCompression": "00",
        "BitsAllocated": bits,
        "BitsStored": bits,
        "HighBit": bits - 1,
        "NumberOfOpticalPaths": paths,
        "ImagedVolumeWidth": 0.048,
        "ImagedVolumeHeight": 0.032,
        "ImagedVolumeDepth": 0.001,
        "ImageOrientationSlide": [0, -1, 0, -1, 0, 0],
        "SpecimenLabelInImage": "NO",
        "FocusMethod": "AUTO",
        "ExtendedDepthOfField": "NO",
        "BurnedInAnnotation": "NO",
        "VolumetricProperties": "VOLUME",
        "TotalPixelMatrixOriginSequence": sequence(XOffsetInSlideCoordinateSystem=0, YOffsetInSlideCoordinateSystem=0),
        "OpticalPathSequence": [path for n in range(paths) for path in sequence(OpticalPathIdentifier=str(n))],
        "SharedFunctionalGroupsSequence": sequence(
            PixelMeasuresSequence=spacing, WholeSlideMicroscopyImageFrameTypeSequence=kind
        ),
    }
    if samples > 1:
        facts["PlanarConfiguration"] = 0
    for name, value in facts.items():
        setattr(slide, name, value)
    places = [(row, column) for row in range(ROWS) for column in range(COLUMNS) if (row, column) not in missing]
    slide.NumberOfFrames = len(places) * paths
    if missing:
        slide.PerFrameFunctionalGroupsSequence = [place(row, column) for row, column in places]
    stored = np.dstack([values() >> 8] * 3).astype(np.uint8) if samples > 1 else values()
    frames = [stored[row * TILE : (row + 1) * TILE, column * TILE : (column + 1) * TILE] for row, column in places]
    slide.PixelData = b"".join(frame.tobytes() for frame in frames) * paths
    slide["PixelData"].VR = "OB" if bits == 8 else "OW"
    slide.save_as(path, enforce_file_format=True)


def place(row: int, column: int) -> Any:
    offsets = {f"{axis}OffsetInSlideCoordinateSystem": 0 for axis in "XYZ"}
    where = sequence(
        ColumnPositionInTotalImagePixelMatrix=column * TILE + 1,
        RowPositionInTotalImagePixelMatrix=row * TILE + 1,
        **offsets,
    )
    path = sequence(OpticalPathIdentifier="0")
    return sequence(PlanePositionSlideSequence=where, OpticalPathIdentificationSequence=path)[0]


def test_tiles_that_are_not_stored_hold_no_data(tmp_path: Path) -> None:
    write(tmp_path / "a.dcm", missing=((0, 1), (1, 2)))
    with open_image(tmp_path / "a.dcm") as image:
        assert (image.info.backend, image.info.has_mask) == ("wsidicom", True)
        found = image.read([Request(pitch=LEVEL0, box=Box.whole(image.info.size))])[0]
    expected = np.ones(values().shape, bool)
    expected[:TILE, TILE : 2 * TILE] = expected[TILE:, 2 * TILE :] = False
    assert found.valid is not None
    np.testing.assert_array_equal(found.valid, expected)
    np.testing.assert_array_equal(found.pixels[expected][:, 0], values()[expected])


@pytest.mark.parametrize("samples", [1, 3])
def test_optical_paths_that_are_not_read_are_named(tmp_path: Path, samples: int) -> None:
    write(tmp_path / "a.dcm", paths=3, samples=samples)
    info = inspect(tmp_path / "a.dcm")
    assert info.backend == ("openslide" if samples == 3 else "wsidicom")
    assert "3 optical paths" in " ".join(info.notes)
