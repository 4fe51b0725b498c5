"""OME-Zarr: levels, axes, physical size, missing and damaged chunks."""

from __future__ import annotations

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
