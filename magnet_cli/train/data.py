"""Scenes: large pictures with their label maps, in memory, and random windows of them."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property
from math import exp, log, log2
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch.nn import functional

from magnet_cli.dataset import read_dataset
from magnet_cli.errors import SourceError, UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from magnet_cli.dataset import Sample
    from magnet_cli.geometry import Size
    from magnet_cli.train.config import DataConfig

    Pixels = NDArray[np.uint8]

RGB = 3
RASTERS = frozenset({".bmp", ".jp2", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"})
"""Suffixes of files that can be pictures and label maps; others lie beside them."""


def read_array(path: Path) -> Pixels:
    """A whole picture or label map, uint8, `(rows, columns)` or `(rows, columns, bands)`.

    It is decoded at once, by tifffile or imagecodecs, because windows are drawn from all over it: level 0 of what those
    read, so no whole slides, and a palette counts as its colours.

    Raises:
        SourceError: It cannot be decoded, or has other than 8 bits.
    """
    import imagecodecs  # noqa: PLC0415  heavy
    import tifffile  # noqa: PLC0415  heavy

    try:
        if path.suffix.lower() in {".tif", ".tiff"}:
            array = np.asarray(tifffile.imread(path))
        else:
            array = np.asarray(imagecodecs.imread(path))
    except (OSError, ValueError, RuntimeError, tifffile.TiffFileError) as exc:
        raise SourceError(f"cannot be decoded: {str(exc).partition(chr(10))[0]}", file=path) from exc
    if array.dtype != np.uint8:
        raise SourceError("training reads 8-bit pictures and labels", value=array.dtype, file=path)
    return array


def banded(array: Pixels) -> Pixels:
    """A picture with its bands as the last axis, one where it is grey."""
    return array[..., None] if array.ndim == RGB - 1 else array


@dataclass(frozen=True, kw_only=True, eq=False)
class Scene:
    """One picture with its label map."""

    name: str
    pixels: Pixels
    """`(rows, columns, bands)`."""
    labels: Pixels
    """`(rows, columns)`."""

    def __post_init__(self) -> None:
        if self.pixels.ndim != RGB or self.pixels.shape[:2] != self.labels.shape:
            raise SourceError(
                "picture and label map differ in size",
                value=f"{self.pixels.shape} and {self.labels.shape}",
                file=self.name,
            )

    @property
    def digest(self) -> str:
        """Hash of picture and labels."""
        found = hashlib.sha256(repr(self.pixels.shape).encode())
        for array in (self.pixels, self.labels):
            found.update(np.ascontiguousarray(array).data)
        return found.hexdigest()

    @cached_property
    def pyramid(self) -> tuple[Pixels, ...]:
        """The picture and its halvings by area, down to 64 pixels."""
        levels = [self.pixels]
        while min(levels[-1].shape[:2]) >= 128:  # noqa: PLR2004
            rows, columns = (side // 2 * 2 for side in levels[-1].shape[:2])
            fine = levels[-1][:rows, :columns].astype(np.uint16)
            total = fine[::2, ::2] + fine[1::2, ::2] + fine[::2, 1::2] + fine[1::2, 1::2]
            levels.append(((total + 2) // 4).astype(np.uint8))
        return tuple(levels)


@dataclass(frozen=True, kw_only=True)
class Window:
    """A rectangle of level 0, which may reach beyond the picture, where it is mirrored."""

    x: float
    y: float
    width: float
    height: float


def mirrored(indices: NDArray[np.intp], *, size: int) -> NDArray[np.intp]:
    """Indices reflected into `0 .. size`, edge pixels repeated."""
    index = indices % (2 * size)
    mirrored_index: NDArray[np.intp] = np.minimum(index, 2 * size - 1 - index)
    return mirrored_index


def cut(scene: Scene, window: Window, *, size: Size) -> tuple[NDArray[np.float32], Pixels]:
    """A window as the network sees it.

    Returns:
        Stored values `(size.height, size.width, bands)`, averaged by area, and labels taken at the pixels' centres.
    """
    ratio = min(window.width / size.width, window.height / size.height)
    level = min(max(0, int(log2(ratio) + 1e-9)) if ratio >= 1 else 0, len(scene.pyramid) - 1)
    source, shrink = scene.pyramid[level], 2**level
    rows = mirrored(span(window.y, window.height, shrink=shrink), size=source.shape[0])
    columns = mirrored(span(window.x, window.width, shrink=shrink), size=source.shape[1])
    part = torch.from_numpy(source[rows[:, None], columns[None, :]]).permute(2, 0, 1).float()
    target = (size.height, size.width)
    if part.shape[1:] != target:
        shrinks = part.shape[1] >= target[0] and part.shape[2] >= target[1]
        part = resized(part, target=target, mode="area" if shrinks else "bilinear")
    y = mirrored(centres(window.y, window.height, count=size.height), size=scene.labels.shape[0])
    x = mirrored(centres(window.x, window.width, count=size.width), size=scene.labels.shape[1])
    return part.permute(1, 2, 0).numpy(), scene.labels[y[:, None], x[None, :]]


def span(start: float, length: float, *, shrink: int) -> NDArray[np.intp]:
    """Pixels of a pyramid level that a stretch of level 0 covers, at least one."""
    first = round(start / shrink)
    return np.arange(first, first + max(1, round(length / shrink)), dtype=np.intp)


def centres(start: float, length: float, *, count: int) -> NDArray[np.intp]:
    """Level-0 pixels that hold the centres of `count` patch pixels."""
    return np.floor(start + (np.arange(count) + 0.5) * length / count).astype(np.intp)


def resized(part: torch.Tensor, *, target: tuple[int, int], mode: str) -> torch.Tensor:
    """`(bands, rows, columns)` at another size."""
    return functional.interpolate(part[None], size=target, mode=mode)[0]


def drawn(scene: Scene, rng: np.random.Generator, *, scales: Sequence[Size], jitter: float) -> Window:
    """A random window near one of the scales, inside the scene where it fits, else around it."""
    scale = scales[int(rng.integers(len(scales)))]
    factor = exp(rng.uniform(-log(jitter), log(jitter)))
    height, width = scale.height * factor, scale.width * factor
    rows, columns = scene.labels.shape
    y = rng.uniform(min(0, rows - height), max(0, rows - height))
    x = rng.uniform(min(0, columns - width), max(0, columns - width))
    return Window(x=x, y=y, width=width, height=height)


def stitched(parts: Sequence[Pixels], *, grid: tuple[int, int], file: Path) -> Pixels:
    """Adjacent crops, row by row, as one array."""
    rows, columns = grid
    if len(parts) != rows * columns:
        raise SourceError(f"a grid of {rows} x {columns} parts is asked for", value=len(parts), file=file)
    try:
        lines = [np.concatenate(parts[row * columns : (row + 1) * columns], axis=1) for row in range(rows)]
        return np.concatenate(lines, axis=0)
    except ValueError as exc:
        raise SourceError("the parts do not fit side by side", file=file) from exc


def is_raster(path: Path) -> bool:
    """Whether a file is meant as a picture or label map."""
    return path.is_file() and not path.name.startswith(".") and path.suffix.lower() in RASTERS


def paired(folder: Path, config: DataConfig) -> list[tuple[Path, Path]]:
    """Pictures of a folder with their label maps, by stem, sorted by name."""
    try:
        images = sorted(path for path in (folder / config.images).iterdir() if is_raster(path))
        labels = {path.stem: path for path in (folder / config.labels).iterdir() if is_raster(path)}
    except OSError as exc:
        raise SourceError(f"needs the folders {config.images} and {config.labels}: {exc}", file=folder) from exc
    for image in images:
        if image.stem not in labels:
            raise SourceError("this picture has no label map", file=image)
    return [(image, labels[image.stem]) for image in images]


def one_scene(
    name: str, pairs: Sequence[tuple[Path, Path]], *, config: DataConfig, grid: tuple[int, int] = (1, 1)
) -> Scene:
    """The scene that one pair, or a grid of pairs, makes."""
    pixels = stitched([banded(read_array(image))[..., :RGB] for image, _ in pairs], grid=grid, file=pairs[0][0])
    labels = stitched([read_array(label) for _, label in pairs], grid=grid, file=pairs[0][1])
    return Scene(name=name, pixels=pixels, labels=meant(labels, config.label_values))


def meant(labels: Pixels, values: Mapping[str, int]) -> Pixels:
    """Labels with stored values replaced by the classes that they mean; others stay."""
    if not values:
        return labels
    table = np.arange(256, dtype=np.uint8)
    for stored, label in values.items():
        table[int(stored)] = label
    return table[labels]


def outlined(scene: Scene, roi: Path, *, ignore: int) -> Scene:
    """The scene with labels ignored where the first band of the raster `roi` is 0.

    Raises:
        SourceError: The raster has another size.
    """
    region = read_array(roi)
    if region.shape[:2] != scene.labels.shape:
        raise SourceError(f"the size must be that of {scene.name}, {scene.labels.shape}", value=region.shape, file=roi)
    inside = region.reshape(*scene.labels.shape, -1)[..., 0] != 0
    return Scene(
        name=scene.name, pixels=scene.pixels, labels=np.where(inside, scene.labels, np.uint8(ignore)).astype(np.uint8)
    )


def sampled(sample: Sample, config: DataConfig) -> Scene:
    """The scene that a line of a CSV file names, decoded."""
    whole = one_scene(sample.name, [(sample.image, sample.label)], config=config)
    return whole if sample.roi is None else outlined(whole, sample.roi, ignore=config.ignore)


def load_scenes(data: Path, config: DataConfig) -> list[Scene]:
    """Every scene, those to validate on included, below a folder or of a CSV file; see `DataConfig`.

    Raises:
        SourceError: A file is missing, cannot be decoded, or does not fit its label map.
        UsageError: There is nothing to train on, or the CSV file has no scene of a name.
    """
    if data.suffix.lower() == ".csv":
        scenes = [sampled(sample, config) for sample in read_dataset(data, config.scenes)]
    elif config.scenes and config.grid:
        scenes = [
            one_scene(name, paired(data / name, config), config=config, grid=config.grid) for name in config.scenes
        ]
    else:
        found = {f"{name}/": paired(data / name, config) for name in config.scenes} or {"": paired(data, config)}
        scenes = [
            one_scene(f"{prefix}{image.stem}", [(image, label)], config=config)
            for prefix, pairs in found.items()
            for image, label in pairs
        ]
    if not scenes:
        raise UsageError("there is nothing to train on", file=data)
    refuse_twice([scene.name for scene in scenes], file=data)
    return scenes


def refuse_twice(names: Sequence[str], *, file: Path) -> None:
    """Check that each scene has its own name, by which folds and validation tell it.

    Raises:
        SourceError: Two have one.
    """
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise SourceError(
            "two scenes have one name",
            value=", ".join(twice),
            file=file,
            advice="Rename one, or tell them apart in the column `name` of a CSV file.",
        )


def divided(scenes: Sequence[Scene], config: DataConfig) -> tuple[list[Scene], list[Scene]]:
    """The scenes to train on, and those of every name in `config.validation`.

    Raises:
        UsageError: A name is unknown, or nothing is left to train on.
    """
    known = sorted({scene.name for scene in scenes})
    if unknown := [name for name in config.validation if name not in known]:
        raise UsageError(
            "[data] validation names scenes that the data do not have",
            value=", ".join(unknown),
            advice=f"Known: {', '.join(known)}",
        )
    training = [scene for scene in scenes if scene.name not in config.validation]
    if not training:
        raise UsageError("[data] validation leaves nothing to train on", value=", ".join(config.validation))
    return training, [scene for scene in scenes if scene.name in config.validation]
