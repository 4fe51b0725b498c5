"""OME-Zarr images: their levels, axes and physical size, and chunks that are missing or damaged."""

from __future__ import annotations

import struct
from base64 import b64encode
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import zarr

from magnet_cli.errors import SourceError
from magnet_cli.geometry import LEVEL0, Box, Pitch
from magnet_cli.images import Region, Request, inspect, open_image

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray


def ome_zarr(path: Path, levels: list[NDArray[Any]], *, version: Any, unit: str = "micrometer") -> Path:
    group = zarr.create_group(path, zarr_format=version)
    axes = [{"name": "c", "type": "channel"}, *({"name": name, "type": "space", "unit": unit} for name in "yx")]
    datasets = []
    for index, level in enumerate(levels):
        group.create_array(str(index), data=level, chunks=(1, 32, 32))
        scale = [{"type": "scale", "scale": [1.0, 0.25 * 2**index, 0.5 * 2**index]}]
        datasets.append({"path": str(index), "coordinateTransformations": scale})
    metadata: dict[str, Any] = {
        "multiscales": [{"axes": axes, "datasets": datasets}],
        "omero": {"channels": [{"label": "DAPI"}, {"label": "CD3"}]},
    }
    attributes: dict[str, Any] = {"ome": metadata} if version == 3 else metadata
    group.attrs.update(attributes)
    return path


def levels_of(dtype: str = "uint16") -> list[NDArray[Any]]:
    rng = np.random.default_rng(0)
    return [
        rng.integers(0, 60000, (2, height, width)).astype(dtype) for height, width in ((131, 97), (66, 49), (33, 24))
    ]


def read(path: Path, pitch: int = 1) -> Region:
    grid = Pitch.square(pitch)
    with open_image(path) as image:
        cover = Box.whole(image.info.levels[0 if pitch == 1 else 1].size)
        return image.read([Request(pitch=grid, box=cover)])[0]


@pytest.mark.parametrize("version", [2, 3])
@pytest.mark.parametrize(
    ("names", "order"),
    [
        (("x", "y", "band"), (1, 0, 2)),
        (("lat", "lon", "channel"), (0, 1, 2)),
        (("band", "lon", "lat"), (2, 1, 0)),
        (("lon", "lat"), (1, 0)),
        (("time", "band", "y", "x"), (2, 3, 1)),
        (("one", "other", "third"), None),
    ],
)
def test_a_plain_array_has_the_axes_that_it_names(
    tmp_path: Path, names: tuple[str, ...], order: tuple[int, ...] | None, version: Any
) -> None:
    values = np.random.default_rng(3).integers(0, 255, (9, 8, 7, 6)[: len(names)]).astype(np.uint8)
    stated: dict[str, Any] = {"dimension_names": names} if version == 3 else {}
    array = zarr.create_array(tmp_path / "a.zarr", data=values, zarr_format=version, **stated)
    if version == 2:
        array.attrs["_ARRAY_DIMENSIONS"] = list(names)
    with open_image(tmp_path / "a.zarr") as image:
        found = image.read([Request(pitch=LEVEL0, box=Box.whole(image.info.size))])[0].pixels
    flat = values[0] if names[0] == "time" else values
    wanted = flat.transpose((1, 2, 0) if order is None else [place - (names[0] == "time") for place in order])
    assert np.array_equal(found, wanted if wanted.ndim == 3 else wanted[..., None])


def test_planes_of_a_plain_array_are_not_dropped_in_silence(tmp_path: Path) -> None:
    values = np.random.default_rng(4).integers(0, 255, (5, 9, 8, 3)).astype(np.uint8)
    zarr.create_array(tmp_path / "t.zarr", data=values, dimension_names=("time", "y", "x", "band"))
    assert inspect(tmp_path / "t.zarr").notes == ("only the first plane is read (t=5)",)
    zarr.create_array(tmp_path / "c.zarr", data=values[0], dimension_names=("height", "width", "depth"))
    assert inspect(tmp_path / "c.zarr").notes == ()
    assert np.array_equal(read(tmp_path / "c.zarr").pixels, values[0])
    zarr.create_array(tmp_path / "z.zarr", data=values[..., 0], dimension_names=("depth", "y", "x"))
    assert inspect(tmp_path / "z.zarr").notes == ("only the first plane is read (z=5)",)


@pytest.mark.parametrize("version", [2, 3])
def test_levels_axes_and_size(tmp_path: Path, version: int) -> None:
    levels = levels_of()
    path = ome_zarr(tmp_path / "image.zarr", levels, version=version)
    info = inspect(path)
    assert info.bands == ("dapi", "cd3")
    assert [level.downsample for level in info.levels] == [LEVEL0, Pitch.square(2), Pitch.square(4)]
    assert info.resolution is not None
    assert (info.resolution.x, info.resolution.y, info.resolution.unit) == (Fraction(1, 2), Fraction(1, 4), "um")
    np.testing.assert_array_equal(read(path).pixels, np.moveaxis(levels[0], 0, 2))
    np.testing.assert_array_equal(read(path, 2).pixels, np.moveaxis(levels[1], 0, 2))


def test_a_chunk_that_was_never_written_has_the_fill_value(tmp_path: Path) -> None:
    array = zarr.create_array(tmp_path / "z.zarr", shape=(64, 64), chunks=(32, 32), dtype="uint8", fill_value=7)
    array[:32, :32] = 1
    pixels = read(tmp_path / "z.zarr").pixels[:, :, 0]
    assert (pixels[:32, :32] == 1).all()
    assert (pixels[32:] == 7).all()


def test_a_damaged_chunk_is_an_error_with_a_place(tmp_path: Path) -> None:
    path = ome_zarr(tmp_path / "image.zarr", levels_of(), version=3)
    chunk = path / "0" / "c" / "1" / "1" / "1"
    chunk.write_bytes(chunk.read_bytes()[:40])
    with pytest.raises(SourceError, match=r"box \[") as caught:
        read(path)
    assert caught.value.file == str(path)


@pytest.mark.parametrize(
    "metadata", ["", "{}", '{"zarr_format": 3, "node_type": "group"}', '{"zarr_format": 3, "node_type": "array"}']
)
def test_a_group_without_an_image_is_refused(tmp_path: Path, metadata: str) -> None:
    (tmp_path / "zarr.json").write_text(metadata)
    with pytest.raises(SourceError, match=str(tmp_path)):
        inspect(tmp_path)


def test_a_giant_chunk_is_refused(tmp_path: Path) -> None:
    zarr.create_array(tmp_path / "z.zarr", shape=(40000, 40000), chunks=(40000, 40000), dtype="uint8")
    with pytest.raises(SourceError, match="Rechunk"):
        inspect(tmp_path / "z.zarr")


def image_group(path: Path, arrays: dict[str, NDArray[Any]], *, axes: str, steps: dict[str, Any], version: int) -> Path:
    """Write a group with the given arrays as levels, each with its coordinate transformations."""
    group = zarr.create_group(path, zarr_format=2 if version == 2 else 3)
    for name, array in arrays.items():
        group.create_array(name, data=array, chunks=tuple(min(side, 32) for side in array.shape))
    kinds = {"c": "channel", "t": "time"}
    said = [{"name": axis, "type": kinds.get(axis, "space")} for axis in axes]
    said = [{**axis, "unit": "micrometer"} if axis["type"] == "space" else axis for axis in said]
    datasets = [{"path": name, "coordinateTransformations": steps[name]} for name in arrays]
    metadata: dict[str, Any] = {"multiscales": [{"axes": said, "datasets": datasets}]}
    group.attrs.update(metadata if version == 2 else {"ome": {"version": "0.5", **metadata}})
    return path


@pytest.mark.parametrize("version", [2, 3])
@pytest.mark.parametrize("axes", ["yx", "xy", "cyx", "yxc", "zyx", "czyx", "tczyx", "tcyx"])
def test_axes_in_any_order(tmp_path: Path, axes: str, version: int) -> None:
    lengths = {"t": 2, "c": 3, "z": 2, "y": 50, "x": 70}
    array = np.random.default_rng(0).integers(0, 60000, [lengths[axis] for axis in axes]).astype(np.uint16)
    scale = [{"type": "scale", "scale": [{"y": 0.5, "x": 0.25}.get(axis, 1.0) for axis in axes]}]
    path = image_group(tmp_path / "a.zarr", {"0": array}, axes=axes, steps={"0": scale}, version=version)
    info = inspect(path)
    assert info.resolution is not None
    assert (info.resolution.x, info.resolution.y) == (Fraction(1, 4), Fraction(1, 2))
    first = array[tuple(0 if axis in "tz" else slice(None) for axis in axes)]
    left = [axis for axis in axes if axis in "yxc"]
    if "c" not in left:
        first, left = first[..., None], [*left, "c"]
    np.testing.assert_array_equal(read(path).pixels, first.transpose([left.index(axis) for axis in "yxc"]))
    assert any("first plane" in note for note in info.notes) == bool(set(axes) & set("tz"))


@pytest.mark.parametrize(("offset", "levels"), [(0.0, 2), (0.25, 2), (40.0, 1)])
def test_a_level_that_lies_elsewhere_is_no_level(tmp_path: Path, offset: float, levels: int) -> None:
    arrays = {"0": np.ones((64, 96), np.uint8), "1": np.ones((32, 48), np.uint8)}
    steps = {
        "0": [{"type": "scale", "scale": [0.5, 0.5]}, {"type": "translation", "translation": [100.0, 100.0]}],
        "1": [
            {"type": "scale", "scale": [1.0, 1.0]},
            {"type": "translation", "translation": [100.0 + offset, 100.0 + offset]},
        ],
    }
    path = image_group(tmp_path / "a.zarr", arrays, axes="yx", steps=steps, version=3)
    assert len(inspect(path).levels) == levels


def bioformats2raw(path: Path, sizes: list[tuple[int, int]], *, listed: bool, version: int = 2) -> list[NDArray[Any]]:
    """Write series 0, 1, ... of given sizes and return them; the pixels of series n measure (n + 1) / 2 micrometres."""
    root = zarr.create_group(path, zarr_format=2 if version == 2 else 3)
    layout = {"bioformats2raw.layout": 3}
    root.attrs.update(layout if version == 2 else {"ome": {"version": "0.5", **layout}})
    arrays = [
        np.random.default_rng(i).integers(0, 255, (1, 3, 1, *size)).astype(np.uint8) for i, size in enumerate(sizes)
    ]
    for index, array in enumerate(arrays):
        um = 0.5 * (index + 1)
        steps = {"0": [{"type": "scale", "scale": [1.0, 1.0, 1.0, um, um]}]}
        image_group(path / str(index), {"0": array}, axes="tczyx", steps=steps, version=version)
    if listed:
        series = [str(index) for index in range(len(sizes))]
        group = root.create_group("OME")
        group.attrs.update({"series": series} if version == 2 else {"ome": {"version": "0.5", "series": series}})
    return [np.moveaxis(array[0, :, 0], 0, 2) for array in arrays]


@pytest.mark.parametrize("version", [2, 3])
@pytest.mark.parametrize("listed", [True, False])
def test_the_largest_image_of_a_bioformats2raw_folder_is_read(tmp_path: Path, version: int, listed: bool) -> None:  # noqa: FBT001
    label, scan, macro = bioformats2raw(
        tmp_path / "a.zarr", [(30, 40), (50, 70), (20, 80)], listed=listed, version=version
    )
    info = inspect(tmp_path / "a.zarr")
    assert info.resolution is not None
    assert (info.series, info.resolution.x) == (1, Fraction(1))
    assert "image 1 (70x50) is read; the others are 0 (40x30), 2 (80x20)" in info.notes[0]
    np.testing.assert_array_equal(read(tmp_path / "a.zarr").pixels, scan)
    for series, array in ((0, label), ("2", macro), (1, scan)):
        with open_image(tmp_path / "a.zarr", series=series) as image:
            (region,) = image.read([Request(pitch=LEVEL0, box=Box.whole(image.info.size))])
            assert image.info.resolution is not None
            assert image.info.resolution.x == Fraction(int(series) + 1, 2)
        np.testing.assert_array_equal(region.pixels, array)
    with pytest.raises(SourceError, match="no such image"):
        inspect(tmp_path / "a.zarr", series=3)


def test_the_images_of_bioformats2raw_have_the_names_of_its_xml(tmp_path: Path) -> None:
    bioformats2raw(tmp_path / "a.zarr", [(30, 40), (50, 70)], listed=True)
    images = "".join(
        f'<Image ID="Image:{i}" Name="{name}"><Pixels DimensionOrder="XYCZT" SizeX="1" SizeY="1" Type="uint8"/></Image>'
        for i, name in enumerate(("label image", "scan"))
    )
    (tmp_path / "a.zarr" / "OME" / "METADATA.ome.xml").write_text(f'<OME xmlns="x">{images}</OME>', encoding="utf-8")
    assert [content.name for content in inspect(tmp_path / "a.zarr").contents] == ["label image", "scan"]
    assert inspect(tmp_path / "a.zarr", series="label image").size.width == 40


def test_several_multiscales_of_a_group_are_images(tmp_path: Path) -> None:
    group = zarr.create_group(tmp_path / "a.zarr", zarr_format=2)
    for name, side in (("small", 32), ("large", 64)):
        group.create_array(name, data=np.full((side, side), side, np.uint8), chunks=(32, 32))
    group.attrs["multiscales"] = [
        {"name": name, "axes": [{"name": axis} for axis in "yx"], "datasets": [{"path": name}]}
        for name in ("small", "large")
    ]
    assert (inspect(tmp_path / "a.zarr").size.width, inspect(tmp_path / "a.zarr", series="small").size.width) == (
        64,
        32,
    )


def test_the_fields_of_a_plate_are_images(tmp_path: Path) -> None:
    root = zarr.create_group(tmp_path / "a.zarr", zarr_format=2)
    root.attrs["plate"] = {"wells": [{"path": "A/1"}, {"path": "B/2"}]}
    for well in ("A/1", "B/2"):
        root.create_group(well).attrs["well"] = {"images": [{"path": "0"}, {"path": "1"}]}
        for field in "01":
            array = np.full((40, 50), ord(well[0]) + int(field), np.uint8)
            steps = {"0": [{"type": "scale", "scale": [0.5, 0.5]}]}
            image_group(tmp_path / "a.zarr" / well / field, {"0": array}, axes="yx", steps=steps, version=2)
    info = inspect(tmp_path / "a.zarr")
    assert [content.name for content in info.contents] == ["A/1/0", "A/1/1", "B/2/0", "B/2/1"]
    assert info.series == 0
    with open_image(tmp_path / "a.zarr", series="B/2/1") as image:
        (region,) = image.read([Request(pitch=LEVEL0, box=Box.whole(image.info.size))])
    assert (region.pixels == ord("B") + 1).all()


def test_a_level_padded_to_whole_chunks_has_the_scale_that_it_states(tmp_path: Path) -> None:
    full = np.random.default_rng(0).integers(0, 255, (200, 300)).astype(np.uint8)
    half = np.zeros((128, 160), np.uint8)
    half[:100, :150] = full[::2, ::2]
    steps = {"0": [{"type": "scale", "scale": [0.5, 0.5]}], "1": [{"type": "scale", "scale": [1.0, 1.0]}]}
    path = image_group(tmp_path / "a.zarr", {"0": full, "1": half}, axes="yx", steps=steps, version=3)
    info = inspect(path)
    assert info.levels[1].downsample == Pitch.square(2)
    assert (info.levels[1].size.width, info.levels[1].size.height) == (150, 100)
    np.testing.assert_array_equal(read(path, 2).pixels[:, :, 0], full[::2, ::2])


def test_shards_are_read_by_their_chunks(tmp_path: Path) -> None:
    array = np.random.default_rng(0).integers(0, 255, (300, 200, 3)).astype(np.uint8)
    zarr.create_array(tmp_path / "a.zarr", data=array, chunks=(32, 32, 3), shards=(128, 64, 3))
    np.testing.assert_array_equal(read(tmp_path / "a.zarr").pixels, array)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_what_ome_zarr_py_writes_is_what_it_reads(tmp_path: Path, version: str) -> None:
    pytest.importorskip("ome_zarr")
    from ome_zarr.format import format_from_version  # noqa: PLC0415 (not installed everywhere)
    from ome_zarr.io import parse_url  # noqa: PLC0415
    from ome_zarr.reader import Reader  # noqa: PLC0415
    from ome_zarr.writer import write_multiscale  # noqa: PLC0415

    levels = levels_of()
    path = tmp_path / "image.ome.zarr"
    axes = [{"name": "c", "type": "channel"}, *({"name": n, "type": "space", "unit": "micrometer"} for n in "yx")]
    steps = [[{"type": "scale", "scale": [1.0, 0.5 * 2**i, 0.5 * 2**i]}] for i in range(3)]
    written: Any = format_from_version(version)
    group = zarr.open_group(path, mode="w", zarr_format=written.zarr_format)
    write_multiscale(levels, group, fmt=written, axes=axes, coordinate_transformations=steps)
    info = inspect(path)
    assert info.resolution is not None
    assert info.resolution.x == Fraction(1, 2)
    seen = next(iter(Reader(parse_url(str(path)))())).data
    assert [(level.size.height, level.size.width) for level in info.levels] == [data.shape[1:] for data in seen]
    for index, data in enumerate(seen):
        with open_image(path) as image:
            box = Box.whole(info.levels[index].size)
            (region,) = image.read([Request(pitch=Pitch.square(2**index), box=box)])
        np.testing.assert_array_equal(region.pixels, np.moveaxis(np.asarray(data), 0, 2))


@pytest.mark.parametrize("version", [2, 3])
@pytest.mark.parametrize("name", ["spectral", "lambda", "wavelength"])
def test_the_axis_of_channels_is_known_by_its_type(tmp_path: Path, name: str, version: Any) -> None:
    path = ome_zarr(tmp_path / "a.zarr", levels_of(), version=version)
    rename_axis(path, 0, name, "channel")
    np.testing.assert_array_equal(read(path).pixels, np.moveaxis(levels_of()[0], 0, 2))


@pytest.mark.parametrize("version", [2, 3])
def test_planes_along_any_other_axis_are_named(tmp_path: Path, version: Any) -> None:
    path = ome_zarr(tmp_path / "a.zarr", levels_of(), version=version)
    rename_axis(path, 0, "angle", "other")
    assert "only the first plane is read (a=2)" in inspect(path).notes


def rename_axis(path: Path, index: int, name: str, kind: str) -> None:
    group = zarr.open_group(path)
    attributes = group.attrs.asdict()
    metadata: Any = attributes.get("ome", attributes)
    metadata["multiscales"][0]["axes"][index] = {"name": name, "type": kind}
    group.attrs.update(attributes)


def test_levels_from_the_smallest_to_the_largest_are_refused(tmp_path: Path) -> None:
    path = ome_zarr(tmp_path / "a.zarr", levels_of()[::-1], version=3)
    with pytest.raises(SourceError, match="from the largest to the smallest"):
        inspect(path)


def changed(path: Path, where: tuple[Any, ...], value: Any) -> Path:
    group = zarr.open_group(path, mode="r+")
    attributes = group.attrs.asdict()
    here: Any = attributes["ome"]
    for key in where[:-1]:
        here = here[key]
    here[where[-1]] = value
    group.attrs.put(attributes)
    return path


FIRST = ("multiscales", 0, "datasets", 0, "coordinateTransformations", 0, "scale")


@pytest.mark.parametrize(
    ("where", "value"),
    [
        (FIRST, [1, True, True]),
        (("multiscales", 0, "datasets", 1, "coordinateTransformations", 0, "scale"), [1, 0.5, True]),
        (("multiscales", 0, "axes", 0), {"name": True}),
        (("multiscales", 0, "axes"), [True, "y", "x"]),
        (("omero", "channels", 0, "label"), True),
    ],
)
@pytest.mark.parametrize("count", [1, 3])
def test_truth_values_are_no_numbers_and_no_names(
    tmp_path: Path, where: tuple[Any, ...], value: Any, count: int
) -> None:
    if count == 1 and where[2:4] == ("datasets", 1):
        pytest.skip("one level")
    path = ome_zarr(tmp_path / "image.zarr", levels_of()[:count], version=3)
    inspect(path)
    with pytest.raises(SourceError, match=r"truth value|not all of them are texts") as caught:
        inspect(changed(path, where, value))
    assert caught.value.file == str(path)


@pytest.mark.parametrize("name", ["scale_factor", "add_offset"])
def test_a_truth_value_is_no_scale(tmp_path: Path, name: str) -> None:
    array = zarr.create_array(tmp_path / "a.zarr", data=np.ones((8, 8), np.uint8))
    array.attrs[name] = True
    (note,) = inspect(tmp_path / "a.zarr").notes
    assert note == f"{name} of the array is a truth value and no number: it is ignored"


def test_true_is_no_value_of_missing_pixels(tmp_path: Path) -> None:
    attributes: dict[str, Any] = {"_FillValue": True}
    array = zarr.create_array(tmp_path / "a.zarr", shape=(6, 7), chunks=(4, 4), dtype="uint8", attributes=attributes)
    array[:] = 1
    assert inspect(tmp_path / "a.zarr").nodata is None


@pytest.mark.parametrize("how", ["_FillValue", "missing_value", "base64", "version 2"])
def test_values_that_netcdf_calls_missing_hold_no_data(tmp_path: Path, how: str) -> None:
    values = np.arange(6 * 7).reshape(6, 7).astype(np.float32 if how == "base64" else np.int16)
    values[:2] = -9999
    by_kind: dict[str, dict[str, Any]] = {
        "base64": {"_FillValue": b64encode(struct.pack("<d", -9999.0)).decode()},
        "version 2": {"_ARRAY_DIMENSIONS": ["y", "x"]},
    }
    stated = by_kind.get(how, {how: -9999})
    old = how == "version 2"
    array = zarr.create_array(
        tmp_path / "a.zarr",
        shape=(6, 7),
        chunks=(4, 4),
        dtype=values.dtype,
        fill_value=-9999 if old else 0,
        zarr_format=2 if old else 3,
        attributes={**stated, "scale_factor": 0.5},
    )
    array[:] = values
    info, found = inspect(tmp_path / "a.zarr"), read(tmp_path / "a.zarr").valid
    assert (info.nodata, info.has_mask) == (-9999, True)
    assert found is not None
    np.testing.assert_array_equal(found, values != -9999)
    assert "a scale of 0.5" in " ".join(info.notes)


@pytest.mark.parametrize("packed", ["gzip", "blosc", "zstd"])
def test_a_checksum_behind_packed_bytes_is_no_size(tmp_path: Path, packed: str) -> None:
    codecs = {"gzip": zarr.codecs.GzipCodec(), "blosc": zarr.codecs.BloscCodec(), "zstd": zarr.codecs.ZstdCodec()}
    values = np.random.default_rng(0).integers(0, 60000, (300, 400)).astype(np.uint16)
    for seed in range(4):
        array = np.roll(values, seed)
        path = tmp_path / f"{seed}.zarr"
        how: dict[str, Any] = {"compressors": [codecs[packed], zarr.codecs.Crc32cCodec()], "chunks": (100, 130)}
        zarr.create_array(path, data=array, zarr_format=3, **how)
        np.testing.assert_array_equal(read(path).pixels[:, :, 0], array)
