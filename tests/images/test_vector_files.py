"""Files of polygons that are no GeoJSON are refused with the command that makes GeoJSON of them."""

from __future__ import annotations

import sqlite3
import struct
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
import rasterio

from magnet_cli.errors import MagnetError, SourceError, UsageError
from magnet_cli.evaluation.mask_scores import evaluate
from magnet_cli.images import inspect
from magnet_cli.images.labels import open_labels, open_region
from magnet_cli.images.sqlite_files import opened_sqlite
from magnet_cli.options.regions import parse_roi

NAMES = ("my areas.shp", "a.gpkg", "a.GPKG", "a.fgb", "a.kml", "a.gml", "a.shx.shp")


def polygons(path: Path) -> Path:
    """Write the beginning of a shapefile, a GeoPackage of features alone, or a text."""
    if path.suffix == ".shp":
        path.write_bytes(struct.pack(">7i", 9994, 0, 0, 0, 0, 0, 50) + struct.pack("<2i", 1000, 5) + bytes(64))
    elif path.suffix.lower() == ".gpkg":
        with closing(sqlite3.connect(path)) as base:
            base.execute("CREATE TABLE gpkg_contents (table_name TEXT, data_type TEXT)")
            base.execute("INSERT INTO gpkg_contents VALUES ('a', 'features')")
            base.commit()
    else:
        path.write_text("<kml></kml>")
    return path


def command(path: Path | str) -> str:
    quoted = f"'{path}'" if " " in str(path) else str(path)
    target = str(Path(path).with_suffix(".geojson"))
    target = f"'{target}'" if " " in target else target
    return f"ogr2ogr -f GeoJSON -t_srs EPSG:4326 {target} {quoted}; then give "


@pytest.mark.parametrize("name", NAMES)
def test_a_file_of_polygons_is_refused_with_the_command_that_converts_it(tmp_path: Path, name: str) -> None:
    path = polygons(tmp_path / name)
    for opened in (open_labels, open_region, inspect):
        with pytest.raises(SourceError, match="points, lines or polygons and no raster") as caught:
            opened(path)
        assert caught.value.file == str(path)
        assert command(path) in str(caught.value.advice)
        assert "names no reference system, add -s_srs" in str(caught.value.advice)
    with pytest.raises(UsageError, match=r"a \.geojson file") as refused:
        parse_roi(str(path))
    assert command(path) in str(refused.value.advice)


def test_a_truth_of_polygons_names_the_command(tmp_path: Path) -> None:
    with rasterio.open(
        tmp_path / "m.tif",
        "w",
        driver="GTiff",
        width=20,
        height=10,
        count=1,
        dtype="uint8",
        transform=rasterio.Affine(1, 0, 9, 0, -1, 9),
    ) as mask:
        mask.write(np.ones((10, 20), np.uint8), 1)
    truth = polygons(tmp_path / "t.gpkg")
    for roi in (None, polygons(tmp_path / "r.shp")):
        with pytest.raises(MagnetError) as caught:
            evaluate(tmp_path / "m.tif", truth if roi is None else tmp_path / "m.tif", roi=roi)
        assert command(roi or truth) in str(caught.value.advice)


def test_a_table_that_places_a_picture_holds_no_polygons(tmp_path: Path) -> None:
    table = '!table\n!version 300\n!charset WindowsLatin1\n\nDefinition Table\n  File "{}"\n  Type "{}"\n'
    (tmp_path / "a.tab").write_text(table.format(f"{'long' * 30}.tif", "RASTER"))
    with pytest.raises(SourceError, match=r"names a picture.*Give the picture") as caught:
        inspect(tmp_path / "a.tab")
    assert "ogr2ogr" not in str(caught.value)
    (tmp_path / "a.tab").write_text(table.format("a.dat", "NATIVE"))
    with pytest.raises(SourceError, match="points, lines or polygons and no raster"):
        inspect(tmp_path / "a.tab")


def test_nothing_is_written_beside_a_geopackage(tmp_path: Path) -> None:
    path = polygons(tmp_path / "a.gpkg")
    with closing(sqlite3.connect(path)) as base:
        base.execute("PRAGMA journal_mode=WAL")
    assert [file.name for file in tmp_path.iterdir()] == ["a.gpkg"]
    with pytest.raises(SourceError, match="points, lines or polygons and no raster"):
        inspect(path)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["a.gpkg"]
    # What a program that is still at work has written lies in the file -wal.
    with closing(sqlite3.connect(path)) as base:
        base.execute("INSERT INTO gpkg_contents VALUES ('b', 'tiles')")
        base.commit()
        with closing(opened_sqlite(str(path))) as reader:
            assert reader.execute("SELECT count(*) FROM gpkg_contents").fetchone() == (2,)


def test_a_geopackage_with_a_raster_is_an_image(tmp_path: Path) -> None:
    place = {"crs": "EPSG:3857", "transform": rasterio.Affine(0.6, 0, 3e5, 0, -0.6, 28e5)}
    shape = {"driver": "GPKG", "width": 20, "height": 10, "count": 3, "dtype": "uint8"}
    with rasterio.open(tmp_path / "a.gpkg", "w", **shape, **place) as file:
        file.write(np.ones((3, 10, 20), np.uint8))
    assert inspect(tmp_path / "a.gpkg").size.width == 20
    (tmp_path / "b.gpkg").write_bytes(b"no database")
    with pytest.raises(SourceError, match="cannot be opened"):
        inspect(tmp_path / "b.gpkg")
