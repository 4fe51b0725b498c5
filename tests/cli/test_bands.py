"""Every command that reads images has `--bands` and `--value-range`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import tifffile

from magnet_cli.images import percentiles
from tests.cli.support import expected_labels, invoke, invoke_json, one_failure, write_image

if TYPE_CHECKING:
    from numpy.typing import NDArray

WORDS = ("--bands", "3,2,1", "--value-range", "0,10000")


@pytest.fixture
def reflectance(here: Path) -> Path:
    """Write `r.tif` with blue, green, red and near infrared from 0 to 10000 in 16 bits. A few pixels are brighter."""
    seen = tifffile.imread(write_image(here / "rgb.tif")).astype(np.uint16)
    values = np.concatenate([seen[:, :, ::-1] * 39, np.full((*seen.shape[:2], 1), 9999, np.uint16)], axis=2)
    values[5:9, 5:9, :3] = (20000, 30000, 60000)
    tifffile.imwrite(here / "r.tif", values, photometric="minisblack", planarconfig="contig", tile=(64, 64))
    return Path("r.tif")


def labels(path: str) -> NDArray[np.uint8]:
    found: NDArray[np.uint8] = tifffile.imread(path)
    return found


def as_expected(found: NDArray[np.uint8]) -> float:
    return float((found[10:] == expected_labels()[10:]).mean())


def test_bands_and_values_are_the_users(reflectance: Path, bundle: Path) -> None:
    invoke("segment", "rgb.tif", "--weights", bundle, "-o", "plain.tif")
    found = invoke_json("segment", reflectance, "--weights", bundle, *WORDS)
    assert as_expected(labels("r.mask.tif")) > 0.95
    assert as_expected(labels("r.mask.tif")) == as_expected(labels("plain.tif"))
    report = found["images"][0]["report"]
    assert report["options"]["bands"] == [
        {"name": name, "band": band, "of_image": f"band{band}", "low": 0, "high": 10000}
        for name, band in (("red", 3), ("green", 2), ("blue", 1))
    ]
    assert report["options"]["value_range"] == "0,10000"
    words = report["command"]
    assert [words[words.index(name) + 1] for name in ("--bands", "--value-range")] == ["3,2,1", "0,10000"]
    assert "already done" in invoke("segment", reflectance, "--weights", bundle, *WORDS).stderr
    other = invoke("segment", reflectance, "--weights", bundle, "--bands", "1,2,3", "--value-range", "0,10000")
    assert other.exit_code == 5
    names = invoke("segment", reflectance, "-o", "n.tif", "--weights", bundle, "--bands", "band3,BAND2,1", *WORDS[2:])
    assert names.exit_code == 0
    np.testing.assert_array_equal(labels("n.tif"), labels("r.mask.tif"))


def test_values_beyond_the_range_are_its_end(here: Path, bundle: Path) -> None:
    """A value beyond the end of the range counts as its end: red at twice the end equals green at the end."""
    values = np.zeros((64, 96, 3), np.uint16)
    values[:, :48] = (30000, 10000, 0)
    values[:, 48:] = (9000, 9999, 0)
    tifffile.imwrite(here / "x.tif", values, photometric="rgb", tile=(32, 32))
    invoke("segment", "x.tif", "--weights", bundle, "--value-range", "0,65535", "-o", "wide.tif")
    invoke(
        "segment", "x.tif", "--weights", bundle, "--value-range", "0,10000", "-o", "clamped.tif", "--method", "patch"
    )
    assert (labels("wide.tif")[:, :32] == 0).all()
    found = labels("clamped.tif")
    # Both bands are at the end of the range: the lower class of two that are as likely.
    assert (found[:, :32] == 0).all()
    assert (found[:, 64:] == 1).all()


def test_the_environment_names_them_too(reflectance: Path, bundle: Path) -> None:
    env = {"MAGNET_BANDS": "3,2,1", "MAGNET_VALUE_RANGE": "0,10000", "MAGNET_WEIGHTS": str(bundle)}
    assert invoke("segment", reflectance, env=env).exit_code == 0
    assert as_expected(labels("r.mask.tif")) > 0.95


def test_what_does_not_fit_is_refused_with_both_sides_and_the_option(reflectance: Path, bundle: Path) -> None:
    missing = invoke("segment", reflectance, "--weights", bundle)
    assert missing.exit_code == 4
    line = one_failure(missing)
    assert "needs bands red, green, blue and the image has band1, band2, band3, band4" in line
    assert "--bands" in line
    values = invoke("segment", reflectance, "--weights", bundle, "--bands", "3,2,1")
    assert values.exit_code == 4
    line = one_failure(values)
    assert "needs values from 0 to 255, stored as uint8, and the image stores uint16, 0 to 65535" in line
    assert "--value-range" in line
    count = invoke("segment", reflectance, "--weights", bundle, "--bands", "3,2")
    assert count.exit_code == 2
    assert "reads 3 bands, red, green, blue, and --bands names 2" in one_failure(count)
    lacking = invoke("segment", reflectance, "--weights", bundle, "--bands", "5,nir,1")
    assert lacking.exit_code == 3
    assert "its bands are 1 to 4: band1, band2, band3, band4 (got --bands 5)" in one_failure(lacking)
    assert not Path("r.mask.tif").exists()


def test_a_plan_says_what_the_network_sees(reflectance: Path, bundle: Path) -> None:
    text = invoke("plan", reflectance, "--weights", bundle, *WORDS).stdout
    assert "input: band3, band2, band1, values from 0 to 10000" in text
    percent = ("--bands", "3,2,1", "--value-range", "2%,98%")
    first, second = (
        invoke_json("plan", reflectance, "--weights", bundle, *percent, *more)["images"][0]
        for more in ((), ("--memory", "2GiB", "--num-workers", "0"))
    )
    assert first["bands"] == second["bands"]
    assert first["value_range"] == "2%,98%"
    stored: Any = tifffile.imread(reflectance)
    for entry in first["bands"]:
        expected = np.percentile(stored[:, :, entry["band"] - 1], (2, 98))
        assert (entry["low"], entry["high"]) == tuple(expected)
    assert any(note.startswith("--value-range 2%,98% of this image: band3 ") for note in first["notes"])


def test_percentiles_are_found_again_and_reported(
    reflectance: Path, bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ("segment", reflectance, "--weights", bundle, "--bands", "3,2,1", "--value-range", "2%,98%")
    found = invoke_json(*words)["images"][0]["report"]
    assert as_expected(labels("r.mask.tif")) > 0.9
    assert all(0 <= entry["low"] < 1000 < entry["high"] for entry in found["options"]["bands"])
    assert any("2%,98% of this image" in note for note in found["notes"])
    assert "already done" in invoke(*words, "--num-workers", "0").stderr
    monkeypatch.setattr(percentiles, "MOST_PIXELS", 1000)
    monkeypatch.setattr(percentiles, "PLACE_SIDE", 3)
    assert invoke(*words).exit_code == 5


def test_a_picture_that_is_decoded_once_has_percentiles(here: Path, bundle: Path) -> None:
    from PIL import Image  # noqa: PLC0415 (this test alone needs it)

    Image.fromarray(tifffile.imread(write_image(here / "s.tif"))).save("s.png")
    words = ("segment", "s.png", "-o", "new/m.tif", "--weights", bundle, "--value-range", "0%,100%")
    assert invoke(*words).exit_code == 0
    assert as_expected(labels("new/m.tif")) > 0.95
    assert sorted(path.name for path in Path("new").iterdir()) == ["m.json", "m.tif"]


def test_labelled_images_are_read_the_same(reflectance: Path, bundle: Path, here: Path) -> None:
    tifffile.imwrite(here / "truth.tif", expected_labels())
    (here / "set.csv").write_text(f"image,label\n{reflectance},truth.tif\n")
    words = ("evaluate", "--data", "set.csv", "--weights", bundle, "--methods", "patch", "--no-mba")
    assert invoke(*words).exit_code != 0
    assert invoke_json(*words, *WORDS)["images"][0]["pixel_accuracy"] > 0.9
    assert "--bands goes with --data" in invoke("evaluate", "truth.tif", "truth.tif", "--bands", "1").stderr


def test_bands_are_shown_by_number_and_name(reflectance: Path) -> None:
    assert "4 bands (band1, band2, band3, band4), uint16" in invoke("info", reflectance).stdout
    assert "3 bands (1 red, 2 green, 3 blue), uint8" in invoke("info", "rgb.tif").stdout


def test_the_picture_shows_what_the_network_saw(reflectance: Path, bundle: Path) -> None:
    assert invoke("segment", reflectance, "--weights", bundle, *WORDS, "--overlay", "--html").exit_code == 0
    import imagecodecs  # noqa: PLC0415

    drawn = imagecodecs.png_decode(Path("r.mask.overlay.png").read_bytes())
    scale = 640 // 150
    drawn = drawn[: 110 * scale : scale, : 150 * scale : scale].astype(float)
    colours = np.array([(255, 0, 0), (0, 255, 0), (0, 0, 255)], float)[labels("r.mask.tif")]
    seen = 2 * drawn - colours
    image = tifffile.imread(reflectance)[:, :, 2::-1].clip(0, 10000) / 10000 * 255
    np.testing.assert_allclose(seen, image, atol=2)
    assert "red: band 3 (band3), 0 to 10000" in Path("r.mask.html").read_text()
