"""The reader that napari finds by our manifest opens masks, declines other files, and places pixels where they lie."""

from __future__ import annotations

import gc
import os
import tomllib
import warnings
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile

import magnet_cli
from magnet_cli.errors import SourceError
from magnet_cli.exports.napari_layers import OVERVIEW, field_layers, mask_layers, read_layers
from magnet_cli.geometry import Box, Pitch, Size
from magnet_cli.masks.header import JournalHeader
from magnet_cli.masks.journal import Journal
from magnet_cli.masks.mask_file import MaskFile
from magnet_cli.masks.output import OutputPaths, finish_output
from magnet_cli.masks.spec import FieldSpec, GroupId, MaskSpec
from tests.exports.support import CLASSES, MICRONS, export, make_labels, write_mask

MANIFEST = Path(magnet_cli.__file__).parent / "exports" / "napari.yaml"
PITCH = Pitch(x=Fraction(8, 3), y=Fraction(2))


def write_probabilities(path: Path, values: np.ndarray, *, pitch: Pitch = PITCH) -> Path:
    """Keep `(classes, height, width)` float16 values beside a mask, and return the folder."""
    bands, height, width = values.shape
    size = Size(width=int(width * pitch.x), height=int(height * pitch.y))
    spec = MaskSpec(size=size, classes=CLASSES, tile=64, resolution=MICRONS)
    field = FieldSpec(name="probabilities", bands=bands, size=Size(width=width, height=height), pitch=pitch)
    paths = OutputPaths.of(path)
    header = JournalHeader(hashes={"input": "i" * 64}, spec=spec, fields=(field,))
    group = GroupId(pass_index=0, index=0)
    with Journal.open(paths.journal, header=header) as journal:
        journal.put_labels(group, box=Box.whole(size), labels=np.zeros((size.height, size.width), np.uint8))
        journal.put_field(group, name="probabilities", box=Box.whole(field.size), values=values)
        journal.finish_group(group, counts={})
        report = {"schema": 1, "program": {"name": "magnet", "version": "0"}}
        finish_output(journal, paths, report=report, description={}, fields=("probabilities",))
    return paths.field("probabilities")


def test_napari_finds_the_reader_and_gets_layers(tmp_path: Path) -> None:
    project = tomllib.loads((MANIFEST.parents[2] / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    module, _, file = project["entry-points"]["napari.manifest"]["magnet-cli"].partition(":")
    assert (module, file) == ("magnet_cli.exports", MANIFEST.name)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # npe2 uses an old form of pydantic's fields
        npe2 = pytest.importorskip("npe2")
        io_utils = pytest.importorskip("npe2.io_utils")
    manifest = npe2.PluginManifest.from_file(MANIFEST)
    assert manifest.name == project["name"]
    manifest.validate_imports()
    mask = write_mask(tmp_path / "m.tif", make_labels(300, 141))
    manager = npe2.PluginManager()
    manager.register(manifest)
    manager.activate(manifest.name)
    layers, reader = io_utils._read([str(mask)], stack=False, return_reader=True, _pm=manager)
    assert reader.command == "magnet-cli.read_layers"
    assert [kind for _, _, kind in layers] == ["labels"]


@pytest.mark.parametrize("compression", ["deflate", "zstd"])
def test_every_level_of_a_mask_is_the_files(tmp_path: Path, compression: str) -> None:
    labels = make_labels(300, 141)
    mask = write_mask(tmp_path / "m.tif", labels, compression=compression)
    ((levels, arguments, kind),) = mask_layers(str(mask))
    assert kind == "labels"
    assert arguments["name"] == "m"
    np.testing.assert_array_equal(levels[0].compute(), labels)
    with tifffile.TiffFile(mask) as tiff:
        assert len(levels) == len(tiff.pages) > 1
        for level, page in zip(levels, tiff.pages, strict=True):
            np.testing.assert_array_equal(level.compute(), page.asarray())


def test_a_mask_shows_names_colours_and_size_of_a_pixel(tmp_path: Path) -> None:
    ((_, arguments, _),) = mask_layers(str(write_mask(tmp_path / "m.tif", make_labels(64, 64))))
    assert arguments["scale"] == (0.5, 0.25), "rows first"
    assert arguments["translate"] == (0, 0)
    assert arguments["units"] == ("um", "um")
    assert arguments["colormap"] == {0: [0, 1, 1, 1], 1: [1, 1, 0, 1], 2: [0, 0, 1, 1], 255: [0] * 4, None: [0] * 4}
    names = dict(zip(arguments["features"]["index"], arguments["features"]["class"], strict=True))
    assert names == {0: "urban", 1: "Gebäude & Höfe", 2: "water", 255: "not computed"}


def test_a_mask_without_a_resolution_lies_in_pixels(tmp_path: Path) -> None:
    ((_, arguments, _),) = mask_layers(str(write_mask(tmp_path / "m.tif", make_labels(64, 64), resolution=None)))
    assert arguments["scale"] == (1, 1)
    assert "units" not in arguments


def test_a_view_reads_only_the_tiles_below_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mask = write_mask(tmp_path / "m.tif", make_labels(5000, 4200), tile=256)
    read: list[Box] = []
    original = MaskFile.read

    def watched(self: MaskFile, box: Box, *, level: int = 0) -> Any:
        read.append(box)
        return original(self, box, level=level)

    monkeypatch.setattr(MaskFile, "read", watched)
    ((levels, _, _),) = mask_layers(str(mask))
    assert read == [], "opening decodes nothing"
    np.testing.assert_array_equal(levels[0][100:140, 2040:2060], make_labels(5000, 4200)[100:140, 2040:2060])
    assert sorted(box.x for box in read) == [0, 2048]
    assert int(levels[0][4199, 4999]) == make_labels(5000, 4200)[-1, -1]


def test_probabilities_lie_over_the_mask(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    values = rng.random((3, 60, 75)).astype(np.float16)
    values[:, :5, :7] = np.nan
    path = write_probabilities(tmp_path / "m.tif", values)
    layers = field_layers(str(path))
    assert [arguments["name"] for _, arguments, _ in layers] == ["m: urban", "m: Gebäude & Höfe", "m: water"]
    assert [arguments["visible"] for _, arguments, _ in layers] == [True, False, False]
    for (levels, arguments, kind), expected in zip(layers, values, strict=True):
        assert kind == "image"
        np.testing.assert_allclose(levels[0].compute(), expected, atol=1 / 254)
        # The first pixel covers 2 rows and 8/3 columns of level 0, whose pixels are .5 and .25 um.
        assert arguments["scale"] == pytest.approx((2 * 0.5, 8 / 3 * 0.25))
        assert arguments["translate"] == pytest.approx((0.5 * 0.5, 5 / 6 * 0.25))
        upper = np.array(arguments["translate"]) - np.array(arguments["scale"]) / 2
        np.testing.assert_allclose(upper, (-0.5 * 0.5, -0.5 * 0.25), err_msg="the corner of the first level-0 pixel")


def test_reduced_probabilities_are_means_of_what_was_computed(tmp_path: Path) -> None:
    height, width = 3, OVERVIEW * 2 + 3
    ramp = np.broadcast_to(np.linspace(0, 1, width), (3, height, width)).astype(np.float16).copy()
    ramp[:, 0, 0] = np.nan
    ramp[:, :2, 2:4] = np.nan
    ((levels, _, _), *_) = field_layers(str(write_probabilities(tmp_path / "m.tif", ramp, pitch=Pitch.square(1))))
    full = levels[0].compute()
    assert [level.shape for level in levels] == [(3, 2051), (2, 1026), (1, 513)]
    half, quarter = levels[1].compute(), levels[2].compute()
    assert half[0, 0] == pytest.approx(np.nanmean(full[:2, :2]))
    assert np.isnan(half[0, 1])
    assert half[1, 1025] == pytest.approx(full[2, 2050])
    assert half[0, 700] == pytest.approx(full[:2, 1400:1402].mean())
    assert quarter[0, 300] == pytest.approx(full[:, 1200:1204].mean())


def test_files_of_others_are_declined(tmp_path: Path) -> None:
    mask = write_mask(tmp_path / "m.tif", make_labels(65, 63))
    cog, zarr = (made.path for made in export(mask, "cog", "ome-zarr"))
    tifffile.imwrite(tmp_path / "photo.tif", np.zeros((8, 8, 3), np.uint8), photometric="rgb")
    (tmp_path / "broken.tif").write_bytes(b"II*\0no TIFF")
    (tmp_path / "empty.probabilities.zarr").mkdir()
    declined = [cog, zarr, *map(tmp_path.joinpath, ("photo.tif", "broken.tif", "empty.probabilities.zarr", "none.tif"))]
    assert [path for path in declined if read_layers(str(path)) is not None] == []
    assert read_layers([str(mask)]) is None
    assert read_layers("https://example.org/m.tif") is None
    assert read_layers(str(mask)) is not None


def test_a_damaged_mask_is_an_error_and_no_guess(tmp_path: Path) -> None:
    mask = write_mask(tmp_path / "m.tif", make_labels(300, 141))
    os.truncate(mask, mask.stat().st_size // 2)
    if (reader := read_layers(str(mask))) is None:
        pytest.fail("a mask of ours is declined because it is damaged, and another reader may open it")
    with pytest.raises(SourceError):
        reader(str(mask))[0][0][0].compute()


def test_the_file_is_closed_with_the_layer(tmp_path: Path) -> None:
    mask = write_mask(tmp_path / "m.tif", make_labels(64, 64))

    def opened() -> int:
        return sum(each.resolve() == mask for each in Path("/proc/self/fd").iterdir())

    layers = mask_layers(str(mask))
    assert opened() == 2, "tifffile's and ours"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        del layers
        gc.collect()
    assert opened() == 0


def test_napari_itself_makes_the_layers(tmp_path: Path) -> None:
    layers = pytest.importorskip("napari.layers", reason="napari is not installed")
    labels = make_labels(300, 141)
    mask = write_mask(tmp_path / "m.tif", labels)
    ((levels, arguments, _),) = mask_layers(str(mask))
    layer = layers.Labels(levels, **arguments)
    for y, x in ((0, 0), (140, 299), (70, 150), (36, 51)):
        row, column = np.round(layer.world_to_data((y * 0.5, x * 0.25))).astype(int)
        assert int(layer.data[0][row, column]) == labels[y, x]
    colours = layer.colormap.map(np.array([0, 1, 2, 255, 9], dtype=np.uint8))
    expected = [[0, 1, 1, 1], [1, 1, 0, 1], [0, 0, 1, 1], [0] * 4, [0] * 4]
    np.testing.assert_array_equal(colours, expected)
    values = np.full((3, 60, 75), 0.5, dtype=np.float16)
    for data, wanted, _ in field_layers(str(write_probabilities(tmp_path / "p.tif", values))):
        image = layers.Image(data, **wanted)
        np.testing.assert_allclose(image.world_to_data((0.25, 5 / 24)), 0, atol=1e-9)
