"""The place of an image is read from its tags and from files beside it as GDAL reads it."""

from __future__ import annotations

from itertools import product
from typing import TYPE_CHECKING, Any
from xml.sax.saxutils import escape

import numpy as np
import pyproj
import pytest
import rasterio
import rasterio.errors
import tifffile
from pyproj.database import query_crs_info
from pyproj.enums import PJType

from magnet_cli.geometry import LEVEL0, Box
from magnet_cli.images import Request, inspect, open_image
from magnet_cli.images.crs import label, same_crs, spelled
from magnet_cli.images.geokeys import tags_of_crs
from magnet_cli.images.geotransform import Geotransform
from magnet_cli.images.labels import open_labels

if TYPE_CHECKING:
    from pathlib import Path

    from magnet_cli.images import ImageInfo

pytestmark = pytest.mark.filterwarnings(
    "ignore:Dataset has no geotransform", "ignore:You will likely lose important projection information"
)

UTM = 32640
SCALE, TIE = (0.5, 0.5, 0.0), (0.0, 0.0, 0.0, 300_000.0, 2_800_000.0, 0.0)
MATRIX = (1.0, 0.1, 0.0, 5.0, 0.2, -2.0, 0.0, 6.0, *[0.0] * 7, 1.0)
THREE = (0.0, 0.0, 0.0, 1.0, 2.0, 0.0, 8.0, 0.0, 0.0, 3.0, 4.0, 0.0, 0.0, 8.0, 0.0, 5.0, 6.0, 0.0)
COEFFICIENTS = {
    "LINE_OFF": "128",
    "SAMP_OFF": "127.5",
    "LAT_OFF": "25.3",
    "LONG_OFF": "55.1",
    "HEIGHT_OFF": "10",
    "LINE_SCALE": "128",
    "SAMP_SCALE": "128",
    "LAT_SCALE": "0.01",
    "LONG_SCALE": "0.01",
    "HEIGHT_SCALE": "100",
    "LINE_NUM_COEFF": " ".join(["0", "0", "-1.5e-3", *["0"] * 17]),
    "LINE_DEN_COEFF": " ".join(["1", *["0"] * 19]),
    "SAMP_NUM_COEFF": " ".join(["0", "1", *["0.25"] * 18]),
    "SAMP_DEN_COEFF": " ".join(["1", *["0"] * 19]),
}


def keys(**values: int) -> dict[int, int]:
    """Return GeoKeys by code: m is the model type, r the raster type, p a projected and g a geographic system."""
    return {{"m": 1024, "r": 1025, "g": 2048, "p": 3072, "u": 3076}[key]: value for key, value in values.items()}


AREA, POINT = keys(m=1, r=1, p=UTM), keys(m=1, r=2, p=UTM)


def tif(
    path: Path,
    directory: dict[int, int] | None,
    *,
    scale: tuple[float, ...] = (),
    tie: tuple[float, ...] = (),
    matrix: tuple[float, ...] = (),
    **more: Any,
) -> Path:
    tags: list[tuple[int, int, int, object, bool]] = []
    if directory is not None:
        words = (1, 1, 0, len(directory), *(word for key in sorted(directory) for word in (key, 0, 1, directory[key])))
        tags.append((34735, 3, len(words), words, True))
    tags += [(code, 12, len(v), v, True) for code, v in ((33550, scale), (33922, tie), (34264, matrix)) if v]
    tifffile.imwrite(path, np.arange(64, dtype=np.uint8).reshape(8, 8), extratags=tags, metadata=None, **more)
    return path


def world(path: Path, ending: str = ".tfw") -> None:
    path.with_suffix(ending).write_text("0.2\n0.01\n0.02\n-0.3\n1000.1\n1999.9\n")


def pam(
    path: Path, *, srs: str | None = None, transform: str | None = None, points: str | None = None, inner: str = ""
) -> None:
    parts = ["<PAMDataset>"]
    if srs is not None:
        parts.append(f"<SRS>{escape(rasterio.crs.CRS.from_string(srs).to_wkt())}</SRS>")
    if transform is not None:
        parts.append(f"<GeoTransform>{transform}</GeoTransform>")
    if points is not None:
        system = escape(rasterio.crs.CRS.from_string(points).to_wkt(), {'"': "&quot;"})
        each = "".join(
            f'<GCP Id="{n}" Pixel="{x}" Line="{y}" X="{10 + x}" Y="{20 - y}" Z="3"/>'
            for n, (x, y) in enumerate([(0, 0), (8, 0), (0, 8)])
        )
        parts.append(f'<GCPList Projection="{system}">{each}</GCPList>')
    path.with_name(f"{path.name}.aux.xml").write_text("".join([*parts, inner, "</PAMDataset>"]))


def rpc_xml() -> str:
    items = "".join(f'<MDI key="{key}">{value}</MDI>' for key, value in COEFFICIENTS.items())
    return f'<Metadata domain="RPC">{items}</Metadata>'


def points_of(found: rasterio.DatasetReader) -> list[tuple[float, ...]]:
    return [(p.col, p.row, p.x, p.y) for p in found.gcps[0]]


def coefficients(found: rasterio.DatasetReader) -> dict[str, Any] | None:
    """Return the rational polynomial coefficients. GDAL returns None for an unknown error, and the tag holds -1."""
    if found.rpcs is None:
        return None
    return {key: -1 if value is None else value for key, value in found.rpcs.to_dict().items()}


def check(path: Path) -> ImageInfo:
    """Compare the place of an image, and that of a mask with the same tags, with what GDAL reads."""
    info = inspect(path)
    mask = path.with_name("mask.tif")
    tags = [(*tag, True) for tag in info.geo_tags if tag[0] != 42113]
    tifffile.imwrite(mask, np.zeros((8, 8), np.uint8), extratags=tags, metadata=None)
    with rasterio.open(path) as image, rasterio.open(mask) as copy:
        places = Geotransform.of({code: value for code, _, _, value in info.geo_tags})
        wanted = np.array(image.transform).reshape(3, 3)[:2]
        if places is None:
            assert image.transform.is_identity
        else:
            found = np.array([[*places.matrix[0], places.origin[0]], [*places.matrix[1], places.origin[1]]])
            assert np.allclose(found, wanted, rtol=1e-12, atol=1e-12)
        assert np.allclose(np.array(copy.transform), np.array(image.transform), rtol=1e-12, atol=1e-12)
        assert copy.crs == image.crs
        assert points_of(copy) == points_of(image)
        assert copy.gcps[1] == image.gcps[1]
        assert coefficients(copy) == coefficients(image)
        system = image.crs or image.gcps[1]
        assert (info.crs is None) == (system is None)
        assert system is None or same_crs(str(info.crs), system.to_wkt())
        if system is not None and not pyproj.CRS(system.to_wkt()).is_compound:
            assert rasterio.crs.CRS.from_wkt(pyproj.CRS(str(info.crs)).to_wkt()) == system
    return info


@pytest.mark.parametrize("directory", [AREA, POINT, None], ids=["area", "point", "no keys"])
@pytest.mark.parametrize(
    "place",
    [
        {"scale": SCALE, "tie": TIE},
        {"scale": (0.5, -0.5, 0.0), "tie": TIE},
        {"scale": (-0.5, -0.5, 0.0), "tie": TIE},
        {"scale": (-0.5, 0.5, 0.0), "tie": TIE},
        {"scale": (0.25, 0.75, 0.0), "tie": (2.0, 3.0, 0.0, 300.0, 800.0, 0.0)},
        {"scale": SCALE, "tie": (*TIE, 8.0, 8.0, 0.0, 1.0, 2.0, 0.0)},
        {"scale": SCALE, "tie": TIE, "matrix": MATRIX},
        {"scale": (0.0, 0.0, 0.0), "tie": TIE, "matrix": MATRIX},
        {"scale": SCALE, "matrix": MATRIX},
        {"tie": TIE, "matrix": MATRIX},
        {"matrix": MATRIX},
        {"matrix": (0.5, 0.0, 0.0, 3e5, 0.0, 0.5, 0.0, 2.8e6, *[0.0] * 7, 1.0)},
        {"matrix": (0.433, 0.25, 0.0, 3e5, 0.25, -0.433, 0.0, 2.8e6, *[0.0] * 7, 1.0)},
        {"scale": SCALE},
    ],
)
def test_tags_place_an_image_as_gdal_reads_them(
    place: dict[str, Any], directory: dict[int, int] | None, tmp_path: Path
) -> None:
    info = check(tif(tmp_path / "s.tif", directory, **place))
    assert any("negative" in note for note in info.notes) == (place.get("scale", SCALE)[1] < 0)


@pytest.mark.parametrize("directory", [AREA, POINT], ids=["area", "point"])
@pytest.mark.parametrize("tie", [TIE, THREE])
def test_ground_control_points_reach_the_mask(
    tie: tuple[float, ...], directory: dict[int, int], tmp_path: Path
) -> None:
    info = check(tif(tmp_path / "s.tif", directory, tie=tie))
    assert info.resolution is None
    assert f"ground control points ({len(tie) // 6}) place the image" in info.notes[0]


@pytest.mark.parametrize("ending", [".tfw", ".tifw", ".wld", ".TFW", None])
@pytest.mark.parametrize(
    "beside",
    [
        None,
        {"srs": "EPSG:32633"},
        {"transform": "1, 2, 0.5, 3, 0, -4"},
        {"srs": "EPSG:32633", "transform": "3.0e+05, 0.2, 0, 2.8e+06, 0, -0.2"},
        {"srs": "ESRI:102022", "transform": "1, 2, 0, 3, 0, -4"},
        {"srs": "+proj=eqearth +lon_0=30 +datum=WGS84"},
        {"srs": "+proj=ob_tran +o_proj=longlat +o_lon_p=0 +o_lat_p=30 +lon_0=10 +datum=WGS84"},
        {"srs": "EPSG:32640+5773", "transform": "1, 2, 0, 3, 0, -4"},
    ],
)
@pytest.mark.parametrize(
    "inside",
    [
        {"directory": None},
        {"directory": AREA},
        {"directory": AREA, "scale": SCALE, "tie": TIE},
        {"directory": POINT, "scale": SCALE, "tie": TIE},
        {"directory": POINT, "matrix": MATRIX},
        {"directory": POINT},
    ],
)
def test_files_beside_an_image_place_it(
    inside: dict[str, Any], beside: dict[str, Any] | None, ending: str | None, tmp_path: Path
) -> None:
    path = tif(tmp_path / "s.tif", **inside)
    if ending is not None:
        world(path, ending)
    if beside is not None:
        pam(path, **beside)
    check(path)


@pytest.mark.parametrize("inside", [{"directory": None}, {"directory": AREA}])
def test_ground_control_points_beside_an_image(inside: dict[str, Any], tmp_path: Path) -> None:
    path = tif(tmp_path / "s.tif", **inside)
    pam(path, points="EPSG:4326")
    assert check(path).crs == "EPSG:4326"


def test_a_world_file_goes_before_ground_control_points(tmp_path: Path) -> None:
    path = tif(tmp_path / "s.tif", AREA, tie=THREE)
    world(path)
    check(path)


@pytest.mark.parametrize("place", ["tag", "aux.xml", "_RPC.TXT", "RPB"])
def test_rational_polynomials_reach_the_mask(place: str, tmp_path: Path) -> None:
    path = tif(tmp_path / "s.tif", None)
    names = dict(zip(COEFFICIENTS, RPB, strict=True))
    if place == "tag":
        with rasterio.open(path, "r+") as file:
            file.update_tags(ns="RPC", **COEFFICIENTS)
    elif place == "aux.xml":
        pam(path, inner=rpc_xml())
    elif place == "RPB":
        lines = [
            f"\t{names[key]} = {value if ' ' not in value else '(' + ', '.join(value.split()) + ')'};"
            for key, value in COEFFICIENTS.items()
        ]
        path.with_suffix(".RPB").write_text(
            "\n".join(
                ["BEGIN_GROUP = IMAGE", "\terrBias = 1.5;", "\terrRand = 0.5;", *lines, "END_GROUP = IMAGE", "END;"]
            )
        )
    else:
        lines = [
            f"{key}: {value} pixels"
            if " " not in value
            else "\n".join(f"{key}_{n + 1}: {term}" for n, term in enumerate(value.split()))
            for key, value in COEFFICIENTS.items()
        ]
        path.with_name("s_RPC.TXT").write_text("\n".join(lines) + "\n")
    check(path)
    with rasterio.open(path) as file:
        assert file.rpcs is not None


RPB = (
    *("lineOffset", "sampOffset", "latOffset", "longOffset", "heightOffset"),
    *("lineScale", "sampScale", "latScale", "longScale", "heightScale"),
    *("lineNumCoef", "lineDenCoef", "sampNumCoef", "sampDenCoef"),
)


@pytest.mark.parametrize(
    ("ending", "content", "said"),
    [
        (".tfw", "0\n0\n0\n0\n1\n2\n", "s.tfw beside the image is no world file"),
        (".tfw", "nonsense", "s.tfw beside the image is no world file"),
        (".prj", "GEOGCS[]", "s.prj beside the image is not read"),
        (".tab", "!table", "s.tab (MapInfo) beside the image is not read"),
        (".tif.aux.xml", "<PAMDataset><SRS", "s.tif.aux.xml beside the image is damaged"),
        (".tif.aux.xml", '<!DOCTYPE x [<!ENTITY a "b">]><PAMDataset/>', "s.tif.aux.xml beside the image is damaged"),
        (".tif.aux.xml", "<PAMDataset><SRS>PROJCS[</SRS></PAMDataset>", "the CRS in s.tif.aux.xml is not understood"),
        (".tif.aux.xml", "<PAMDataset><GeoTransform>1,2</GeoTransform></PAMDataset>", "geotransform in s.tif.aux.xml"),
    ],
)
def test_what_is_not_read_is_said(ending: str, content: str, said: str, tmp_path: Path) -> None:
    path = tif(tmp_path / "s.tif", None)
    path.with_name(f"s{ending}").write_text(content)
    assert any(said in note for note in inspect(path).notes)


def test_a_place_without_a_system_has_no_size_in_metres(tmp_path: Path) -> None:
    """The dots per inch of a scanner or of paper are no size on the ground."""
    path = tif(tmp_path / "s.tif", None, resolution=(50_000, 50_000), resolutionunit=2)
    assert inspect(path).resolution is not None
    world(path)
    info = check(path)
    assert info.resolution is None
    assert any("a place and no CRS" in note for note in info.notes)


@pytest.mark.parametrize("suffix", [".jpg", ".png"])
def test_pictures_with_a_world_file(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"s{suffix}"
    values = np.arange(192, dtype=np.uint8).reshape(8, 8, 3)
    with rasterio.open(
        path, "w", driver="JPEG" if suffix == ".jpg" else "PNG", width=8, height=8, count=3, dtype="uint8"
    ) as f:
        f.write(values.transpose(2, 0, 1))
    for beside in path.parent.glob("*.aux.xml"):
        beside.unlink()
    assert inspect(path).geo_tags == ()
    world(path, f".{suffix[1]}{suffix[-1]}w")
    check(path)
    pam(path, srs="EPSG:32633")
    info = check(path)
    assert info.resolution is not None


CODES = (
    *("EPSG:32640", "EPSG:4326", "EPSG:27700", "EPSG:2056", "EPSG:3857", "EPSG:3035", "EPSG:2263", "EPSG:8857"),
    *("EPSG:3031", "EPSG:5041", "EPSG:28992", "EPSG:3395", "EPSG:2046", "EPSG:3078", "EPSG:27200", "EPSG:5513"),
    *("EPSG:4617", "EPSG:27572", "EPSG:6933", "EPSG:5514", "EPSG:32640+5773"),
    *("ESRI:102022", "ESRI:54009", "ESRI:102008", "ESRI:102003", "ESRI:102020", "ESRI:54003", "ESRI:54030"),
    *("ESRI:53027", "ESRI:54029", "ESRI:54008", "ESRI:102017", "ESRI:54002", "ESRI:104905", "ESRI:102034"),
    *("ESRI:102001", "ESRI:102010", "ESRI:102016", "ESRI:54004", "ESRI:54012", "ESRI:103300", "ESRI:102113"),
    "+proj=aea +lat_1=20 +lat_2=30 +lat_0=25 +lon_0=55 +datum=WGS84",
    "+proj=aea +lat_1=20 +lat_2=30 +lat_0=25 +lon_0=55 +ellps=GRS80 +towgs84=1,2,3",
    "+proj=lcc +lat_1=33 +lat_2=45 +lat_0=39 +lon_0=-96 +ellps=GRS80 +units=us-ft",
    "+proj=stere +lat_0=90 +lat_ts=70 +lon_0=-45 +ellps=WGS84 +units=km",
    "+proj=moll +R=3396190",
    "+proj=geos +h=35785831 +lon_0=0 +sweep=x +datum=WGS84",
    "+proj=longlat +R=1737400",
    "+proj=tmerc +lat_0=40 +lon_0=3 +k=0.9996 +x_0=1000 +y_0=2000 +ellps=bessel",
    "+proj=omerc +lat_0=4 +lonc=115 +alpha=53 +k=0.99984 +gamma=53.13 +ellps=evrstSS",
    "+proj=sterea +lat_0=52 +lon_0=5 +k=0.9999 +x_0=155000 +y_0=463000 +ellps=bessel",
)


def renamed(text: str) -> pyproj.CRS:
    """Return the same reference system without its code and under another name, as an owner may define it."""
    definition = pyproj.CRS(text).to_json_dict()
    if "name" not in definition:
        return pyproj.CRS(text)
    for gone in ("id", "usages", "scope", "area", "bbox"):
        definition.pop(gone, None)
    definition["name"] = f"ours of {definition['name']}"
    if "conversion" in definition:
        definition["conversion"].pop("id", None)
    return pyproj.CRS.from_json_dict(definition)


def in_file(path: Path, wkt: str) -> rasterio.crs.CRS:
    facts = {"width": 8, "height": 8, "count": 1, "dtype": "uint8", "transform": rasterio.Affine(2, 0, 9, 0, -2, 8)}
    system = rasterio.crs.CRS.from_wkt(wkt)
    with rasterio.open(path, "w", driver="GTiff", crs=system, **facts) as file:
        file.write(np.zeros((1, 8, 8), np.uint8))
    return system


@pytest.mark.parametrize("own", [False, True], ids=["as is", "renamed"])
@pytest.mark.parametrize("text", CODES)
def test_a_system_is_known_by_its_whole_definition(text: str, own: bool, tmp_path: Path) -> None:  # noqa: FBT001
    crs = renamed(text) if own else pyproj.CRS(text)
    system = in_file(tmp_path / "s.tif", crs.to_wkt())
    info = inspect(tmp_path / "s.tif")
    assert info.crs is not None
    with rasterio.open(tmp_path / "s.tif") as file:
        assert same_crs(info.crs, file.crs.to_wkt())
    assert same_crs(info.crs, system.to_wkt())


@pytest.mark.parametrize("text", CODES)
def test_a_system_that_tags_are_made_for_is_read_back_by_gdal(text: str, tmp_path: Path) -> None:
    for crs in (pyproj.CRS(text), renamed(text)):
        tags = [(*tag, True) for tag in tags_of_crs(crs)]
        tifffile.imwrite(tmp_path / "s.tif", np.zeros((8, 8), np.uint8), extratags=tags, metadata=None)
        with rasterio.open(tmp_path / "s.tif") as file:
            wanted = rasterio.crs.CRS.from_wkt(crs.to_wkt())
            # Two of these have no word in WKT 1, which GDAL goes through to compare them.
            assert file.crs == wanted or file.crs.to_wkt() == wanted.to_wkt()
        found = inspect(tmp_path / "s.tif").crs
        assert found is not None
        assert same_crs(found, crs.to_wkt())


def test_systems_of_one_base_are_not_one() -> None:
    africa, world_map = pyproj.CRS("ESRI:102022"), pyproj.CRS("ESRI:54009")
    assert spelled(africa) == "ESRI:102022"
    assert not same_crs(spelled(africa), "EPSG:4326")
    assert not same_crs(spelled(africa), spelled(world_map))
    assert same_crs(renamed("ESRI:102022").to_wkt(), "ESRI:102022")
    assert same_crs("EPSG:4326", "OGC:CRS84")
    other = pyproj.CRS("+proj=aea +lat_1=20 +lat_2=-23 +lat_0=0 +lon_0=25.5 +datum=WGS84").to_wkt()
    assert not same_crs(other, "ESRI:102022")


def test_a_code_that_a_definition_does_not_deserve(tmp_path: Path) -> None:
    """A WKT text may keep the code of the system from which it was changed."""
    wkt = pyproj.CRS("EPSG:32640").to_wkt("WKT1_GDAL").replace('"central_meridian",57', '"central_meridian",58')
    path = tif(tmp_path / "s.tif", None, scale=SCALE, tie=TIE)
    path.with_name("s.tif.aux.xml").write_text(f"<PAMDataset><SRS>{escape(wkt)}</SRS></PAMDataset>")
    info = inspect(path)
    assert info.crs != "EPSG:32640"
    assert info.crs is not None
    assert "without a code" in label(info.crs)


@pytest.mark.parametrize(
    ("directory", "said"),
    [
        (keys(m=1, r=1, g=4326, p=32767) | {3075: 99}, "projection method 99"),
        (keys(m=1, r=1, p=54009), "CRS in the file is not understood"),
        (keys(m=32767, r=1), "a local system"),
        (keys(m=2, r=1, g=32767), "without a datum or an ellipsoid"),
    ],
)
def test_a_system_that_is_not_understood_is_said(directory: dict[int, int], said: str, tmp_path: Path) -> None:
    info = inspect(tif(tmp_path / "s.tif", directory, scale=SCALE, tie=TIE))
    assert info.crs is None
    assert any(said in note for note in info.notes)


@pytest.mark.parametrize(
    "directory",
    [
        keys(m=1, r=1, p=UTM, u=9002),
        keys(m=1, r=1, p=26910, u=9003),
        keys(m=1, r=1, p=28992, g=4326),
        keys(r=1, p=UTM),
        keys(m=1, r=1, p=4326),
        keys(m=2, r=1, g=32640),
        keys(m=2, r=1, g=4326, p=UTM),
        keys(m=1, r=1, g=4258, p=32767) | {3074: 16033},
        keys(m=1, r=1, g=4258, p=32767, u=9002) | {3074: 16033},
    ],
)
def test_odd_keys_mean_what_gdal_takes_them_for(directory: dict[int, int], tmp_path: Path) -> None:
    check(tif(tmp_path / "s.tif", directory, scale=SCALE, tie=TIE))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_georeferenced_image_is_not_turned(orientation: int, tmp_path: Path) -> None:
    values = np.arange(48, dtype=np.uint8).reshape(6, 8)
    turned = [(274, 3, 1, orientation, True)]
    place = [(34735, 3, 16, (1, 1, 0, 3, 1024, 0, 1, 1, 1025, 0, 1, 1, 3072, 0, 1, UTM), True)]
    for name, tags in (("free", turned), ("placed", turned + place)):
        tifffile.imwrite(tmp_path / f"{name}.tif", values, extratags=tags, metadata=None)
    world(tmp_path / "beside.tif")
    tifffile.imwrite(tmp_path / "beside.tif", values, extratags=turned, metadata=None)
    for name, stays in (("placed", True), ("beside", True), ("free", orientation == 1)):
        path = tmp_path / f"{name}.tif"
        for read in (pixels, labels):
            found = read(path)
            with rasterio.open(path) as file:
                assert np.array_equal(found, file.read(1)) == stays
        said = "ignored, as GDAL does" if stays else "was applied"
        assert any(said in note for note in inspect(path).notes) == (orientation != 1)


def pixels(path: Path) -> np.ndarray:
    with open_image(path) as image:
        size = image.info.size
        return image.read([Request(pitch=LEVEL0, box=Box.whole(size))])[0].pixels[:, :, 0]


def labels(path: Path) -> np.ndarray:
    with open_labels(path) as image:
        return image.read(Box.whole(image.size))


@pytest.mark.full
@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
def test_systems_of_the_registers_are_read_as_gdal_reads_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """GDAL writes every sixteenth system of EPSG and ESRI, as registered and renamed.

    A few differ because GDAL has another version of the register, or because GDAL misreads what it wrote (meridians in
    grads, heights in the base).
    """
    monkeypatch.setenv("GDAL_PAM_ENABLED", "NO")
    counts = {"same": 0, "other": 0, "unknown": 0, "unknown to both": 0}
    for authority, kind in product(("EPSG", "ESRI"), (PJType.PROJECTED_CRS, PJType.GEOGRAPHIC_2D_CRS)):
        for entry in sorted(query_crs_info(authority, kind), key=lambda entry: entry.code)[::16]:
            for crs in (pyproj.CRS.from_authority(authority, entry.code), renamed(f"{authority}:{entry.code}")):
                counts[verdict(crs, tmp_path / "s.tif")] += 1
    assert sum(counts.values()) > 850
    assert counts["unknown"] == 0
    assert counts["other"] < 0.02 * counts["same"]


def verdict(crs: pyproj.CRS, path: Path) -> str:
    """Compare GDAL's reading of the keys that it wrote with that of this program, in one word."""
    try:
        in_file(path, crs.to_wkt())
    except (rasterio.errors.CRSError, rasterio.errors.RasterioError):
        return "unknown to both"
    found = inspect(path).crs
    with rasterio.open(path) as file:
        if file.crs is None or file.crs.to_wkt().startswith("LOCAL_CS"):
            return "unknown to both" if found is None else "other"
        if found is None:
            return "unknown"
        return "same" if same_crs(found, file.crs.to_wkt()) else "other"
