"""DICOM slides that OpenSlide does not decode are read by wsidicom, which agrees with OpenSlide where both can."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from magnet_cli.errors import SourceError
from magnet_cli.geometry import LEVEL0, Box
from magnet_cli.images import Region, Request, inspect, open_image
from tests.images.support import info_without

if TYPE_CHECKING:
    from magnet_cli.images import Image

pytest.importorskip("wsidicom")
FOLDER = Path(__file__).parents[3] / "shared" / "data" / "formats" / "wsi_dicom"
pytestmark = pytest.mark.skipif(not FOLDER.is_dir(), reason="no ../shared/data beside the checkout")


def read(image: Image, box: Box | None = None) -> Region:
    with image:
        return image.read([Request(pitch=LEVEL0, box=box or Box.whole(image.info.size))])[0]


def test_both_readers_give_the_same_pixels() -> None:
    from magnet_cli.images.dicom import open_dicom  # noqa: PLC0415 (an extra)

    path = FOLDER / "sm_image_control.dcm"
    ours, theirs = open_dicom(str(path)), open_image(path)
    assert (ours.info.backend, theirs.info.backend) == ("wsidicom", "openslide")
    assert ours.info.resolution == theirs.info.resolution
    np.testing.assert_array_equal(read(ours).pixels, read(theirs).pixels)


@pytest.mark.parametrize(
    ("name", "dtype", "bands"), [("sm_image_grayscale.dcm", "uint16", 1), ("sm_image_jpegls.dcm", "uint8", 3)]
)
def test_what_openslide_refuses_is_read(name: str, dtype: str, bands: int) -> None:
    info = inspect(FOLDER / name)
    assert (info.backend, info.dtype, len(info.bands)) == ("wsidicom", dtype, bands)
    whole = read(open_image(FOLDER / name)).pixels
    box = Box(x=7, y=13, width=31, height=22)
    np.testing.assert_array_equal(read(open_image(FOLDER / name), box).pixels, whole[box.slices])
    assert len(np.unique(whole)) > 10


def test_16_bit_values_are_those_that_pydicom_decodes() -> None:
    import pydicom  # noqa: PLC0415 (an extra)

    path = FOLDER / "sm_image_grayscale.dcm"
    frames = pydicom.dcmread(path).pixel_array
    side = 50 // frames.shape[1]
    expected = frames.reshape(side, side, *frames.shape[1:]).swapaxes(1, 2).reshape(50, 50)
    np.testing.assert_array_equal(read(open_image(path)).pixels[:, :, 0], expected)


def test_a_file_that_is_no_level_is_refused_by_name() -> None:
    with pytest.raises(SourceError, match="pathml_small_dicom"):
        open_image(FOLDER / "pathml_small_dicom.dcm")


@pytest.mark.parametrize("share", [0.5, 0.9])
def test_a_truncated_slide_is_an_error(tmp_path: Path, share: float) -> None:
    data = (FOLDER / "sm_image_jpegls.dcm").read_bytes()
    (tmp_path / "cut.dcm").write_bytes(data[: int(len(data) * share)])
    with pytest.raises(SourceError, match=r"cut\.dcm"):
        read(open_image(tmp_path / "cut.dcm"))


def test_without_the_extra_it_says_what_to_install() -> None:
    error = info_without("wsidicom", FOLDER / "sm_image_jpegls.dcm")
    assert "pip install 'magnet-cli[dicom]'" in error
    assert len(error.splitlines()) == 2
