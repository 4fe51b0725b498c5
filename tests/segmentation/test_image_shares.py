"""The progress of a run over images of unequal size follows their sizes, and not their number."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from magnet_cli.segmentation.image_shares import ImageShares

if TYPE_CHECKING:
    from pathlib import Path


def files(folder: Path, *sizes: int) -> list[str]:
    """Write files of these sizes, and return their paths."""
    paths = [folder / f"{number}.tif" for number in range(len(sizes))]
    for path, size in zip(paths, sizes, strict=True):
        path.write_bytes(b"x" * size)
    return [str(path) for path in paths]


def test_a_large_image_is_a_large_share(tmp_path: Path) -> None:
    shares = ImageShares(files(tmp_path, 100, 700, 200))
    assert (shares.finished, shares.following) == (0.0, 0.1)
    shares.finish(0)
    assert (shares.finished, shares.following) == (0.1, 0.7)
    shares.finish(0)
    assert shares.finished == 0.1
    # Workers of a cluster finish images in any order.
    shares.finish(2)
    assert shares.finished == pytest.approx(0.3)
    assert shares.following == 0.7
    shares.finish(1)
    assert shares.finished == pytest.approx(1.0)
    assert shares.following == 0.0


def test_an_image_of_unknown_size_counts_as_the_mean(tmp_path: Path) -> None:
    (tmp_path / "a.zarr").mkdir()
    unknown = ["https://example.org/a.tif", str(tmp_path / "a.zarr"), str(tmp_path / "missing.tif"), "a\0b.tif"]
    shares = ImageShares([*files(tmp_path, 100, 300), *unknown])
    for number in (0, 1):
        shares.finish(number)
    assert shares.finished == pytest.approx(400 / 1200)
    assert shares.following == pytest.approx(200 / 1200)
    alone = ImageShares(unknown)
    assert alone.following == 0.25
    empty = ImageShares(files(tmp_path, 0, 0))
    assert empty.following == 0.5
