"""Every raster format holds the mask's labels, overviews, classes and place, as independent readers see them."""

from __future__ import annotations

import json
import re
import warnings
from typing import TYPE_CHECKING, Any
from xml.sax.saxutils import unescape

import numpy as np
import ome_types
import ome_zarr_models
import ome_zarr_models.v05
import openslide
import pytest
import pyvips
import rasterio
import rasterio.shutil
import tifffile
import zarr
from ome_zarr.io import parse_url
from ome_zarr.reader import Label, Multiscales, Reader
from rasterio.transform import Affine
from rio_cogeo.cogeo import cog_validate

from magnet_cli.geometry import Size
from magnet_cli.images.tiff_geo import geo_tags
from magnet_cli.masks.overview import level_sizes
from tests.exports.support import CLASSES, KINDS, SIZES, export, make_labels, write_mask

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

pytestmark = pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")

MASKS = [(*size, "patches", "deflate") for size in SIZES]
MASKS += [(130, 70, kind, "deflate") for kind in KINDS[1:]] + [(300, 141, "patches", "zstd")]
each_mask = pytest.mark.parametrize(("width", "height", "kind", "compression"), MASKS)


def pyramid(mask: Path) -> list[NDArray[np.uint8]]:
    """Return the levels of the mask itself."""
    with tifffile.TiffFile(mask) as tiff:
        return [page.asarray() for page in tiff.pages]


def assert_same(found: Sequence[Any], wanted: Sequence[NDArray[np.uint8]]) -> None:
    assert len(found) == len(wanted)
    for one, other in zip(found, wanted, strict=True):
        np.testing.assert_array_equal(one, other)


def make(folder: Path, width: int, height: int, kind: str, compression: str) -> Path:
    return write_mask(folder / "m.tif", make_labels(width, height, kind), compression=compression)


@each_mask
def test_cog(tmp_path: Path, width: int, height: int, kind: str, compression: str) -> None:
    mask = make(tmp_path, width, height, kind, compression)
    (made,) = export(mask, "cog")
    levels = pyramid(mask)
    assert cog_validate(made.path, strict=True) == (True, [], [])
    with rasterio.open(made.path) as file:
        assert file.tags(ns="IMAGE_STRUCTURE")["LAYOUT"] == "COG"
        assert np.array_equal(file.read(1), levels[0])
        assert (file.count, file.nodata, file.dtypes) == (1, 255, ("uint8",))
        assert file.colorinterp[0] is rasterio.enums.ColorInterp.palette
        assert [file.colormap(1)[n][:3] for n in range(len(CLASSES))] == [tuple(entry.rgb) for entry in CLASSES]
        assert [file.tags(1)[f"CLASS_{n}"] for n in range(len(CLASSES))] == [entry.name for entry in CLASSES]
        assert len(file.overviews(1)) == len(levels) - 1
    for number, level in enumerate(levels[1:]):
        with rasterio.open(made.path, OVERVIEW_LEVEL=number) as file:
            assert np.array_equal(file.read(1), level)
    assert_same(pyramid(made.path), levels)
    if compression == "deflate":
        image = pyvips.Image.new_from_file(str(made.path), fail_on="warning")
        palette = np.zeros((256, 3), dtype=np.uint8)
        palette[: len(CLASSES)] = [list(entry.rgb) for entry in CLASSES]
        assert np.array_equal(image.numpy(), palette[levels[0]])
    with openslide.OpenSlide(made.path) as slide:
        assert slide.level_dimensions == tuple((level.shape[1], level.shape[0]) for level in levels)
        assert (slide.properties["openslide.mpp-x"], slide.properties["openslide.mpp-y"]) == ("0.25", "0.5")


def categories(raster: Path, folder: Path) -> list[str]:
    """Return the names of the values of a raster's band as GDAL reads them."""
    rasterio.shutil.copy(raster, folder / "x.vrt", driver="VRT")
    found = re.findall("<Category>(.*)</Category>", (folder / "x.vrt").read_text(encoding="utf-8"))
    return [unescape(name) for name in found]


def test_gdal_names_the_classes_of_a_cog(tmp_path: Path) -> None:
    mask = write_mask(tmp_path / "m.tif", make_labels(130, 70))
    export(mask, "cog")
    assert categories(tmp_path / "m.cog.tif", tmp_path) == [entry.name for entry in CLASSES]
    # What GDAL has noted there of a finished copy is its own.
    names = tmp_path / "m.cog.tif.aux.xml"
    noted = names.read_text().replace("</PAMDataset>", "  <Metadata/>\n</PAMDataset>")
    names.write_text(noted)
    assert export(mask, "cog")[0].was_done
    assert names.read_text() == noted
    (tmp_path / "m.cog.tif").unlink()
    export(mask, "cog")
    assert categories(tmp_path / "m.cog.tif", tmp_path) == [entry.name for entry in CLASSES]


@each_mask
def test_ome_tiff(tmp_path: Path, width: int, height: int, kind: str, compression: str) -> None:
    mask = make(tmp_path, width, height, kind, compression)
    (made,) = export(mask, "ome-tiff")
    levels = pyramid(mask)
    with tifffile.TiffFile(made.path) as tiff:
        assert tiff.is_ome
        assert len(tiff.pages) == 1
        (series,) = tiff.series
        assert series.axes == "YX"
        assert_same([level.asarray() for level in series.levels], levels)
        assert all(level.keyframe.is_tiled for level in series.levels)
        metadata = tiff.ome_metadata
    assert metadata is not None
    assert "&#" not in metadata
    found = ome_types.from_xml(metadata, validate=False)
    pixels = found.images[0].pixels
    assert (pixels.size_x, pixels.size_y, pixels.type.value) == (width, height, "uint8")
    assert (pixels.physical_size_x, pixels.physical_size_x_unit.value) == (0.25, "µm")
    assert (pixels.physical_size_y, pixels.physical_size_y_unit.value) == (0.5, "µm")
    assert found.structured_annotations is not None
    (names,) = [note for note in found.structured_annotations if note.namespace == "magnet/classes"]
    wanted = {str(label): f"{entry.name} {entry.color}" for label, entry in enumerate(CLASSES)}
    assert dict(names.value) == {**wanted, "255": "not computed"}
    with rasterio.open(made.path) as file:
        assert np.array_equal(file.read(1), levels[0])
        assert file.nodata == 255


def nodes(path: Path) -> Iterator[Any]:
    location = parse_url(path)
    assert location is not None
    yield from Reader(location)()


@each_mask
def test_ome_zarr(tmp_path: Path, width: int, height: int, kind: str, compression: str) -> None:
    mask = make(tmp_path, width, height, kind, compression)
    (made,) = export(mask, "ome-zarr")
    levels = pyramid(mask)
    root = zarr.open_group(made.path, mode="r")
    assert type(ome_zarr_models.open_ome_zarr(root)) is ome_zarr_models.v05.Image
    ome_zarr_models.v05.Labels.from_zarr(root["labels"])  # type: ignore[arg-type]
    label = ome_zarr_models.v05.ImageLabel.from_zarr(root["labels/classes"])  # type: ignore[arg-type]
    described = label.ome_attributes.image_label
    assert described is not None
    colors = described.colors
    assert colors is not None
    assert {each.label_value: each.rgba for each in colors} == {
        **{number: (*entry.rgb, 255) for number, entry in enumerate(CLASSES)},
        255: (0, 0, 0, 0),
    }
    images = [node for node in nodes(made.path) if any(isinstance(spec, Multiscales) for spec in node.specs)]
    assert [any(isinstance(spec, Label) for spec in node.specs) for node in images] == [False, True]
    for node in images:
        assert_same([level.compute() for level in node.data], levels)
        assert [axis["unit"] for axis in node.metadata["axes"]] == ["micrometer", "micrometer"]
        for number, steps in enumerate(node.metadata["coordinateTransformations"]):
            step = 2**number
            assert steps[0] == {"type": "scale", "scale": [0.5 * step, 0.25 * step]}
            shift = steps[1]["translation"] if number else [0, 0]
            # The centre of the first pixel of a level, in units of level 0.
            assert shift == [0.5 * (step - 1) / 2, 0.25 * (step - 1) / 2]
    names = {value: entry["name"] for value, entry in images[1].metadata["properties"].items()}
    assert names == {**{number: entry.name for number, entry in enumerate(CLASSES)}, 255: "not computed"}
    assert not list(made.path.glob("*lock*"))


def test_an_ome_zarr_has_a_file_a_shard_that_is_written_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[str] = []
    store = zarr.storage.LocalStore.set

    async def noted(self: Any, key: str, value: Any) -> None:
        written.append(key)
        await store(self, key, value)

    monkeypatch.setattr(zarr.storage.LocalStore, "set", noted)
    labels = make_labels(9000, 130)
    labels[:, 4096:8192] = 255
    mask = write_mask(tmp_path / "m.tif", labels, tile=512)
    (made,) = export(mask, "ome-zarr")
    shards = [key for key in written if "/c/" in key]
    assert len(shards) == len(set(shards))
    # Shards of 4,096 pixels: the second of the first level has no label, so that it has no file.
    found = [path.relative_to(made.path).as_posix() for path in made.path.rglob("*") if path.is_file()]
    assert sorted(key for key in found if "/c/" in key) == sorted(shards)
    assert [key for key in sorted(shards) if key.startswith("labels/classes/0/")] == [
        "labels/classes/0/c/0/0",
        "labels/classes/0/c/0/2",
    ]
    root: Any = zarr.open_group(made.path, mode="r")
    assert_same([root[f"labels/classes/{level}"][:] for level in range(len(pyramid(mask)))], pyramid(mask))
    array = root["labels/classes/0"]
    assert (array.shards, array.chunks) == ((4096, 4096), (1024, 1024))


@pytest.mark.parametrize(
    ("transform", "crs"),
    [(Affine(0.5, 0, 5e5 + 0.25, 0, -0.5, 4.6e6), "EPSG:32633"), (Affine(1.6, 1.2, 4e6, 1.2, -1.6, 3e6), "EPSG:3035")],
    ids=["north-up", "rotated"],
)
def test_georeference_is_kept_to_a_tenth_of_a_pixel(tmp_path: Path, transform: Affine, crs: str) -> None:
    with rasterio.open(
        tmp_path / "g.tif", "w", driver="GTiff", width=200, height=90, count=1, dtype="uint8", crs=crs,
        transform=transform,
    ) as file:  # fmt: skip
        file.write(np.ones((90, 200), dtype=np.uint8), 1)
    with tifffile.TiffFile(tmp_path / "g.tif") as tiff:
        tags = geo_tags(tiff.pages.first)
    mask = write_mask(tmp_path / "m.tif", make_labels(200, 90), geo_tags=tags, resolution=None)
    for made in export(mask, "cog", "ome-tiff"):
        with rasterio.open(made.path) as file:
            assert file.crs == rasterio.CRS.from_string(crs)
            corners = [(0, 0), (200, 0), (200, 90)]
            off = [~transform @ (file.transform @ corner) for corner in corners]
            np.testing.assert_allclose(off, corners, atol=0.01)
    assert cog_validate(tmp_path / "m.cog.tif", strict=True)[0]
    root = json.loads(next(made.path for made in export(mask, "ome-zarr")).joinpath("zarr.json").read_text())
    scale = root["attributes"]["ome"]["multiscales"][0]
    assert [axis["unit"] for axis in scale["axes"]] == ["meter", "meter"]


def test_without_a_pixel_size_no_unit_is_claimed(tmp_path: Path) -> None:
    mask = write_mask(tmp_path / "m.tif", make_labels(100, 70), resolution=None)
    made = {each.format: each.path for each in export(mask)}
    with tifffile.TiffFile(made["ome-tiff"]) as tiff:
        assert "PhysicalSize" not in (tiff.ome_metadata or "")
    axes = json.loads((made["ome-zarr"] / "zarr.json").read_text())["attributes"]["ome"]["multiscales"][0]["axes"]
    assert axes == [{"name": "y", "type": "space"}, {"name": "x", "type": "space"}]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", rasterio.errors.NotGeoreferencedWarning)
        assert cog_validate(made["cog"], strict=True)[0]


def test_levels_are_those_of_the_mask(tmp_path: Path) -> None:
    mask = make(tmp_path, 300, 141, "patches", "deflate")
    sizes = [(size.height, size.width) for size in level_sizes(Size(width=300, height=141), tile=64)]
    assert [level.shape for level in pyramid(mask)] == sizes
