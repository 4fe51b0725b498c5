"""Corrections that are drawn on the page: the one request that writes, what it refuses, and the file that it makes."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import shapely
import tifffile
from starlette.testclient import TestClient

from magnet_cli import images
from magnet_cli.areas.features import read_labelled_areas
from magnet_cli.errors import OutputError, SourceError
from magnet_cli.evaluation.mask_scores import check_inputs, evaluate
from magnet_cli.exports.corrections import corrections_path
from magnet_cli.geometry import Box
from magnet_cli.images import fingerprint
from magnet_cli.options.evaluate import EvaluationOptions
from magnet_cli.report.viewer import application, mask_corrections
from magnet_cli.report.viewer.application import make_application
from magnet_cli.report.viewer.exhibit import open_exhibit
from magnet_cli.report.viewer.mask_corrections import MaskCorrections
from tests.exports.support import CLASSES, write_mask
from tests.report.viewer.conftest import SIZE
from tests.report.viewer.growth import GrowingMask
from tests.report.viewer.support import SECRET

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from numpy.typing import NDArray

HERE = "http://127.0.0.1:8000"
NAMES = [entry.name for entry in CLASSES]
SQUARE = {"label": 2, "polygons": [[[[100, 200], [140, 200], [140, 260], [100, 260]]]]}
BEYOND = [[[[400, 500], [460, 500], [460, 540], [400, 540]]]]
STROKE = {"label": 1, "line": [[500, 500], [600, 500]], "width": 20}
HEADERS = {"origin": HERE, "content-type": "application/json"}


@pytest.fixture
def own(image: Path, labels: NDArray[np.uint8], tmp_path: Path) -> Path:
    """Write a mask into a folder of its own."""
    return write_mask(tmp_path / "m.tif", labels, resolution=None, made_of=fingerprint(image))


@pytest.fixture
def client(image: Path, own: Path) -> Iterator[TestClient]:
    """A client of the page that shows the mask."""
    with open_exhibit(str(image), [own]) as exhibit:
        yield TestClient(make_application(exhibit, SECRET), base_url=HERE)


def send(client: TestClient, *corrections: Any, revision: str = "", headers: dict[str, str] | None = None) -> Any:
    return client.post(
        f"/{SECRET}/corrections/0",
        content=json.dumps({"revision": revision, "corrections": corrections}),
        headers=HEADERS if headers is None else headers,
    )


def file_of(mask: Path) -> Path:
    return mask.with_name("m.corrections.geojson")


def test_what_is_drawn_is_saved_beside_the_mask_and_loaded_again(client: TestClient, image: Path, own: Path) -> None:
    assert client.get(f"/{SECRET}/state.json").json()["masks"][0]["corrections"] == "m.corrections.geojson"
    first = client.get(f"/{SECRET}/corrections/0").json()
    assert first == {"file": "m.corrections.geojson", "revision": "", "corrections": []}
    assert not file_of(own).exists()
    answer = send(client, SQUARE, STROKE)
    assert answer.status_code == 200, answer.text
    found = answer.json()
    assert [entry["label"] for entry in found["corrections"]] == [2, 1]
    assert found["corrections"][0]["area"] == 40 * 60
    stroke = shapely.Polygon(found["corrections"][1]["polygons"][0][0])
    assert stroke.area == pytest.approx(100 * 20 + math.pi * 100, rel=0.02)
    assert stroke.bounds == pytest.approx((490, 490, 610, 510), abs=0.3)
    with open_exhibit(str(image), [own]) as again:
        assert again.corrections[0] is not None
        assert again.corrections[0].read() == found
    # The next change is based on this one. One that is based on an older file is not saved.
    assert send(client, SQUARE).status_code == 409
    assert send(client, SQUARE, revision=found["revision"]).status_code == 200
    assert len(client.get(f"/{SECRET}/corrections/0").json()["corrections"]) == 1
    now = client.get(f"/{SECRET}/corrections/0").json()["revision"]
    assert send(client, revision=now).json()["corrections"] == []
    assert client.get(f"/{SECRET}/corrections/0").json()["corrections"] == []
    assert [path.name for path in own.parent.iterdir() if "corrections" in path.name] == ["m.corrections.geojson"]


def test_on_a_map_the_file_has_the_coordinates_of_the_map(client: TestClient, image: Path, own: Path) -> None:
    assert send(client, SQUARE).status_code == 200
    document = json.loads(file_of(own).read_text(encoding="utf-8"))
    assert document["crs"]["properties"]["name"] == "urn:ogc:def:crs:EPSG::32633"
    (feature,) = document["features"]
    assert feature["properties"]["class"] == "water"
    assert feature["properties"]["label"] == 2
    ring = np.array(feature["geometry"]["coordinates"][0])
    # A pixel is half a metre, and the corner lies at 400000, 5000000.
    assert (ring.min(axis=0) == (400050, 5000000 - 130)).all()
    assert (ring.max(axis=0) == (400070, 5000000 - 100)).all()
    assert shapely.Polygon(ring).exterior.is_ccw
    areas, _ = read_labelled_areas(str(file_of(own)), images.inspect(image), NAMES)
    assert areas[0].geometry.equals_exact(shapely.MultiPolygon([shapely.box(100, 200, 140, 260)]), 1e-6, normalize=True)


def test_elsewhere_the_file_has_pixels_as_qupath_counts_them(image: Path, own: Path) -> None:
    info = replace(images.inspect(image), crs=None, geo_tags=(), bounds=Box(x=30, y=50, width=1000, height=900))
    drawn = MaskCorrections(own, info, CLASSES)
    found = drawn.write({"revision": "", "corrections": [SQUARE]})
    document = json.loads(file_of(own).read_text(encoding="utf-8"))
    assert "crs" not in document
    (feature,) = document["features"]
    assert feature["properties"]["objectType"] == "annotation"
    assert feature["properties"]["classification"] == {"name": "water", "color": [0, 0, 255]}
    ring = np.array(feature["geometry"]["coordinates"][0])
    assert (ring.min(axis=0) == (70, 150)).all()
    assert drawn.read() == found
    assert found["corrections"][0]["polygons"][0][0][0] in [[100, 200], [140, 200], [140, 260], [100, 260]]  # type: ignore[index]


def test_longitude_and_latitude_are_read_as_they_were_written(image: Path, own: Path) -> None:
    tags = ((33550, 12, 3, (1e-5, 1e-5, 0.0)), (33922, 12, 6, (0.0, 0.0, 0.0, 11.5, 48.1, 0.0)))
    drawn = MaskCorrections(own, replace(images.inspect(image), crs="EPSG:4326", geo_tags=tags), CLASSES)
    found = drawn.write({"revision": "", "corrections": [SQUARE, STROKE]})
    document = json.loads(file_of(own).read_text(encoding="utf-8"))
    assert "crs" not in document
    west, south, east, north = shapely.from_geojson(json.dumps(document["features"][0]["geometry"])).bounds
    assert (west, east) == pytest.approx((11.501, 11.5014))
    assert (south, north) == pytest.approx((48.1 - 0.0026, 48.1 - 0.002))
    again = drawn.read()
    for one, other in zip(found["corrections"], again["corrections"], strict=True):  # type: ignore[call-overload]
        shapes = [shapely.Polygon(each["polygons"][0][0]) for each in (one, other)]
        assert shapes[0].symmetric_difference(shapes[1]).area < 1e-3


@pytest.mark.parametrize("crs", ["EPSG:4326", "OGC:CRS84"])
def test_corrections_stay_where_they_are_beyond_180_degrees(image: Path, own: Path, crs: str) -> None:
    tags = ((33550, 12, 3, (1e-3, 1e-3, 0.0)), (33922, 12, 6, (0.0, 0.0, 0.0, 179.88, 60.0, 0.0)))
    drawn = MaskCorrections(own, replace(images.inspect(image), crs=crs, geo_tags=tags), CLASSES)
    # The first shape crosses the meridian of 180 degrees, and the second one lies wholly beyond it.
    drawn.write({"revision": "", "corrections": [SQUARE, {**SQUARE, "polygons": BEYOND}]})
    shapes = [shapely.Polygon(each["polygons"][0][0]) for each in drawn.read()["corrections"]]  # type: ignore[attr-defined]
    assert [shape.bounds for shape in shapes] == [
        pytest.approx((100, 200, 140, 260), abs=0.02),
        pytest.approx((400, 500, 460, 540), abs=0.02),
    ]


def test_a_mask_without_the_bounds_of_the_slide_is_scored_where_something_was_drawn(
    image: Path, labels: NDArray[np.uint8], tmp_path: Path
) -> None:
    info = replace(images.inspect(image), crs=None, geo_tags=(), bounds=Box(x=30, y=50, width=1000, height=900))
    right = labels.copy()
    right[200:260, 100:140] = 2
    tifffile.imwrite(tmp_path / "foreign.tif", right)
    drawn = MaskCorrections(tmp_path / "foreign.tif", info, CLASSES)
    drawn.write({"revision": "", "corrections": [SQUARE]})
    names = EvaluationOptions(names=tuple(NAMES))
    found = evaluate(tmp_path / "foreign.tif", drawn.path, names)
    assert (found.labelled, found.right) == (40 * 60, 40 * 60)
    # The other way round: a mask of a slide with bounds, and corrections of an image without.
    MaskCorrections(tmp_path / "foreign.tif", replace(info, bounds=None), CLASSES).write(
        {"revision": drawn.read()["revision"], "corrections": [SQUARE]}
    )
    (areas, _) = read_labelled_areas(str(drawn.path), info, NAMES)
    assert areas[0].geometry.bounds == (100, 200, 140, 260)


@pytest.mark.parametrize("bounds", ["[1]", "7", "[1,2,3,1e999]", '["1",2,3,4]', "[-1,0,1,1]"])
def test_damaged_bounds_are_refused(image: Path, own: Path, bounds: str) -> None:
    info = replace(images.inspect(image), crs=None, geo_tags=())
    drawn = MaskCorrections(own, info, CLASSES)
    drawn.write({"revision": "", "corrections": [SQUARE]})
    text = drawn.path.read_text(encoding="utf-8")
    drawn.path.write_text(text.replace('"bounds":null', f'"bounds":{bounds}'), encoding="utf-8")
    with pytest.raises(SourceError, match="bounds of corrections"):
        drawn.read()


def test_classes_that_qupath_ignores_can_be_corrected(image: Path, own: Path) -> None:
    info = replace(images.inspect(image), crs=None, geo_tags=())
    classes = (*CLASSES[:2], replace(CLASSES[2], name="artefact*"))
    found = MaskCorrections(own, info, classes).write({"revision": "", "corrections": [STROKE, SQUARE]})
    assert [entry["label"] for entry in found["corrections"]] == [1, 2]  # type: ignore[attr-defined]
    assert MaskCorrections(own, info, classes).read() == found


def test_corrections_of_another_image_of_this_size_do_not_score_a_mask(
    image: Path, own: Path, labels: NDArray[np.uint8], tmp_path: Path
) -> None:
    info = replace(images.inspect(image), crs=None, geo_tags=())
    MaskCorrections(own, info, CLASSES).write({"revision": "", "corrections": [SQUARE]})
    assert evaluate(own, file_of(own)).labelled == 40 * 60
    other = write_mask(tmp_path / "other.tif", labels, resolution=None, made_of="0" * 64)
    for truth, corrections in ((file_of(own), None), (own, file_of(own))):
        with pytest.raises(SourceError, match="drawn on another image"):
            evaluate(other, truth, corrections=corrections)
    check_inputs(image, file_of(own), roi=None, names=NAMES)
    copy = tmp_path / "other image.tif"
    copy.write_bytes(image.read_bytes() + b"another")
    for truth, corrections in ((file_of(own), None), (own, file_of(own))):
        with pytest.raises(SourceError, match="drawn on another image"):
            check_inputs(copy, truth, roi=None, corrections=corrections, names=NAMES)


def test_masks_of_one_stem_have_files_of_their_own(tmp_path: Path) -> None:
    names = [corrections_path(tmp_path / name).name for name in ("q.tif", "q.tiff", "q.png", "q.ome.tif")]
    assert names[0] == "q.corrections.geojson"
    assert len(set(names)) == 4
    assert all(name.endswith(".corrections.geojson") for name in names)


def test_shapes_are_cut_at_the_edge_and_made_valid(client: TestClient) -> None:
    beyond = {"label": 0, "polygons": [[[[-50, -50], [20, -50], [20, 10], [-50, 10]]]]}
    bow = {"label": 1, "polygons": [[[[100, 100], [200, 200], [200, 100], [100, 200]]]]}
    hole = {
        "label": 1,
        "polygons": [[[[300, 300], [400, 300], [400, 400], [300, 400]], [[340, 340], [360, 340], [360, 360]]]],
    }
    dot = {"label": 2, "line": [[50, 900]], "width": 10}
    found = send(client, beyond, bow, hole, dot).json()["corrections"]
    assert found[0]["area"] == 20 * 10
    assert found[1]["area"] == 5000
    assert len(found[1]["polygons"]) == 2
    assert found[2]["area"] == 10000 - 200
    assert len(found[2]["polygons"][0]) == 2
    assert found[3]["area"] == pytest.approx(math.pi * 25, rel=0.05)
    assert (
        send(client, *found, revision=client.get(f"/{SECRET}/corrections/0").json()["revision"]).json()["corrections"]
        == found
    )


@pytest.mark.parametrize(
    "headers",
    [
        {"content-type": "application/json"},
        {**HEADERS, "origin": "http://evil.example"},
        {**HEADERS, "origin": "null"},
        {**HEADERS, "origin": "http://127.0.0.1:9000"},
        {**HEADERS, "origin": "https://127.0.0.1:8000"},
        {**HEADERS, "sec-fetch-site": "cross-site"},
        {**HEADERS, "sec-fetch-site": "same-site"},
        {**HEADERS, "host": "evil.example", "origin": "http://evil.example"},
    ],
)
def test_other_pages_cannot_write(client: TestClient, own: Path, headers: dict[str, str]) -> None:
    assert send(client, SQUARE, headers=headers).status_code == 403
    assert not file_of(own).exists()


@pytest.mark.parametrize(
    "media", ["text/plain", "application/x-www-form-urlencoded", "application/json; charset=utf-8"]
)
def test_only_json_is_taken_so_that_browsers_ask_before_they_send_it(client: TestClient, own: Path, media: str) -> None:
    assert send(client, SQUARE, headers={**HEADERS, "content-type": media}).status_code == 415
    assert not file_of(own).exists()


def test_nothing_else_can_be_written(client: TestClient, own: Path) -> None:
    for path in ("", "state.json", "at?x=1&y=1", "mask/0/0/0/0", "changes.json"):
        answer = client.post(f"/{SECRET}/{path}", content=b"{}", headers=HEADERS)
        assert (answer.status_code, answer.headers["allow"]) == (405, "GET"), path
    for method in ("PUT", "DELETE", "PATCH", "OPTIONS"):
        answer = client.request(method, f"/{SECRET}/corrections/0", headers=HEADERS)
        assert (answer.status_code, answer.headers["allow"]) == (405, "GET, POST")
    assert client.post("/wrong/corrections/0", content=b"{}", headers=HEADERS).status_code in (404, 405)
    for path in ("corrections/1", "corrections/../../x", "corrections/m.tif"):
        assert client.post(f"/{SECRET}/{path}", content=b"{}", headers=HEADERS).status_code in (404, 405)
    assert not file_of(own).exists()


def test_a_limit_says_how_to_go_on(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    square = {"label": 1, "polygons": [[[[1, 1], [9, 1], [9, 9], [1, 9]]]]}
    monkeypatch.setattr(mask_corrections, "MOST_POINTS", 3)
    assert "draw it in several parts" in send(client, square).text
    monkeypatch.undo()
    for limit in ("MOST_CORRECTIONS", "MOST_CORNERS"):
        monkeypatch.setattr(mask_corrections, limit, 1)
        answer = send(client, square, square)
        assert answer.status_code >= 400
        assert "Undo what you drew last, and go on in a GIS or in QuPath" in answer.text
        monkeypatch.undo()


def test_a_body_has_a_limit(client: TestClient, own: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(application, "LARGEST_BODY", 1000)
    assert send(client, *[SQUARE] * 20).status_code == 413
    assert not file_of(own).exists()
    assert send(client, SQUARE).status_code == 200


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"label": 3, "polygons": SQUARE["polygons"]}, "0 to 2"),
        ({"label": -1, "polygons": SQUARE["polygons"]}, "0 to 2"),
        ({"label": True, "polygons": SQUARE["polygons"]}, "0 to 2"),
        ({"label": "water", "polygons": SQUARE["polygons"]}, "0 to 2"),
        ({"label": 1}, "polygons"),
        ({"label": 1, "polygons": []}, "polygons"),
        ({"label": 1, "polygons": [[]]}, "3 corners"),
        ({"label": 1, "polygons": [[[[1, 1], [2, 2]]]]}, "3 corners"),
        ({"label": 1, "polygons": [[[[1, 1], [2, 2], [3, "x"]]]]}, "two numbers"),
        ({"label": 1, "polygons": [[[[1, 1], [2, 2], [1, 2, 3]]]]}, "two numbers"),
        ({"label": 1, "polygons": [[[[1, 1], [1e300, 2], [3, 1]]]]}, "two numbers"),
        ({"label": 1, "polygons": [[[[-9, -9], [-2, -9], [-2, -2]]]]}, "covers a part of the image"),
        ({"label": 1, "polygons": [[[[1, 1], [5, 5], [9, 9]]]]}, "covers a part of the image"),
        ({"label": 1, "line": [[10**400, 5]], "width": 5}, "two numbers"),
        ({"label": 1, "line": [[5, 5]], "width": 10**400}, "width"),
        ({"label": 1, "line": [], "width": 5}, "stroke"),
        ({"label": 1, "line": [[5, 5]], "width": 0}, "stroke"),
        ({"label": 1, "line": [[5, 5]], "width": 1e6}, "stroke"),
        ({"label": 1, "line": [[5, 5]]}, "width"),
        ({"label": 1, "line": [[-500, -500]], "width": 9}, "covers a part of the image"),
        ({"label": 1, "line": [[1, 1]] * 50_001, "width": 9}, "at most 50,000"),
        (["x"], "object"),
    ],
)
def test_wrong_corrections_are_refused_by_the_server(client: TestClient, own: Path, wrong: Any, message: str) -> None:
    answer = send(client, SQUARE, wrong)
    assert answer.status_code == 400
    assert message in answer.text
    assert "correction 2" in answer.text
    assert not file_of(own).exists()


@pytest.mark.parametrize(
    "body", [b"", b"{", b"[]", b"3", b'{"revision": ""}', b'{"corrections": []}', b"[" * 100_000, b"\xff"]
)
def test_bodies_that_are_no_request_are_refused(client: TestClient, own: Path, body: bytes) -> None:
    assert client.post(f"/{SECRET}/corrections/0", content=body, headers=HEADERS).status_code == 400
    assert (
        client.post(
            f"/{SECRET}/corrections/0", content=b'{"revision": "", "corrections": [{"label": NaN}]}', headers=HEADERS
        ).status_code
        == 400
    )
    assert not file_of(own).exists()


def test_files_of_other_programs_are_not_replaced(client: TestClient, own: Path) -> None:
    file_of(own).write_text('{"type": "FeatureCollection", "features": []}', encoding="utf-8")
    before = file_of(own).read_bytes()
    for answer in (client.get(f"/{SECRET}/corrections/0"), send(client, SQUARE)):
        assert answer.status_code == 400
        assert "another program" in answer.text
    assert file_of(own).read_bytes() == before
    file_of(own).unlink()
    file_of(own).symlink_to(own.with_name("elsewhere.geojson"))
    assert send(client, SQUARE).status_code == 500
    assert not own.with_name("elsewhere.geojson").exists()


def test_corrections_of_another_image_are_refused(client: TestClient, image: Path, own: Path) -> None:
    assert send(client, SQUARE).status_code == 200
    text = file_of(own).read_text(encoding="utf-8")
    file_of(own).write_text(text.replace(fingerprint(image), "0" * 64), encoding="utf-8")
    assert "another image" in client.get(f"/{SECRET}/corrections/0").text
    file_of(own).write_text(text.replace(f"[{SIZE.width},", "[77,"), encoding="utf-8")
    with pytest.raises(SourceError, match="another size"):
        read_labelled_areas(str(file_of(own)), images.inspect(image), NAMES)


def test_a_folder_that_cannot_be_written_keeps_the_page(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, data: bytes) -> None:
        del data
        raise OutputError("the output cannot be written", file=path)

    monkeypatch.setattr("magnet_cli.exports.corrections.durable.write_whole", full)
    answer = send(client, SQUARE)
    assert answer.status_code == 500
    assert "cannot be written" in answer.text


def test_rasters_without_names_have_no_corrections(image: Path, truth: Path) -> None:
    with open_exhibit(str(image), [truth]) as exhibit:
        client = TestClient(make_application(exhibit, SECRET), base_url=HERE)
        assert client.get(f"/{SECRET}/state.json").json()["masks"][0]["corrections"] is None
        assert send(client, SQUARE).status_code == 404


def test_a_mask_that_is_being_computed_can_be_corrected(image: Path, labels: NDArray[np.uint8], tmp_path: Path) -> None:
    with (
        GrowingMask.begin(tmp_path / "m.tif", image, labels, block=450) as run,
        open_exhibit(str(image), [run.path]) as exhibit,
    ):
        client = TestClient(make_application(exhibit, SECRET), base_url=HERE)
        assert send(client, SQUARE).status_code == 200
        run.finish()
        client.get(f"/{SECRET}/changes.json")
        assert len(client.get(f"/{SECRET}/corrections/0").json()["corrections"]) == 1
