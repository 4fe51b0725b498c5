"""Two images of one file are never taken for each other, although the file has one fingerprint and they have one size.

Whatever this program keeps of one of them (masks, probabilities, corrections) is refused for the other one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
import tifffile
import zarr

from magnet_cli.errors import OutputError, SourceError
from magnet_cli.evaluation.mask_scores import check_inputs
from magnet_cli.images import ImageIdentity, inspect, open_image
from magnet_cli.masks.journal import Journal
from magnet_cli.options.refine import RefineOptions
from magnet_cli.options.segment import SegmentOptions
from magnet_cli.refinement.api import plan_refine
from magnet_cli.report.viewer.exhibit import open_exhibit
from magnet_cli.report.viewer.mask_corrections import MaskCorrections
from magnet_cli.report.viewer.value_layers import KeptValues
from magnet_cli.segmentation.api import segment
from tests.cli.support import write_colours_bundle, write_image
from tests.refinement.support import Echo, use

if TYPE_CHECKING:
    from pathlib import Path

SIZE = (60, 90)
SQUARE = {"label": 1, "polygons": [[[[10, 10], [40, 10], [40, 40], [10, 40]]]]}


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a bundle whose class is the brightest band."""
    return write_colours_bundle(tmp_path_factory.mktemp("bundle") / "colours")


@pytest.fixture
def two(tmp_path: Path) -> Path:
    """Write a file of two images of one size, of which one is the mirror image of the other."""
    first = tifffile.imread(write_image(tmp_path / "first.tif", size=SIZE))
    with tifffile.TiffWriter(tmp_path / "two.ome.tif", ome=True) as writer:
        for array, name in ((first, "first"), (first[:, ::-1], "second")):
            writer.write(array, metadata={"axes": "YXS", "Name": name}, photometric="rgb", tile=(64, 64))
    return tmp_path / "two.ome.tif"


def options(bundle: Path, series: int, *, probabilities: bool = False) -> SegmentOptions:
    return SegmentOptions(weights=str(bundle), series=str(series), probabilities=probabilities)


def test_a_series_is_part_of_what_an_image_is(two: Path) -> None:
    first, second = (ImageIdentity.of(inspect(two, series=series)) for series in (0, 1))
    assert first.fingerprint == second.fingerprint
    assert first != second
    assert str(first) != str(second)
    alone = ImageIdentity.of(inspect(two.with_name("first.tif")))
    assert str(alone) == alone.fingerprint


def test_the_mask_of_one_image_is_not_that_of_the_other(two: Path, bundle: Path) -> None:
    mask = two.with_name("m.tif")
    (made,) = segment(two, mask, options(bundle, 0))
    assert made.error is None
    (other,) = segment(two, mask, options(bundle, 1))
    assert isinstance(other.error, OutputError)
    assert "made with other series" in str(other.error)
    with pytest.raises(SourceError, match="made of another image"), open_exhibit(str(two), [mask], series="1"):
        pass
    with open_exhibit(str(two), [mask], series="0"):
        pass


def test_the_journal_of_one_image_is_neither_resumed_nor_shown_for_the_other(
    two: Path, bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mask = two.with_name("m.tif")
    with monkeypatch.context() as patched:

        def stop(_: Journal) -> None:
            raise KeyboardInterrupt

        patched.setattr(Journal, "end", stop)
        with pytest.raises(KeyboardInterrupt):
            segment(two, mask, options(bundle, 0))
    assert mask.with_name("m.tif.journal").exists()
    (other,) = segment(two, mask, options(bundle, 1))
    assert isinstance(other.error, OutputError)
    with pytest.raises(SourceError, match="being made of another image"), open_exhibit(str(two), [mask], series="1"):
        pass
    (made,) = segment(two, mask, options(bundle, 0))
    assert made.error is None


def test_probabilities_of_one_image_are_not_those_of_the_other(
    two: Path, bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(monkeypatch, Echo())
    mask = two.with_name("m.tif")
    segment(two, mask, options(bundle, 0, probabilities=True))
    kept = two.with_name("m.probabilities.zarr")
    assert zarr.open_array(kept, mode="r").attrs["image"]["series"] == 0  # type: ignore[call-overload,index]
    with open_image(two, series=1) as image, pytest.raises(SourceError, match="computed from another image"):
        KeptValues.beside(mask, "probabilities", image)
    with open_image(two, series=0) as image:
        assert KeptValues.beside(mask, "probabilities", image) is not None
    own = mask.rename(two.with_name("own.tif"))  # a mask that names no image
    given = RefineOptions(only=("g",), evidence=kept, series="1")
    with pytest.raises(SourceError, match=r"these probabilities were made of another image of .*, number 0"):
        plan_refine(two, own, given)


def test_corrections_of_one_image_are_not_those_of_the_other(two: Path, bundle: Path) -> None:
    mask = two.with_name("m.tif")
    segment(two, mask, options(bundle, 0))
    with open_exhibit(str(two), [mask], series="0") as exhibit:
        classes = exhibit.masks[0].classes
    drawn = MaskCorrections(mask, inspect(two, series=0), classes)
    drawn.write({"revision": "", "corrections": [SQUARE]})
    with pytest.raises(SourceError, match="drawn on another image"):
        MaskCorrections(mask, inspect(two, series=1), classes).read()
    names = [entry.name for entry in classes]
    truth = two.with_name("truth.tif")
    tifffile.imwrite(truth, np.zeros(SIZE, np.uint8))
    with pytest.raises(SourceError, match="drawn on another image"):
        check_inputs(two, truth, roi=None, series="1", corrections=drawn.path, names=names)
    check_inputs(two, truth, roi=None, series="0", corrections=drawn.path, names=names)
