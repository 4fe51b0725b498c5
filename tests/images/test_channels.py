"""Names of channels become bands with different names."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import tifffile
import zarr

from magnet_cli.images import inspect
from magnet_cli.images.channels import channel_bands

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize(
    ("names", "bands"),
    [
        (("DAPI", "CD3"), ("dapi", "cd3")),
        (("R", "G", "B"), ("red", "green", "blue")),
        (("b", "g", "r", "NIR"), ("blue", "green", "red", "nir")),
        (("R", "Green", "B"), ("r", "green", "b")),
        (("B", "T"), ("b", "t")),
        (("DAPI", "CD3", "DAPI"), ("dapi 1", "cd3", "dapi 2")),
        (("DAPI", "DAPI 1", "DAPI"), ("dapi 2", "dapi 1", "dapi 3")),
        (("DAPI", "", "CD3"), ("dapi", "band2", "cd3")),
        (("", "band1", ""), ("band1 1", "band1 2", "band3")),
        (("", " "), ()),
    ],
)
def test_each_band_has_a_name_of_its_own(names: tuple[str, ...], bands: tuple[str, ...]) -> None:
    assert channel_bands(names) == bands


def test_readers_number_repeated_names_and_know_colours(tmp_path: Path) -> None:
    planes = np.zeros((3, 64, 80), np.uint8)
    for index, (names, bands) in enumerate(
        ((["DAPI", "CD3", "DAPI"], ("dapi 1", "cd3", "dapi 2")), (["R", "G", "B"], ("red", "green", "blue")))
    ):
        file = tmp_path / f"{index}.ome.tif"
        about = {"axes": "CYX", "Channel": {"Name": names}}
        tifffile.imwrite(file, planes, tile=(32, 32), photometric="minisblack", metadata=about)
        assert inspect(file).bands == bands
        folder = tmp_path / f"{index}.zarr"
        group = zarr.open_group(folder, mode="w", zarr_format=2)
        group.create_array("0", data=planes, chunks=(1, 32, 32))
        axes = [{"name": "c", "type": "channel"}, {"name": "y", "type": "space"}, {"name": "x", "type": "space"}]
        scale = [{"type": "scale", "scale": [1.0, 1.0, 1.0]}]
        multiscales: Any = [
            {"version": "0.4", "axes": axes, "datasets": [{"path": "0", "coordinateTransformations": scale}]}
        ]
        group.attrs["multiscales"] = multiscales
        group.attrs["omero"] = {"channels": [{"label": name} for name in names]}
        assert inspect(folder).bands == bands
