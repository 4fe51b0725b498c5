"""What mutated files are made of, and what the program must make of them."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pyvips
import rasterio
import tifffile
import zarr
from PIL import Image as PillowImage

from magnet_cli import images
from magnet_cli.errors import MagnetError
from magnet_cli.geometry import LEVEL0, Box, Pitch, Size
from magnet_cli.images.dataset import read_dataset
from magnet_cli.masks.journal import Journal
from magnet_cli.models.bundle import load_bundle
from magnet_cli.models.networks import load_networks
from magnet_cli.scene import Scene
from magnet_cli.train.config import TrainConfig
from tests.campaign import mutations
from tests.campaign.answers import fetched, plan_answers
from tests.campaign.finding import Finding
from tests.cli.support import invoke, write_colours_bundle
from tests.cli.support import write_image as write_stripes
from tests.train.grnet import GRNET

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from numpy.typing import NDArray

    from tests.campaign.mutations import Mutate

SIZE: Final = Size(width=150, height=110)
WHOLE_PIXELS: Final = 2_000_000
"""Values of an image that are all read; of a larger one some boxes are."""
DISK: Final = 1 << 28
"""Bytes of disk for a picture that is decoded as a whole."""
CLOSE: Final = 2.0
"""Mean difference of two decoders of one lossy picture."""


@dataclass(frozen=True, kw_only=True)
class Specimen:
    """A kind of file."""

    name: str
    make: Callable[[Path], object]
    """Write the files into an empty folder."""
    target: str
    """A glob pattern: one of these files is mutated."""
    how: tuple[Mutate, ...]
    examine: Callable[[Path], Finding]
    """Use the files of a folder as a user would. `MagnetError` is caught here, everything else is a bug."""

    served: bool = False
    """Whether the file stays, and a server that errs stands before it."""

    def mutate(self, folder: Path, random: np.random.Generator) -> None:
        """Change one of the files, or now and then take it away; or plan the errors of a server."""
        if self.served:
            plan_answers(folder, random)
            return
        paths = sorted(path for path in folder.glob(self.target) if path.is_file())
        path = paths[int(random.integers(0, len(paths)))]
        if len(paths) > 1 and random.random() < 0.05:
            path.unlink()
            return
        how = mutations.JSON if path.name in ("zarr.json", ".zarray", ".zattrs") else self.how
        path.write_bytes(how[int(random.integers(0, len(how)))](path.read_bytes(), random))


def pixels() -> NDArray[np.uint8]:
    """Return a picture, `(height, width, 3)`."""
    return Scene(size=SIZE, seed=4, plain=True).pixels(Box.whole(SIZE))


def write_tiff(path: Path, **options: Any) -> None:
    """Write a pyramid of two levels."""
    array = pixels()
    with tifffile.TiffWriter(
        path, bigtiff=options.pop("bigtiff", False), byteorder=options.pop("byteorder", "<")
    ) as file:
        usual: dict[str, Any] = {"tile": (64, 64), "photometric": "rgb", "compression": "deflate", "metadata": None}
        file.write(array, **{**usual, **options})
        file.write(array[::2, ::2], subfiletype=1, **{**usual, **options})


def image(
    name: str,
    make: Callable[[Path], object],
    file: str,
    how: tuple[Mutate, ...],
    *,
    judge: Callable[[Path], NDArray[Any] | None] | None = None,
) -> Specimen:
    """Return an image that is opened and read, and compared with another reader's pixels where there is one.

    Args:
        name: Name of the kind of file.
        make: Writes the image into an empty folder.
        file: Name of the image. Of a folder of this name, any file is mutated.
        how: The mutations.
        judge: Returns the other reader's pixels, `(height, width, bands)`; None where that reader refuses the file.
    """
    return Specimen(
        name=name,
        make=make,
        target=f"{file}/**/*" if file.endswith(".zarr") else file,
        how=how,
        examine=lambda folder: opened(folder / file, judge),
    )


def tiff(name: str, **options: Any) -> Specimen:
    """Return a TIFF with options of tifffile."""
    file = "image.tif"
    return image(name, lambda folder: write_tiff(folder / file, **options), file, mutations.TIFF, judge=by_gdal)


def make_svs(folder: Path) -> None:
    """Write an Aperio slide with a thumbnail and a label."""
    array = pixels()
    text = f"Aperio Image Library v12.0.15 \r\n{SIZE.width}x{SIZE.height}|AppMag = 40|MPP = 0.2500|Left = 2"
    options: dict[str, Any] = {"photometric": "rgb", "metadata": None}
    with tifffile.TiffWriter(folder / "image.svs") as file:
        file.write(array, tile=(64, 64), compression="jpeg", description=text, **options)
        file.write(array[::3, ::3], compression="lzw", description=f"{text} -> 50x37", **options)
        file.write(array[::2, ::2], tile=(64, 64), compression="jpeg", description=text, **options)
        file.write(array[:40, :40], compression="lzw", subfiletype=1, description="label 40x40", **options)


def make_ome_tiff(folder: Path) -> None:
    """Write an OME-TIFF of two images, one of several channels, with sub-directories."""
    array = pixels()
    with tifffile.TiffWriter(folder / "image.ome.tif", ome=True) as file:
        options: dict[str, Any] = {"tile": (64, 64), "compression": "deflate"}
        meta = {"axes": "CYX", "Channel": {"Name": ["a", "b", "c"]}, "PhysicalSizeX": 0.5, "PhysicalSizeXUnit": "µm"}
        file.write(np.moveaxis(array, 2, 0), subifds=1, photometric="minisblack", metadata=meta, **options)
        file.write(np.moveaxis(array[::2, ::2], 2, 0), subfiletype=1, photometric="minisblack", **options)
        file.write(array[:50, :60], photometric="rgb", metadata={"axes": "YXS", "Name": "small"}, **options)


def make_zarr(version: Any) -> Callable[[Path], None]:
    """Return a function that writes an OME-Zarr of two levels."""

    def make(folder: Path) -> None:
        group = zarr.create_group(folder / "image.zarr", zarr_format=version)
        planes = np.moveaxis(pixels(), 2, 0)
        group.create_array("0", data=planes, chunks=(3, 64, 64))
        group.create_array("1", data=planes[:, ::2, ::2], chunks=(3, 64, 64))
        axes: list[Any] = [
            {"name": "c", "type": "channel"},
            *({"name": n, "type": "space", "unit": "micrometer"} for n in "yx"),
        ]
        levels = [
            {"path": str(n), "coordinateTransformations": [{"type": "scale", "scale": [1, 0.5 * 2**n, 0.5 * 2**n]}]}
            for n in range(2)
        ]
        multiscale = {"axes": axes, "datasets": levels, "version": "0.4"}
        group.attrs.update({"multiscales": [multiscale]} if version == 2 else {"ome": {"multiscales": [multiscale]}})

    return make


def make_zip(folder: Path) -> None:
    """Write a Zarr array into a ZIP file."""
    with zarr.storage.ZipStore(folder / "image.zarr.zip", mode="w") as store:
        zarr.create_array(store, data=np.moveaxis(pixels(), 2, 0), chunks=(3, 64, 64))


def picture(name: str, save: Callable[[Path], None]) -> Specimen:
    """Return a picture that Pillow reads as well."""
    file = f"image.{name}"
    return image(name, lambda folder: save(folder / file), file, mutations.BYTES, judge=by_pillow)


def make_jp2(folder: Path) -> None:
    """Write a JPEG 2000 file by GDAL."""
    with rasterio.open(
        folder / "image.jp2",
        "w",
        driver="JP2OpenJPEG",
        width=SIZE.width,
        height=SIZE.height,
        count=3,
        dtype="uint8",
        QUALITY="100",
        REVERSIBLE="YES",
    ) as file:
        file.write(np.moveaxis(pixels(), 2, 0))


def make_vrt(folder: Path) -> None:
    """Write a mosaic of two TIFFs as GDAL's XML."""
    tifffile.imwrite(folder / "left.tif", pixels(), photometric="rgb", metadata=None)
    bands = "".join(
        f'<VRTRasterBand dataType="Byte" band="{band}"><SimpleSource><SourceFilename relativeToVRT="1">left.tif'
        f'</SourceFilename><SourceBand>{band}</SourceBand><SrcRect xOff="0" yOff="0" xSize="150" ySize="110"/>'
        f'<DstRect xOff="10" yOff="5" xSize="150" ySize="110"/></SimpleSource></VRTRasterBand>'
        for band in (1, 2, 3)
    )
    (folder / "image.vrt").write_text(f'<VRTDataset rasterXSize="170" rasterYSize="120">{bands}</VRTDataset>')


def opened(path: Path, judge: Callable[[Path], NDArray[Any] | None] | None) -> Finding:
    """Open an image, read it whole or in boxes, and compare it with what another reader says, where there is one."""
    cache = images.CacheBudget(folder=path.parent / "cache", max_bytes=DISK)
    try:
        with images.open_image(path, cache=cache) as image:
            size = image.info.size
            count = size.width * size.height * len(image.info.bands)
            if count > WHOLE_PIXELS:
                grid = Pitch.square(4)
                cover = grid.cover(size)
                for x, y in ((0, 0), (cover.width // 2, cover.height // 2), (max(0, cover.width - 32), 0)):
                    box = Box(x=x, y=y, width=min(32, cover.width - x), height=min(32, cover.height - y))
                    image.read([images.Request(pitch=grid, box=box)])
                return Finding(outcome="read in boxes")
            region = image.read([images.Request(pitch=LEVEL0, box=Box.whole(size))])[0]
            half = Pitch.square(2)
            image.read([images.Request(pitch=half, box=Box.whole(half.cover(size)))])
    except MagnetError as error:
        good = error.exit_code in (3, 6)
        return Finding(outcome=f"exit {error.exit_code}", faults=() if good else (f"{type(error).__name__}: {error}",))
    expected = None if judge is None else judge(path)
    if judge is None:
        return Finding(outcome="read")
    if expected is None:
        return Finding(outcome="read, the other reader refuses it")
    if expected.shape != region.pixels.shape:
        return Finding(outcome="read, another size or number of bands than the other reader's")
    apart = np.abs(expected.astype(float) - region.pixels.astype(float))
    if region.valid is not None:
        apart = apart[region.valid]
    same = not apart.size or float(apart.mean()) <= CLOSE
    return Finding(outcome=f"read, {'equal to' if same else 'other than'} the other reader's")


def by_gdal(path: Path) -> NDArray[Any] | None:
    """Return the pixels as GDAL reads them, `(height, width, bands)`; None where it refuses."""
    try:
        with rasterio.open(path) as file:
            if file.width * file.height * file.count > WHOLE_PIXELS:
                return None
            found: NDArray[Any] = np.moveaxis(file.read(), 0, 2)
            return found
    except rasterio.errors.RasterioError:
        return None


def by_pillow(path: Path) -> NDArray[Any] | None:
    """Return the pixels as Pillow reads them, `(height, width, bands)`; None where it refuses."""
    try:
        with PillowImage.open(path) as image:
            array = np.asarray(image)
    except (OSError, SyntaxError, ValueError, PillowImage.DecompressionBombError):
        return None
    return array if array.ndim == 3 else array[..., None]


def typed(*words: str | Path, allowed: tuple[int, ...]) -> tuple[int, Finding]:
    """Type a command in this process; every exit code but the allowed ones is a fault."""
    ended = invoke(*words)
    code = ended.exit_code
    faults = [] if code in allowed else [f"exit {code}: {ended.stderr[-300:]}"]
    if code and "magnet: " not in ended.stderr:
        faults.append(f"no line says why: {ended.stderr[-300:]}")
    return code, Finding(outcome=f"exit {code}", faults=tuple(faults))


def with_bundle(folder: Path) -> None:
    """Write an image and a bundle."""
    write_stripes(folder / "s.tif", size=(70, 80))
    write_colours_bundle(folder / "colours")


def loaded(folder: Path) -> Finding:
    """Load a bundle and its networks, or be refused with exit code 4."""
    try:
        load_networks(load_bundle(str(folder / "colours")), device="cpu", precision="float32")
    except MagnetError as error:
        good = error.exit_code in (4, 6)
        return Finding(outcome=f"exit {error.exit_code}", faults=() if good else (f"{type(error).__name__}: {error}",))
    return typed(
        "segment",
        folder / "s.tif",
        *USUAL,
        f"--weights={folder / 'colours'}",
        "-o",
        folder / "m.tif",
        allowed=(0, 2, 3, 4, 6),
    )[1]


USUAL: Final = ("--tissue=none", "--device=cpu", "--num-workers=0", "--no-progress")


def segment_words(folder: Path) -> tuple[str | Path, ...]:
    """Return the words that segment the image of `with_bundle`."""
    words = (*USUAL, f"--weights={folder / 'colours'}", "--batch-size=1", "--overlap=16")
    return ("segment", folder / "s.tif", *words, "-o", folder / "m.tif")


def with_journal(folder: Path) -> None:
    """Write a journal that is all but finished, and the mask that it becomes."""
    with_bundle(folder)
    end = Journal.end

    def interrupted(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    Journal.end = interrupted  # type: ignore[method-assign]  # it is given back
    try:
        invoke(*segment_words(folder))
    finally:
        Journal.end = end  # type: ignore[method-assign]  # as above
    journal = folder / "m.tif.journal"
    kept = journal.read_bytes()
    invoke(*segment_words(folder))
    (folder / "m.tif").rename(folder / "expected.tif")
    (folder / "m.json").unlink()
    journal.write_bytes(kept)


def resumed(folder: Path) -> Finding:
    """Resume from a journal, which has to give the mask of an undisturbed run or exit code 5."""
    code, finding = typed(*segment_words(folder), allowed=(0, 5))
    if code == 0 and (folder / "m.tif").read_bytes() != (folder / "expected.tif").read_bytes():
        return Finding(outcome="another mask", faults=("a damaged journal became another mask",))
    return finding


POLYGONS: Final = {
    "type": "FeatureCollection",
    "features": [
        {
            "type": "Feature",
            "properties": {"classification": {"name": "Tumour", "color": [200, 0, 0]}, "objectType": "annotation"},
            "geometry": {"type": "Polygon", "coordinates": [[[5, 5], [60, 8], [55, 60], [10, 50], [5, 5]]]},
        },
        {
            "type": "Feature",
            "properties": {},
            "geometry": {
                "type": "MultiPolygon",
                "coordinates": [[[[20, 20], [30, 20], [30, 30], [20, 20]]], [[[40, 40], [50, 40], [45, 50], [40, 40]]]],
            },
        },
    ],
}


def with_polygons(folder: Path) -> None:
    """Write an image, a bundle, and a region as GeoJSON."""
    with_bundle(folder)
    (folder / "roi.geojson").write_text(json.dumps(POLYGONS))


def within(folder: Path) -> Finding:
    """Segment the inside of a region."""
    words = segment_words(folder)
    return typed(*words, f"--roi={folder / 'roi.geojson'}", "--method=patch", allowed=(0, 2, 3))[1]


def with_list(folder: Path) -> None:
    """Write a list of labelled images."""
    for name in ("a", "b"):
        (folder / f"{name}.png").write_bytes(b"")
        (folder / f"{name}-truth.png").write_bytes(b"")
    (folder / "list.csv").write_text("name,image,label,roi\na,a.png,a-truth.png,\nb,b.png,b-truth.png,a.png\n")


def listed(folder: Path) -> Finding:
    """Read a list of labelled images."""
    try:
        read_dataset(folder / "list.csv")
    except MagnetError as error:
        good = error.exit_code in (2, 3)
        return Finding(outcome=f"exit {error.exit_code}", faults=() if good else (str(error),))
    return Finding(outcome="read")


def configured(folder: Path) -> Finding:
    """Read the configuration of a training."""
    try:
        TrainConfig.read(folder / "train.toml")
    except MagnetError as error:
        good = error.exit_code in (2, 3, 4)
        return Finding(outcome=f"exit {error.exit_code}", faults=() if good else (str(error),))
    return Finding(outcome="read")


def with_mask(folder: Path) -> None:
    """Write a mask with its report, and a truth."""
    with_bundle(folder)
    invoke(*segment_words(folder))
    shutil.copy(folder / "m.tif", folder / "truth.tif")


def by_report(folder: Path) -> Finding:
    """Verify, report and export a mask whose report is damaged."""
    code, verified = typed("verify", folder / "m.tif", "--json", allowed=(0, 3, 5))
    faults = list(verified.faults)
    for words in (
        ("report", folder / "m.tif"),
        ("export", folder / "m.tif", "--format=geojson,cog", "-o", folder / "exports"),
        (*segment_words(folder),),
    ):
        faults += typed(*words, allowed=(0, 2, 3, 5))[1].faults
    return Finding(outcome=f"verify exit {code}", faults=tuple(faults))


def by_mask(folder: Path) -> Finding:
    """Verify, export, refine and score a mask that is damaged: `verify` may pass only what has the same labels."""
    code, verified = typed("verify", folder / "m.tif", "--json", allowed=(0, 3, 5))
    faults = list(verified.faults)
    if code == 0:
        with tifffile.TiffFile(folder / "m.tif") as mine, tifffile.TiffFile(folder / "truth.tif") as other:
            if not np.array_equal(mine.pages[0].asarray(), other.pages[0].asarray()):
                faults.append("verify passes a mask with other labels")
    faults += typed(
        "export", folder / "m.tif", "--format=geojson,ome-tiff", "-o", folder / "exports", allowed=(0, 2, 3, 5)
    )[1].faults
    faults += typed("evaluate", folder / "m.tif", folder / "truth.tif", "--json", allowed=(0, 2, 3))[1].faults
    words = ("--method=guided", "--device=cpu", "--no-progress", "-o", folder / "r.tif")
    faults += typed("refine", folder / "s.tif", folder / "m.tif", *words, allowed=(0, 2, 3, 6))[1].faults
    return Finding(outcome=f"verify exit {code}", faults=tuple(faults))


def save_vips(**options: Any) -> Callable[[Path], None]:
    """Return a function that writes the picture by libvips."""

    def save(path: Path) -> None:
        pyvips.Image.new_from_array(pixels()).copy(interpretation="srgb").write_to_file(str(path), **options)

    return save


SPECIMENS: Final = (
    tiff("tiff"),
    tiff("bigtiff", bigtiff=True, predictor=True),
    tiff("tiff in big-endian strips", byteorder=">", tile=None, rowsperstrip=16, compression="lzw"),
    tiff("tiff uncompressed", compression=None),
    tiff("tiff of jpeg tiles", compression="jpeg"),
    image("svs", make_svs, "image.svs", mutations.TIFF, judge=by_gdal),
    image("ome-tiff", make_ome_tiff, "image.ome.tif", mutations.TIFF),
    image("zarr 2", make_zarr(2), "image.zarr", mutations.BYTES),
    image("zarr 3", make_zarr(3), "image.zarr", mutations.BYTES),
    image("zarr in a zip", make_zip, "image.zarr.zip", mutations.BYTES),
    picture("png", save_vips()),
    picture("jpg", save_vips(Q=85)),
    picture("webp", save_vips(lossless=True)),
    image("jpeg 2000", make_jp2, "image.jp2", mutations.BYTES, judge=by_gdal),
    image("vrt", make_vrt, "image.vrt", mutations.TEXT, judge=by_gdal),
    Specimen(name="bundle.json", make=with_bundle, target="colours/bundle.json", how=mutations.JSON, examine=loaded),
    Specimen(name="safetensors", make=with_bundle, target="colours/*.safetensors", how=mutations.BYTES, examine=loaded),
    Specimen(name="journal", make=with_journal, target="m.tif.journal", how=mutations.BYTES, examine=resumed),
    Specimen(name="region in GeoJSON", make=with_polygons, target="roi.geojson", how=mutations.JSON, examine=within),
    Specimen(name="list in CSV", make=with_list, target="list.csv", how=mutations.TEXT, examine=listed),
    Specimen(
        name="configuration in TOML",
        make=lambda folder: (folder / "train.toml").write_text(GRNET),
        target="train.toml",
        how=mutations.TEXT,
        examine=configured,
    ),
    Specimen(name="report", make=with_mask, target="m.json", how=mutations.JSON, examine=by_report),
    Specimen(name="mask", make=with_mask, target="m.tif", how=mutations.TIFF, examine=by_mask),
)


def served(name: str, file: str, make: Callable[[Path], None]) -> Specimen:
    """Return a file behind a server that errs."""
    return Specimen(
        name=name, make=make, target=file, how=(), examine=lambda folder: fetched(folder, file), served=True
    )


SERVED: Final = (
    served("tiff", "image.tif", lambda folder: write_tiff(folder / "image.tif", compression=None)),
    served("png", "image.png", lambda folder: save_vips()(folder / "image.png")),
    served("zarr", "image.zarr", make_zarr(3)),
)
