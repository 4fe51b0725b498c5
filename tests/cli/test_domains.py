"""A bundle refuses images of another kind than it was trained on, unless the user insists."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

import numpy as np
import pytest
import tifffile
import torch

from magnet_cli import NetworkDescription, segment
from magnet_cli.errors import WeightsError
from magnet_cli.images import inspect
from magnet_cli.models.bundle import load_bundle
from magnet_cli.models.description import DESCRIPTION
from tests.cli.support import invoke, invoke_json, write_colours_bundle, write_image

if TYPE_CHECKING:
    from pathlib import Path

UNDETECTED = (
    "Tissue covers the whole image. No glass was recognised (the background is dark, strongly coloured, or covered): "
    "tissue is not detected. Nothing was left out."
)
GEO_SCALE = (33550, 12, 3, (0.5, 0.5, 0.0))
GEO_PLACE = (33922, 12, 6, (0.0, 0.0, 0.0, 500_000.0, 5_000_000.0, 0.0))
GEO_KEYS = (34735, 3, 16, (1, 1, 0, 3, 1024, 0, 1, 1, 1025, 0, 1, 1, 3072, 0, 1, 32633))


def of_domain(folder: Path, domain: object) -> Path:
    """Write a small bundle for a kind of image."""
    write_colours_bundle(folder)
    file = folder / DESCRIPTION
    file.write_text(json.dumps({**json.loads(file.read_text()), "domain": domain}))
    return folder


def pixels() -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    """Return red, green and blue stripes."""
    found = np.zeros((96, 120, 3), np.uint8)
    for band in range(3):
        found[:, 40 * band : 40 * (band + 1), band] = 200
    return found


def write_slide(path: Path) -> Path:
    """Write a slide as a scanner's program does."""
    text = "Aperio Image Library v11\r\n120x96 |AppMag = 20|MPP = 0.5"
    tifffile.imwrite(path, pixels(), tile=(32, 32), photometric="rgb", description=text, metadata=None)
    return path


def write_map(path: Path) -> Path:
    """Write a GeoTIFF in UTM."""
    tags = [(code, kind, count, value, True) for code, kind, count, value in (GEO_SCALE, GEO_PLACE, GEO_KEYS)]
    tifffile.imwrite(path, pixels(), tile=(32, 32), photometric="rgb", metadata=None, extratags=tags)
    return path


def write_microscope_pyramid(path: Path) -> Path:
    """Write an OME-TIFF of several levels whose pixels measure a quarter of a micrometre."""
    about = {"axes": "YXS", **{f"PhysicalSize{axis}": 0.25 for axis in "XY"}}
    with tifffile.TiffWriter(path, ome=True) as file:
        file.write(pixels(), tile=(32, 32), photometric="rgb", subifds=1, metadata=about)
        file.write(pixels()[::2, ::2], tile=(32, 32), photometric="rgb", subfiletype=1)
    return path


def test_readers_know_slides_and_maps_and_guess_nothing(tmp_path: Path) -> None:
    assert inspect(write_slide(tmp_path / "s.svs")).kind == "slide"
    assert inspect(write_microscope_pyramid(tmp_path / "o.ome.tif")).kind == "slide"
    assert inspect(write_map(tmp_path / "m.tif")).kind == "map"
    assert inspect(write_image(tmp_path / "plain.tif")).kind is None


@pytest.mark.parametrize(
    ("write", "name", "domain", "fitting"),
    [
        (write_slide, "s.svs", "aerial", "histology"),
        (write_slide, "s.svs", "fundus", "cytology"),
        (write_microscope_pyramid, "o.ome.tif", "satellite", "microscopy"),
        (write_map, "m.tif", "histology", "aerial"),
        (write_map, "m.tif", "fundus", "satellite"),
    ],
)
def test_another_domain_is_refused_with_the_option_that_insists(
    write: type[Path], name: str, domain: str, fitting: str, tmp_path: Path
) -> None:
    image = write(tmp_path / name)
    bundle, fits = of_domain(tmp_path / domain, domain), of_domain(tmp_path / fitting, fitting)
    words = ("segment", image, "-o", tmp_path / "masks", "--scales", "32", "--tissue", "none", "--weights")
    refused = invoke(*words, bundle)
    assert refused.exit_code == WeightsError.exit_code
    assert f"insist with --domain {domain}" in refused.stderr
    assert not list(tmp_path.glob("masks/*.tif"))
    assert invoke("plan", image, "--scales", "32", "--weights", bundle).exit_code == WeightsError.exit_code
    found = invoke(*words, bundle, "--domain", domain)
    assert found.exit_code == 0, found.stderr
    again = invoke(*words, fits, "--overwrite")
    assert again.exit_code == 0, again.stderr
    assert "the domain" not in again.stderr


def test_a_slide_has_no_default_bundle(tmp_path: Path) -> None:
    found = invoke("segment", write_slide(tmp_path / "s.svs"), "-o", tmp_path / "mask.tif")
    assert found.exit_code == WeightsError.exit_code
    assert "there is no default bundle for a microscope's slide" in found.stderr
    assert "--weights" in found.stderr
    assert "Using the default bundle" not in found.stderr
    assert not (tmp_path / "mask.tif").exists()


def test_the_default_bundle_is_named_once_where_it_is_used(tmp_path: Path) -> None:
    photos = [write_image(tmp_path / name, size=(40, 50)) for name in ("a.tif", "b.tif")]
    found = invoke("segment", *photos, "-o", tmp_path / "masks", "--method", "downsample")
    assert found.exit_code == 0, found.stderr
    said = [line for line in found.stderr.splitlines() if "default bundle" in line]
    assert said == [
        "Using the default bundle aerial (land cover in aerial photographs). Choose another with --weights."
    ]


def test_a_network_from_python_may_look_at_a_slide(tmp_path: Path) -> None:
    network = torch.nn.Conv2d(3, 3, 1)
    description = NetworkDescription(classes=3, size=32)
    result = segment(write_slide(tmp_path / "s.svs"), tmp_path / "m.tif", network=network, description=description)
    assert result[0].error is None


def test_what_is_not_known_is_said_in_one_line(tmp_path: Path) -> None:
    aerial, any_kind = of_domain(tmp_path / "aerial", "aerial"), write_colours_bundle(tmp_path / "any")
    photo, slide = write_image(tmp_path / "photo.tif"), write_slide(tmp_path / "s.svs")
    for image, bundle, lines in ((photo, aerial, 1), (slide, any_kind, 1), (photo, any_kind, 0)):
        words = ("--weights", bundle, "--scales", "32", "--overwrite", "--tissue", "none")
        found = invoke("segment", image, "-o", tmp_path / "masks", *words)
        assert found.exit_code == 0, found.stderr
        said = [line for line in found.stderr.splitlines() if "domain " in line]
        assert len(said) == lines, found.stderr
    insisted = invoke("segment", photo, "-o", tmp_path / "m.tif", "--weights", aerial, "--domain", "satellite")
    assert insisted.exit_code == 0
    assert "the domain" not in insisted.stderr
    other = invoke("segment", photo, "-o", tmp_path / "n.tif", "--weights", aerial, "--domain", "histology")
    assert other.exit_code == WeightsError.exit_code


def test_a_bundle_says_its_domain(tmp_path: Path) -> None:
    bundle = of_domain(tmp_path / "b", "histology")
    assert load_bundle(str(bundle)).domain == "histology"
    assert "domain: histology" in invoke("weights", "show", bundle).stdout
    assert invoke_json("weights", "show", bundle)["bundles"][0]["domain"] == "histology"
    for wrong in ("Kidney tissue", 3):
        with pytest.raises(WeightsError, match="domain must be"):
            load_bundle(str(of_domain(tmp_path / "wrong", wrong)))
    shipped = {entry["name"]: entry["domain"] for entry in invoke_json("weights", "list")["bundles"]}
    assert shipped == {"aerial": "aerial", "fundus": "fundus", "fundus-cascade": "fundus", "roofs-cascade": "aerial"}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            ("--tissue", "otsu", "--roi", "0,0,60,48"),
            [
                "--roi covers 25.0 % of the image; the rest is skipped.",
                UNDETECTED,
            ],
        ),
        (("--mask", "half.tif"), ["--mask covers 50.0 % of the image; the rest is skipped."]),
    ],
)
def test_the_share_of_the_image_that_is_segmented_is_shown(
    words: tuple[str, ...], said: list[str], here: Path, bundle: Path
) -> None:
    image = write_map(here / "map.tif")
    tifffile.imwrite(here / "half.tif", np.repeat(np.array([[0, 1]], np.uint8), 2, axis=0))
    found = invoke("segment", image, "-o", "m.tif", "--weights", bundle, *words)
    assert found.exit_code == 0, found.stderr
    assert [line for line in found.stderr.splitlines() if "covers" in line] == [f"m.tif: {line}" for line in said]


def test_what_tissue_leaves_out_is_shown_with_the_way_to_segment_it(here: Path, bundle: Path) -> None:
    slide = np.full((200, 300, 3), 240, np.uint8)
    slide[60:140, 100:200] = np.random.default_rng(0).integers((150, 60, 130), (190, 100, 170), (80, 100, 3), np.uint8)
    tifffile.imwrite(here / "slide.tif", slide, tile=(64, 64), photometric="rgb")
    found = invoke("segment", "slide.tif", "-o", "m.tif", "--weights", bundle, "--tissue", "otsu")
    assert found.exit_code == 0, found.stderr
    (line,) = (line for line in found.stderr.splitlines() if "covers" in line)
    match = re.fullmatch(
        r"m.tif: Tissue covers (\d+\.\d) % of the image; the rest is skipped. Use --tissue none to segment all of it. "
        r"Left out: glass \((\d+\.\d) %\).",
        line,
    )
    assert match is not None, line
    assert sum(map(float, match.groups())) == pytest.approx(100, abs=0.1)
    assert 100 * 80 * 100 / slide[..., 0].size <= float(match[1]) < 25  # the tissue and a rim
