"""The contract of every reader of images: one suite of tests, which each reader subclasses."""

from __future__ import annotations

from abc import ABC, abstractmethod
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import pyvips
import tifffile
import zarr
from numpy.typing import NDArray

from magnet_cli.errors import SourceError
from magnet_cli.geometry import LEVEL0, Box, Pitch, Size
from magnet_cli.images import CacheBudget, Image, Region, Request, open_image
from magnet_cli.images import cache as cache_module

if TYPE_CHECKING:
    from pathlib import Path

Array = NDArray[Any]
PITCHES = (Fraction(2), Fraction(5, 2), Fraction(1250, 127), Fraction(7))


def picture(width: int, height: int, bands: int = 3, dtype: str = "uint8") -> Array:
    values = np.random.default_rng(width * 1000 + height).integers(0, 256, (height, width, bands))
    return (values * (257 if dtype == "uint16" else 1)).astype(dtype)


def covered(array: Array, pitch: Fraction, box: Box) -> Array:
    """Return the exact area means of a box by counting every sub-pixel. It is slow, and independent of the package."""
    numerator, denominator = pitch.as_integer_ratio()
    right, bottom = box.right * numerator, box.bottom * numerator
    rows = np.arange(box.y * numerator, bottom) // denominator
    columns = np.arange(box.x * numerator, right) // denominator
    height, width = array.shape[:2]
    fold = [
        np.where(i % (2 * n) < n, i % (2 * n), 2 * n - 1 - i % (2 * n)) for i, n in ((rows, height), (columns, width))
    ]
    fine_rows = array[fold[0]].astype(np.int64).reshape(box.height, numerator, width, -1).sum(axis=1)
    sums = fine_rows[:, fold[1]].reshape(box.height, box.width, numerator, -1).sum(axis=2)
    means: Array = (2 * sums + numerator**2) // (2 * numerator**2)
    return means


def whole(image: Image, pitch: Pitch = LEVEL0) -> Request:
    return Request(pitch=pitch, box=Box.whole(pitch.cover(image.info.size)))


def equal(one: Region, other: Region) -> bool:
    same_valid = one.valid is other.valid or (
        one.valid is not None and other.valid is not None and np.array_equal(one.valid, other.valid)
    )
    return same_valid and np.array_equal(one.pixels, other.pixels)


class ImageContract(ABC):
    """The tests of a reader. A subclass writes an array losslessly in a format of that reader."""

    backend: str
    dtype = "uint8"
    bands = 3

    @abstractmethod
    def write(self, folder: Path, array: Array) -> Path:
        """Write an array as an image without reduced levels."""

    def open(self, path: Path) -> Image:
        return open_image(path, cache=CacheBudget(folder=path.parent / "cache", max_bytes=1 << 28))

    def image(self, folder: Path, width: int = 97, height: int = 131) -> tuple[Image, Array]:
        array = picture(width, height, self.bands, self.dtype)
        return self.open(self.write(folder, array)), array

    def test_facts(self, tmp_path: Path) -> None:
        image, array = self.image(tmp_path)
        with image:
            assert image.info.backend == self.backend
            assert image.info.size == Size(width=97, height=131)
            assert image.info.dtype == array.dtype.name
            assert len(image.info.bands) == array.shape[2]
            assert image.info.levels[0].downsample == LEVEL0
            assert image.info.resolution is None

    @pytest.mark.parametrize(("width", "height"), [(97, 131), (1, 1), (1, 40), (300, 2), (513, 257)])
    def test_level_0_is_exact(self, tmp_path: Path, width: int, height: int) -> None:
        image, array = self.image(tmp_path, width, height)
        with image:
            (region,) = image.read([whole(image)])
        assert region.valid is None or region.valid.all()
        np.testing.assert_array_equal(region.pixels, array)

    @pytest.mark.parametrize("pitch", PITCHES)
    def test_a_box_is_the_area_mean_of_the_array(self, tmp_path: Path, pitch: Fraction) -> None:
        image, array = self.image(tmp_path)
        grid = Pitch.square(pitch)
        with image:
            cover = grid.cover(image.info.size)
            boxes = [Box.whole(cover), Box(x=3, y=2, width=5, height=4), Box(x=cover.width - 1, y=1, width=1, height=1)]
            for box, region in zip(boxes, image.read([Request(pitch=grid, box=b) for b in boxes]), strict=True):
                np.testing.assert_array_equal(region.pixels, covered(array, pitch, box))

    def test_a_sliver_beyond_the_edge_is_reflected(self, tmp_path: Path) -> None:
        image, array = self.image(tmp_path)
        grid = Pitch.square(64)
        with image:
            (region,) = image.read([Request(pitch=grid, box=Box(x=1, y=2, width=1, height=1))])
        np.testing.assert_array_equal(region.pixels, covered(array, Fraction(64), Box(x=1, y=2, width=1, height=1)))

    def test_together_equals_apart(self, tmp_path: Path) -> None:
        image, _ = self.image(tmp_path)
        with image:
            requests = [whole(image, Pitch.square(pitch)) for pitch in PITCHES]
            requests += [
                Request(pitch=LEVEL0, box=Box(x=90, y=5, width=7, height=120)),
                Request(
                    pitch=Pitch.square(Fraction(3, 2)), box=Box(x=10, y=7, width=20, height=30), resample="bilinear"
                ),
                Request(pitch=Pitch.square(Fraction(1, 2)), box=Box(x=0, y=0, width=30, height=50)),
            ]
            together = image.read(requests)
            apart = [image.read([request])[0] for request in requests]
        assert all(equal(one, other) for one, other in zip(together, apart, strict=True))

    def test_bands_are_taken_in_the_order_asked_for(self, tmp_path: Path) -> None:
        image, array = self.image(tmp_path)
        last = self.bands - 1
        box, grid = Box(x=3, y=2, width=20, height=30), Pitch.square(Fraction(5, 2))
        requests = [
            Request(pitch=pitch, box=box, bands=bands)
            for pitch in (LEVEL0, grid)
            for bands in ((last, 0), (0, 0, last))
        ]
        with image:
            found = [region.pixels for region in image.read([*requests, whole(image)])]
        np.testing.assert_array_equal(found[0], array[box.slices][:, :, [last, 0]])
        np.testing.assert_array_equal(found[1], array[box.slices][:, :, [0, 0, last]])
        means = covered(array, Fraction(5, 2), box)
        np.testing.assert_array_equal(found[2], means[:, :, [last, 0]])
        np.testing.assert_array_equal(found[3], means[:, :, [0, 0, last]])
        np.testing.assert_array_equal(found[4], array)

    def test_threads_agree(self, tmp_path: Path) -> None:
        image, array = self.image(tmp_path)
        boxes = [Box(x=x, y=y, width=30, height=40) for x in (0, 17, 60) for y in (0, 33, 90)] * 3
        with image, ThreadPoolExecutor(4) as pool:
            regions = list(pool.map(lambda box: image.read([Request(pitch=LEVEL0, box=box)])[0], boxes))
        for box, region in zip(boxes, regions, strict=True):
            np.testing.assert_array_equal(region.pixels, array[box.slices])

    def test_a_closed_image_does_not_read(self, tmp_path: Path) -> None:
        image, _ = self.image(tmp_path)
        request = whole(image)
        image.close()
        image.close()
        with pytest.raises(SourceError, match="closed"):
            image.read([request])

    def test_a_request_outside_is_refused(self, tmp_path: Path) -> None:
        image, _ = self.image(tmp_path)
        with image, pytest.raises(ValueError, match="inside"):
            image.read([Request(pitch=LEVEL0, box=Box(x=90, y=0, width=8, height=1))])


class TestTiledTiff(ImageContract):
    backend = "tiff"
    options: dict[str, Any] = {"tile": (32, 48), "compression": "deflate", "predictor": True, "photometric": "rgb"}  # noqa: RUF012

    def write(self, folder: Path, array: Array) -> Path:
        path = folder / "image.tif"
        tifffile.imwrite(path, array, **self.options)
        return path


class TestPlanarTiff(TestTiledTiff):
    dtype = "uint16"
    bands = 5
    options = {"tile": (64, 64), "compression": "zstd", "planarconfig": "separate", "photometric": "minisblack"}  # noqa: RUF012

    def write(self, folder: Path, array: Array) -> Path:
        return super().write(folder, np.moveaxis(array, 2, 0))


class TestStripedTiff(TestTiledTiff):
    options = {"rowsperstrip": 7, "compression": "lzw", "photometric": "rgb"}  # noqa: RUF012


class TestBigTiff(TestTiledTiff):
    dtype = "uint16"
    options = {"tile": (32, 32), "bigtiff": True, "byteorder": ">", "photometric": "rgb"}  # noqa: RUF012


class TestUncompressedRun(TestTiledTiff):
    """The TIFF is one uncompressed strip that is too large to be decoded as a chunk, so it is read by rows."""

    dtype = "uint16"
    options = {"byteorder": ">", "photometric": "rgb"}  # noqa: RUF012

    @pytest.fixture(autouse=True)
    def small_chunks(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("magnet_cli.images.tiff_store.RAW_BYTES", 1)


class TestSecondImageOfOmeTiff(TestTiledTiff):
    """The image is not the largest of its file, and is chosen by its name."""

    options = {"tile": (48, 32), "compression": "zlib", "photometric": "rgb"}  # noqa: RUF012

    def write(self, folder: Path, array: Array) -> Path:
        path = folder / "image.ome.tif"
        with tifffile.TiffWriter(path, ome=True) as writer:
            for name, values in (("large", picture(600, 400)), ("small", array)):
                writer.write(values, metadata={"axes": "YXS", "Name": name}, **self.options)
        return path

    def open(self, path: Path) -> Image:
        return open_image(path, series="small")


class TestOmeTiffInSeveralFiles(TestTiledTiff):
    """Each channel has a file of its own, and the second file is opened."""

    dtype = "uint16"
    bands = 3

    def write(self, folder: Path, array: Array) -> Path:
        height, width = array.shape[:2]
        planes = "".join(
            f'<TiffData IFD="0" FirstC="{band}" PlaneCount="1">'
            f'<UUID FileName="{band}.ome.tif">u{band}</UUID></TiffData>'
            for band in range(self.bands)
        )
        for band in range(self.bands):
            text = (
                f'<OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06" UUID="u{band}"><Image><Pixels '
                f'DimensionOrder="XYCZT" Type="uint16" SizeX="{width}" SizeY="{height}" SizeC="{self.bands}" SizeZ="1" '
                f'SizeT="1">{planes}</Pixels></Image></OME>'
            )
            options: dict[str, Any] = {"tile": (32, 48), "photometric": "minisblack", "metadata": None}
            tifffile.imwrite(folder / f"{band}.ome.tif", array[:, :, band], description=text, **options)
        return folder / "1.ome.tif"


class TestPng(ImageContract):
    backend = "vips"

    def write(self, folder: Path, array: Array) -> Path:
        path = folder / "image.png"
        pyvips.Image.new_from_array(array).copy(interpretation="srgb").pngsave(str(path))
        return path


class TestPngOnDisk(TestPng):
    """The picture is too large for the memory, so it is decoded once to a tile file on the disk."""

    @pytest.fixture(autouse=True)
    def no_memory(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(cache_module, "MEMORY_BYTES", 0)

    def test_the_disk_is_named_and_freed(self, tmp_path: Path) -> None:
        image, array = self.image(tmp_path)
        assert image.info.cache_bytes >= array.nbytes
        with image:
            image.read([whole(image)])
        assert list((tmp_path / "cache").iterdir()) == []

    def test_without_a_budget_it_is_refused_with_its_need(self, tmp_path: Path) -> None:
        path = self.write(tmp_path, picture(300, 300))
        for budget in (None, CacheBudget(folder=tmp_path, max_bytes=1000)):
            with pytest.raises(SourceError, match="786,432"):
                open_image(path, cache=budget)


class TestWebp(TestPng):
    def write(self, folder: Path, array: Array) -> Path:
        path = folder / "image.webp"
        pyvips.Image.new_from_array(array).copy(interpretation="srgb").webpsave(str(path), lossless=True)
        return path


class TestGreyPng16(TestPng):
    dtype = "uint16"
    bands = 1

    def write(self, folder: Path, array: Array) -> Path:
        path = folder / "image.png"
        pyvips.Image.new_from_array(array).copy(interpretation="grey16").pngsave(str(path), bitdepth=16)
        return path


class TestOmeZarr2(ImageContract):
    backend = "zarr"
    version: Any = 2

    def write(self, folder: Path, array: Array) -> Path:
        path = folder / "image.zarr"
        group = zarr.create_group(path, zarr_format=self.version)
        planes = np.moveaxis(array, 2, 0)[None, :, None]
        group.create_array("0", data=planes, chunks=(1, 1, 1, 40, 50))
        axes = [{"name": name, "type": "space"} for name in "tczyx"]
        multiscale = {"axes": axes, "datasets": [{"path": "0"}]}
        group.attrs.update(
            {"multiscales": [multiscale]} if self.version == 2 else {"ome": {"multiscales": [multiscale]}}
        )
        return path


class TestOmeZarr3(TestOmeZarr2):
    dtype = "uint16"
    version = 3


class TestBioformats2raw(TestOmeZarr2):
    """The file has a label before the image, which is larger where it has more than a few pixels."""

    def write(self, folder: Path, array: Array) -> Path:
        root = zarr.create_group(folder / "root.zarr", zarr_format=2)
        root.attrs["bioformats2raw.layout"] = 3
        root.create_group("OME").attrs["series"] = ["0", "1"]
        for number, values in enumerate((picture(1, 1), array)):
            (folder / str(number)).mkdir()
            super().write(folder / str(number), values).rename(folder / "root.zarr" / str(number))
        return folder / "root.zarr"

    def open(self, path: Path) -> Image:
        return open_image(path, series=1)


class TestPlainZarrZip(ImageContract):
    backend = "zarr"

    def write(self, folder: Path, array: Array) -> Path:
        path = folder / "image.zarr.zip"
        with zarr.storage.ZipStore(path, mode="w") as store:
            zarr.create_array(store, data=np.moveaxis(array, 2, 0), chunks=(3, 64, 64))
        return path


class TestOpenSlide(ImageContract):
    backend = "openslide"

    def write(self, folder: Path, array: Array) -> Path:
        path = folder / "image.tif"
        tifffile.imwrite(path, array, tile=(64, 64), compression="deflate", photometric="rgb")
        return path

    def open(self, path: Path) -> Image:
        from magnet_cli.images.openslide import open_slide  # noqa: PLC0415 (this test alone needs it)

        return open_slide(str(path))
