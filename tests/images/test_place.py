"""A raster is refused where its georeference places it elsewhere than the image that it belongs to."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
import rasterio
import tifffile
from rasterio.transform import Affine

from magnet_cli.areas import specify
from magnet_cli.errors import SourceError
from magnet_cli.evaluation.mask_scores import check_inputs, evaluate
from magnet_cli.images import check_place, inspect
from magnet_cli.options.segment import SegmentOptions
from magnet_cli.refinement.pairs import check_pair
from magnet_cli.train.config import DataConfig
from magnet_cli.train.scene_data import load_scenes

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

UTM = "EPSG:32633"
HERE = Affine(0.5, 0, 500_000, 0, -0.5, 4_600_000)
ELSEWHERE = r"{name}: by its georeference this does not lie where .*image.tif lies \(got corners {apart} of its pixels"


def geotiff(
    path: Path, transform: Affine | None = HERE, *, crs: str | None = UTM, size: tuple[int, int] = (30, 40), **tags: str
) -> Path:
    values = np.ones((*size, 3 if path.stem == "image" else 1), np.uint8)
    options = {"height": size[0], "width": size[1], "count": values.shape[2], "dtype": "uint8"}
    with rasterio.open(path, "w", driver="GTiff", crs=crs, transform=transform, **options) as file:
        file.write(values.transpose(2, 0, 1))
        file.update_tags(**tags)
    return path


@pytest.mark.parametrize(
    ("transform", "size"),
    [
        (HERE, (30, 40)),
        (HERE @ Affine.translation(0.5, -0.5), (30, 40)),
        (HERE @ Affine.scale(2), (15, 20)),
        (HERE @ Affine.scale(8), (3, 5)),
        (HERE @ Affine.scale(40, 30), (1, 1)),
    ],
)
def test_the_same_place(transform: Affine, size: tuple[int, int], tmp_path: Path) -> None:
    image, mask = geotiff(tmp_path / "image.tif"), geotiff(tmp_path / "mask.tif", transform, size=size)
    check_place(inspect(mask), inspect(image))


def test_the_centre_of_a_pixel_is_half_a_pixel_from_its_corner(tmp_path: Path) -> None:
    image, mask = geotiff(tmp_path / "image.tif"), geotiff(tmp_path / "mask.tif", AREA_OR_POINT="Point")
    check_place(inspect(mask), inspect(image))


@pytest.mark.filterwarnings("ignore:Dataset has no geotransform")
@pytest.mark.parametrize("unsaid", [{"transform": None}, {"crs": None}, {"transform": None, "crs": None}])
def test_a_raster_that_does_not_say_where_it_lies(unsaid: dict[str, None], tmp_path: Path) -> None:
    image, mask = geotiff(tmp_path / "image.tif"), geotiff(tmp_path / "mask.tif", **unsaid)  # type: ignore[arg-type]
    check_place(inspect(mask), inspect(image))
    check_place(inspect(image), inspect(mask))


@pytest.mark.parametrize(
    ("transform", "size", "apart"),
    [
        (HERE @ Affine.translation(1, 0), (30, 40), "1"),
        (HERE @ Affine.translation(0, -200), (30, 40), "200"),
        (HERE @ Affine.scale(2), (30, 40), "40"),
        (HERE @ Affine.rotation(90), (30, 40), "70"),
        (HERE @ Affine.scale(2) @ Affine.translation(2, 0), (15, 20), "4"),
    ],
)
def test_another_place(transform: Affine, size: tuple[int, int], apart: str, tmp_path: Path) -> None:
    image, mask = geotiff(tmp_path / "image.tif"), geotiff(tmp_path / "mask.tif", transform, size=size)
    with pytest.raises(SourceError, match=ELSEWHERE.format(name="mask.tif", apart=apart)):
        check_place(inspect(mask), inspect(image))


def test_another_reference_system(tmp_path: Path) -> None:
    image, mask = geotiff(tmp_path / "image.tif"), geotiff(tmp_path / "mask.tif", crs="EPSG:32634")
    with pytest.raises(SourceError, match=r"reference system must be that of .*image.tif, EPSG:32633 \(got EPSG:32634"):
        check_place(inspect(mask), inspect(image))


def test_systems_without_a_code_are_compared_by_their_definition(tmp_path: Path) -> None:
    """Two systems that are both based on WGS 84 need not be the same."""
    image = geotiff(tmp_path / "image.tif", crs="ESRI:102022")
    with pytest.raises(SourceError, match=r"that of .*image.tif, ESRI:102022 \(got ESRI:54009"):
        check_place(inspect(geotiff(tmp_path / "mask.tif", crs="ESRI:54009")), inspect(image))
    own = "+proj=aea +lat_1=20 +lat_2=-23 +lat_0=0 +lon_0={} +datum=WGS84"
    check_place(inspect(geotiff(tmp_path / "mask.tif", crs=own.format(25))), inspect(image))
    with pytest.raises(SourceError, match="reference system must be that of"):
        check_place(inspect(geotiff(tmp_path / "mask.tif", crs=own.format(26))), inspect(image))


def test_heights_say_nothing_of_the_place(tmp_path: Path) -> None:
    image = geotiff(tmp_path / "image.tif", crs="EPSG:32633+5773")
    check_place(inspect(geotiff(tmp_path / "mask.tif")), inspect(image))


def of_scores(image: Path, mask: Path) -> None:
    check_inputs(image, mask, roi=None)


def of_where_it_counts(image: Path, mask: Path) -> None:
    check_inputs(image, geotiff(mask.with_name("label.tif")), roi=mask)


def of_an_evaluation(image: Path, mask: Path) -> None:
    tifffile.imwrite(mask.with_name("roi.tif"), np.ones((30, 40), np.uint8))
    evaluate(mask, geotiff(image.with_name("label.tif")).rename(image), roi=mask.with_name("roi.tif"))


def of_an_area(image: Path, mask: Path) -> None:
    specify(SegmentOptions(mask=mask), inspect(image))


def of_refining(image: Path, mask: Path) -> None:
    check_pair(image, mask)


def of_training(image: Path, mask: Path) -> None:
    table = image.with_name("s.csv")
    table.write_text(f"image,label\n{image.name},{mask.name}\n")
    load_scenes(table, DataConfig(), work=image.with_name("work"))


@pytest.mark.parametrize(
    "give", [of_scores, of_where_it_counts, of_an_evaluation, of_an_area, of_refining, of_training]
)
def test_what_is_given_for_an_image_lies_where_it_lies(give: Callable[[Path, Path], None], tmp_path: Path) -> None:
    give(geotiff(tmp_path / "image.tif"), geotiff(tmp_path / "mask.tif"))
    shifted = geotiff(tmp_path / "mask.tif", HERE @ Affine.translation(3, 0))
    with pytest.raises(SourceError, match=ELSEWHERE.format(name="mask.tif", apart="3")):
        give(geotiff(tmp_path / "image.tif"), shifted)
