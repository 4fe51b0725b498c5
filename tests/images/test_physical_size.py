"""The physical size of a pixel is read from files where it is credible, and degrees are converted to metres."""

from __future__ import annotations

import logging
from fractions import Fraction
from math import cos, radians, sin
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import rasterio
import rasterio.warp
import tifffile
import zarr
from pyproj import Geod

from magnet_cli.images import Resolution, inspect
from magnet_cli.images.resolution import microscope, objective, stated
from magnet_cli.images.units import unit_in_um

if TYPE_CHECKING:
    from pathlib import Path

    from magnet_cli.images import ImageInfo

APERIO = "Aperio Image Library v11\r\n70x50 [0,0] (64x64) JPEG/RGB Q=70"
OME = (
    '<?xml version="1.0"?><OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06"><Instrument ID="Instrument:0">'
    '{objectives}</Instrument><Image ID="Image:0">{settings}<Pixels ID="Pixels:0" DimensionOrder="XYCZT" Type="uint8" '
    'SizeX="70" SizeY="50" SizeC="3" SizeZ="1" SizeT="1" {size}><Channel ID="Channel:0" SamplesPerPixel="3"/>'
    "<TiffData/></Pixels></Image></OME>"
)


def described(path: Path, text: str, **tags: Any) -> ImageInfo:
    tifffile.imwrite(
        path, np.zeros((50, 70, 3), np.uint8), photometric="rgb", description=text, metadata=None, tile=(64, 64), **tags
    )
    return inspect(path)


def geotiff(path: Path, crs: str, transform: rasterio.Affine, *, size: tuple[int, int] = (60, 80)) -> ImageInfo:
    height, width = size
    options = {"width": width, "height": height, "count": 1, "dtype": "uint8", "crs": crs, "transform": transform}
    with rasterio.open(path, "w", driver="GTiff", **options) as file:
        file.write(np.zeros((1, height, width), np.uint8))
    return inspect(path)


@pytest.mark.parametrize(
    ("x", "y", "said"),
    [
        ("0", "0.5", "no positive number"),
        ("-0.25", "-0.25", "no positive number"),
        ("nan", "0.5", "no positive number"),
        ("inf", "0.5", "no positive number"),
        ("0,,25", "0,,25", "no positive number"),
        ("1000", "1000", "absurd, no microscope's"),
        ("0.000001", "0.000001", "absurd, no microscope's"),
        ("0.5", "36", "absurd, one side 72 times the other"),
    ],
)
def test_a_size_that_cannot_be_is_told_and_ignored(tmp_path: Path, x: str, y: str, said: str) -> None:
    assert stated(x, y, unit="um")[0] is None
    info = described(
        tmp_path / "image.ome.tif",
        OME.format(objectives="", settings="", size=f'PhysicalSizeX="{x}" PhysicalSizeY="{y}"'),
    )
    assert info.resolution is None
    assert len(info.notes) == 1
    assert said in info.notes[0]
    assert info.notes[0].endswith(": ignored")
    if x == y:
        slide = described(tmp_path / "slide.svs", f"{APERIO}|AppMag = 20|MPP = {x}")
        assert (slide.resolution, len(slide.notes)) == (None, 1)


@pytest.mark.parametrize("comma", ["0,2500", "0.2500"])
def test_a_decimal_comma_is_a_decimal_sign(tmp_path: Path, comma: str) -> None:
    slide = described(tmp_path / "slide.svs", f"{APERIO}|AppMag = 40,0|MPP = {comma}")
    size = f'PhysicalSizeX="{comma}" PhysicalSizeY="{comma}"'
    ome = described(tmp_path / "s.ome.tif", OME.format(objectives="", settings="", size=size))
    for info in (slide, ome):
        assert info.resolution == Resolution(x=Fraction(1, 4), y=Fraction(1, 4), unit="um")
        assert info.notes == ()
    assert slide.objective == 40


@pytest.mark.parametrize(
    ("word", "encoding"),
    [
        ("Jos\u00e9 M\u00fcller", "latin-1"),
        ("\u6837\u672c", "gb18030"),
        ("\u7d44\u7e54", "shift_jis"),
        ("\u7d44", "utf-16-le"),
    ],
)
def test_an_aperio_description_in_any_code_page_is_understood(tmp_path: Path, word: str, encoding: str) -> None:
    text = f"{APERIO}|AppMag = 20|User = ".encode() + word.encode(encoding) + b"|MPP = 0.5|Left = 2"
    tifffile.imwrite(
        tmp_path / "slide.svs",
        np.zeros((50, 70, 3), np.uint8),
        photometric="rgb",
        description=text,
        metadata=None,
        tile=(64, 64),
    )
    logging.getLogger("tifffile").setLevel(logging.CRITICAL)
    info = inspect(tmp_path / "slide.svs")
    logging.getLogger("tifffile").setLevel(logging.NOTSET)
    assert info.resolution == Resolution(x=Fraction(1, 2), y=Fraction(1, 2), unit="um")
    assert info.objective == 20
    assert info.is_slide


@pytest.mark.parametrize(
    ("unit", "micrometres"),
    [
        *(("\u00b5m", "1"), ("\u03bcm", "1"), ("um", "1"), ("\\u00B5m", "1"), ("&#181;m", "1"), ("\u00c2\u00b5m", "1")),
        *(("micron", "1"), ("Microns", "1"), ("micrometer", "1"), ("micrometres", "1"), ("nm", "0.001")),
        *(("cm", "10000"), ("centimeters", "10000"), ("mm", "1000"), ("millimeter", "1000"), ("m", "1000000")),
        *(("inch", "25400"), ("inches", "25400"), ("in", "25400"), ("thou", "25.4"), ("angstrom", "0.0001")),
        *(("\u00c5", "0.0001"), ("\u212b", "0.0001"), ("Mm", "1000000000000"), ("ft", "304800"), ("dam", "10000000")),
        *(("picometer", "0.000001"), ("hectometer", "100000000"), ("yard", "914400"), ("li", "25400/12")),
        *(("pixel", None), ("reference frame", None), ("", None), ("furlongmeter", None), ("MM", None)),
    ],
)
def test_every_legal_unit_of_length_is_understood(unit: str, micrometres: str | None) -> None:
    found = None if micrometres is None else Fraction(*map(Fraction, micrometres.split("/")))
    assert unit_in_um(unit) == found


@pytest.mark.parametrize(
    ("unit", "density", "tag"),
    [
        *(("micron", (4, 1), 1), ("\\u00B5m", (4, 1), 1), ("micrometer", (4, 1), 1), ("um", (4, 1), 3)),
        *(("cm", (40000, 1), 3), ("cm", (40000, 1), 1), ("mm", (4000, 1), 1), ("inch", (101600, 1), 2)),
        *(
            ("nm", (4, 1000), 1),
            ("centimeters", (40000, 1), 1),
            ("", (40000, 1), 3),
            ("micron\nyunit=\nzunit=", (4, 1), 1),
        ),
        ("nm\nyunit=micron", ((4, 1000), (4, 1)), 1),
    ],
)
def test_a_scale_of_imagej_counts_in_the_unit_of_its_text(tmp_path: Path, unit: str, density: Any, tag: int) -> None:
    text = f"ImageJ=1.53t\nunit={unit}\n" if unit else "ImageJ=1.53t\n"
    both = density if isinstance(density[0], tuple) else (density, density)
    info = described(tmp_path / "s.tif", text, resolution=both, resolutionunit=tag)
    assert info.resolution == Resolution(x=Fraction(1, 4), y=Fraction(1, 4), unit="um")


def test_a_unit_that_is_no_length_is_reported(tmp_path: Path) -> None:
    size = 'PhysicalSizeX="1.0" PhysicalSizeXUnit="pixel" PhysicalSizeY="1.0" PhysicalSizeYUnit="pixel"'
    info = described(tmp_path / "s.ome.tif", OME.format(objectives="", settings="", size=size))
    assert info.resolution is None
    assert info.notes == ("the pixel size is stated in 'pixel', which is no length: ignored",)


def test_a_density_of_screens_is_no_scale_of_imagej(tmp_path: Path) -> None:
    info = described(tmp_path / "s.tif", "ImageJ=1.53t\nunit=inch\n", resolution=((96, 1), (96, 1)), resolutionunit=2)
    assert info.resolution is None
    assert "default for screens" in info.notes[0]


def test_a_size_is_believed_up_to_a_pixel_four_times_as_long_as_wide() -> None:
    assert stated("0.5", "2", unit="um")[1] == ()
    assert stated("0.5", "2.1", unit="um")[0] is None
    assert stated("1", "30", unit="m")[1] == ()
    assert microscope(Fraction(1, 2), Fraction(12)) == stated("0.5", "12", unit="um")
    assert stated(None, "0.5", unit="um") == (None, ())


def test_a_density_that_is_no_number_is_told(tmp_path: Path) -> None:
    info = described(tmp_path / "s.tif", "", resolution=((20000, 1), (0, 1)), resolutionunit="centimeter")
    assert info.resolution is None
    assert info.notes == ("the stored pixel size (20000/1 x 0/1) is no positive number: ignored",)


def test_a_default_density_is_told(tmp_path: Path) -> None:
    info = described(tmp_path / "s.tif", "", resolution=((10, 1), (10, 1)), resolutionunit="centimeter")
    assert info.resolution is None
    assert info.notes == ("the stored resolution (25.4 pixels per inch) is a default for screens or print: ignored",)


@pytest.mark.parametrize("scale", [0, -0.5, float("nan")])
def test_a_scale_of_ome_zarr_that_is_no_number_is_told(tmp_path: Path, scale: float) -> None:
    group = zarr.open_group(tmp_path / "s.zarr", mode="w", zarr_format=2)
    group.create_array("0", shape=(3, 40, 50), chunks=(3, 32, 32), dtype="uint8")
    axes: Any = [{"name": "c"}, *({"name": name, "unit": "micrometer"} for name in "yx")]
    steps: Any = [{"type": "scale", "scale": [1, 0.5, scale]}]
    datasets: Any = [{"path": "0", "coordinateTransformations": steps}]
    group.attrs["multiscales"] = [{"version": "0.4", "axes": axes, "datasets": datasets}]
    info = inspect(tmp_path / "s.zarr")
    assert info.resolution is None
    assert "no positive number" in info.notes[0]


@pytest.mark.parametrize(("value", "found"), [("20", 20), ("0", None), ("-40", None), ("40x", None), ("9999", None)])
def test_the_magnification_of_an_aperio_slide(tmp_path: Path, value: str, found: int | None) -> None:
    assert objective(value) == found
    assert described(tmp_path / "slide.svs", f"{APERIO}|AppMag = {value}|MPP = 0.5").objective == found


@pytest.mark.parametrize(
    ("objectives", "settings", "found"),
    [
        ('<Objective ID="Objective:0" NominalMagnification="40.0"/>', "", 40),
        ('<Objective NominalMagnification="2.5" ID="a"/><Objective ID="b" NominalMagnification="63"/>', "b", 63),
        ('<Objective NominalMagnification="2.5" ID="a"/><Objective ID="b" NominalMagnification="63"/>', "", None),
        ('<Objective ID="Objective:0" Model="x"/>', "Objective:0", None),
        ("", "", None),
    ],
)
def test_the_magnification_of_an_ome_file(tmp_path: Path, objectives: str, settings: str, found: int | None) -> None:
    used = f'<ObjectiveSettings ID="{settings}"/>' if settings else ""
    size = 'PhysicalSizeX="0.5" PhysicalSizeY="0.5"'
    info = described(tmp_path / "s.ome.tif", OME.format(objectives=objectives, settings=used, size=size))
    assert info.objective == found
    assert info.resolution is not None


@pytest.mark.parametrize(("crs", "metre"), [("EPSG:2263", Fraction(1200, 3937)), ("EPSG:2222", Fraction("0.3048"))])
def test_feet_are_metres(tmp_path: Path, crs: str, metre: Fraction) -> None:
    info = geotiff(tmp_path / "s.tif", crs, rasterio.Affine(0.5, 0, 9e5, 0, -0.5, 2e5))
    assert info.resolution is not None
    assert (info.resolution.x, info.resolution.y, info.resolution.unit) == (metre / 2, metre / 2, "m")
    assert info.notes == ()


@pytest.mark.parametrize("latitude", [0.0, 37.5, -52.3, 68.0])
@pytest.mark.parametrize("angle", [0, 30])
def test_degrees_are_metres_at_the_middle_of_the_image(tmp_path: Path, latitude: float, angle: float) -> None:
    """PROJ gives the lengths: a transverse Mercator about the image's middle is true to scale there."""
    across, down = 1e-5 * cos(radians(angle)), 1e-5 * sin(radians(angle))
    info = geotiff(tmp_path / "s.tif", "EPSG:4326", rasterio.Affine(across, down, 13, down, -across, latitude))
    columns, rows = np.array([40, 32, 48, 40, 40]), np.array([30, 30, 30, 22, 38])
    east, north = 13 + across * columns + down * rows, latitude + down * columns - across * rows
    local = f"+proj=tmerc +lat_0={north[0]} +lon_0={east[0]} +k=1 +ellps=WGS84 +units=m"
    x, y = rasterio.warp.transform("EPSG:4326", local, east[1:], north[1:])
    assert info.resolution is not None
    assert info.resolution.unit == "m"
    assert float(info.resolution.x) == pytest.approx(np.hypot(x[1] - x[0], y[1] - y[0]) / 16, rel=1e-5)
    assert float(info.resolution.y) == pytest.approx(np.hypot(x[3] - x[2], y[3] - y[2]) / 16, rel=1e-5)
    assert "coordinates are degrees: on the ground a pixel in the middle, at latitude" in info.notes[0]


@pytest.mark.parametrize("latitude", [1.0, 52.0, -66.0])
def test_web_mercator_is_metres_on_the_ground(tmp_path: Path, latitude: float) -> None:
    x, y = rasterio.warp.transform("EPSG:4326", "EPSG:3857", [13], [latitude])
    info = geotiff(tmp_path / "s.tif", "EPSG:3857", rasterio.Affine(0.6, 0, x[0], 0, -0.6, y[0]))
    assert info.resolution is not None
    assert float(info.resolution.x) == pytest.approx(0.6 * cos(radians(latitude)), rel=4e-3)
    around = (13, latitude, 13 + 1e-5, latitude + 1e-5)
    local = f"+proj=tmerc +lat_0={latitude} +lon_0=13 +k=1 +ellps=WGS84 +units=m"
    left, bottom, right, top = rasterio.warp.transform_bounds("EPSG:4326", local, *around)
    west, south, east, north = rasterio.warp.transform_bounds("EPSG:4326", "EPSG:3857", *around)
    assert float(info.resolution.x) == pytest.approx(0.6 * (right - left) / (east - west), rel=1e-4)
    assert float(info.resolution.y) == pytest.approx(0.6 * (top - bottom) / (north - south), rel=1e-4)
    assert "Web Mercator stretches what it shows" in info.notes[0]


@pytest.mark.parametrize(
    ("crs", "place", "stretched"),
    [
        ("EPSG:3395", (13, 60), True),
        ("EPSG:4087", (13, -60), True),
        ("EPSG:27700", (-2, 53), False),
        ("EPSG:32633", (45, 70), False),
        ("ESRI:54009", (100, 60), False),
    ],
    ids=["World Mercator", "equidistant cylinder", "Transverse Mercator", "zone that is left", "equal areas, sheared"],
)
@pytest.mark.parametrize("shear", [0, 0.5])
def test_a_projection_that_stretches_areas_is_measured_on_the_ground(
    tmp_path: Path, crs: str, place: tuple[float, float], shear: float, *, stretched: bool
) -> None:
    x, y = (found[0] for found in rasterio.warp.transform("EPSG:4326", crs, [place[0]], [place[1]]))
    placed = rasterio.Affine(2, shear, x - 80 - 30 * shear, 0, -2, y + 60)
    info = geotiff(tmp_path / "s.tif", crs, placed)
    corners = [placed @ corner for corner in ((0, 0), (80, 0), (80, 60), (0, 60))]
    outline = rasterio.warp.transform(crs, "EPSG:4326", *zip(*corners, strict=True))
    area = abs(Geod(ellps="WGS84").polygon_area_perimeter(*outline)[0]) / (60 * 80)
    assert info.resolution is not None
    if stretched:
        assert float(info.resolution.area) == pytest.approx(area, rel=1e-5)
        assert "the projection stretches what it shows: on the ground a pixel in the middle" in info.notes[0]
    else:
        # The projection's own metres are kept, as surveyors count them.
        assert info.resolution.x == 2
        assert float(info.resolution.area) == pytest.approx(4, rel=1e-9)
        assert float(info.resolution.area) == pytest.approx(area, rel=0.1)
        assert info.notes == ()


@pytest.mark.parametrize(
    ("crs", "side", "left", "top"),
    [
        ("EPSG:3031", 12_500, -500e3, 375e3),
        ("EPSG:3413", 100, 0, 0),
        ("EPSG:32661", 100, 2e6 - 4000, 2e6 + 3000),
    ],
    ids=["about the south pole", "a corner at the north pole", "about the north pole"],
)
def test_a_map_of_a_pole_keeps_its_size(tmp_path: Path, crs: str, side: float, left: float, top: float) -> None:
    info = geotiff(tmp_path / "s.tif", crs, rasterio.Affine(side, 0, left, 0, -side, top))
    assert info.resolution is not None
    assert (info.resolution.x, info.resolution.y) == (Fraction(side), Fraction(side))
    assert info.resolution.unit == "m"
    assert info.notes == ()


def test_a_conformal_map_of_a_continent_has_the_size_of_its_middle(tmp_path: Path) -> None:
    """The scale of the polar stereographic map is 0.972 at the pole, since it is 1 at 71 degrees."""
    info = geotiff(tmp_path / "s.tif", "EPSG:3031", rasterio.Affine(90_000, 0, -3.6e6, 0, -90_000, 2.7e6))
    assert info.resolution is not None
    assert float(info.resolution.x) == pytest.approx(90_000 / 0.9728, rel=1e-3)
    assert "% more or less at the corners" in info.notes[0]
    info = geotiff(tmp_path / "t.tif", "EPSG:3031", rasterio.Affine(140_000, 0, -5.6e6, 0, -140_000, 4.2e6))
    assert info.resolution is None


@pytest.mark.parametrize("corner", [1e307, -1e20, 1e9])
def test_a_place_beyond_the_earth_leaves_the_size_of_the_projection(tmp_path: Path, corner: float) -> None:
    info = geotiff(tmp_path / "s.tif", "EPSG:32633", rasterio.Affine(2e306, 0, corner, 0, -2, corner))
    assert info.resolution is None or float(info.resolution.y) == 2


@pytest.mark.parametrize(
    ("crs", "transform"),
    [
        ("EPSG:3395", rasterio.Affine(2e5, 0, -8e6, 0, -2e5, 1.2e7)),
        ("EPSG:4326", rasterio.Affine(1, 0, -40, 0, -1, 80)),
        ("EPSG:4326", rasterio.Affine(0.01, 0, 0, 0, -0.01, 90.5)),
        ("EPSG:3857", rasterio.Affine(2e5, 0, -8e6, 0, -2e5, 1.2e7)),
    ],
)
def test_a_map_whose_pixels_differ_has_no_size(tmp_path: Path, crs: str, transform: rasterio.Affine) -> None:
    info = geotiff(tmp_path / "s.tif", crs, transform)
    assert info.resolution is None
    assert "has no one size in metres (reproject the image, or give --slide-mpp)" in info.notes[0]


def test_another_planet_has_its_own_size(tmp_path: Path) -> None:
    moon = "+proj=longlat +a=1737400 +b=1737400 +no_defs"
    info = geotiff(tmp_path / "s.tif", moon, rasterio.Affine(1e-3, 0, 10, 0, -1e-3, 0.03))
    assert info.resolution is not None
    assert float(info.resolution.y) == pytest.approx(1737400 * radians(1e-3), rel=1e-6)


@pytest.mark.parametrize("code", [(2048, 4326), (3072, 3857), (3072, 32633)])
@pytest.mark.parametrize(
    ("scale", "corner"),
    [
        ((0.0, 0.0), (13.0, 52.0)),
        ((float("nan"), 1e-5), (13.0, 52.0)),
        ((float("inf"), 1e-5), (13.0, 52.0)),
        ((1e300, 1e300), (1e300, 1e300)),
        ((1e-5, 1e-5), (float("nan"), float("nan"))),
        ((1e-5, 1e-5), (0.0, float("-inf"))),
    ],
)
def test_no_georeference_is_too_odd(
    tmp_path: Path, code: tuple[int, int], scale: tuple[float, float], corner: tuple[float, float]
) -> None:
    keys = (1, 1, 0, 2, 1024, 0, 1, 2 if code[0] == 2048 else 1, code[0], 0, 1, code[1])
    tags = [
        (33550, "d", 3, (*scale, 0.0), True),
        (33922, "d", 6, (0.0, 0.0, 0.0, *corner, 0.0), True),
        (34735, "H", len(keys), keys, True),
    ]
    tifffile.imwrite(tmp_path / "s.tif", np.zeros((20, 30, 3), np.uint8), photometric="rgb", extratags=tags)
    info = inspect(tmp_path / "s.tif")
    assert info.crs == f"EPSG:{code[1]}"
    if info.resolution is None:
        assert len(info.notes) == 1
    else:
        assert info.resolution.x > 0
