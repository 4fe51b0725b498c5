"""Scenes with their labels, each one file, and a CSV file that lists them.

    python -m benchmarks.accuracy.scenes --data DATA --work WORK

DATA has two folders. `dubai` is "Semantic segmentation of aerial imagery" (MBRSC and Humans in the Loop): nine adjacent
parts a tile in `tileN/images` and `tileN/labels`, and tiles 5 and 7 whole in `mosaics`. `hrf` is the High-Resolution
Fundus images: `images`, `vessels`, `fov`. WORK/dubai and WORK/hrf get a `scenes.csv` with the columns name, image and
label; WORK/hrf/whole-scenes.csv lists the retinas with labels that call all that lies outside of the field of view
background, so that a network learns that no vessels are there. WORK/scenes.csv lists both folders, for what learns
from labels of any kind; WORK/masks.csv lists each retina once for each method of `fundus`, with the mask that `magnet
segment --method METHOD -o WORK/masks/NAME-METHOD.tif` will have made.
"""

from __future__ import annotations

import argparse
import csv
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import imagecodecs
import numpy as np
import tifffile

from magnet_cli.geometry import Box
from magnet_cli.refinement.mask_kinds import class_color
from magnet_cli.train.config import DataConfig
from magnet_cli.train.scene_data import load_scenes

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from numpy.typing import NDArray

TILES = ("tile1", "tile2", "tile3", "tile4", "tile6")
MOSAICS = ("tile5", "tile7")
"""Tiles that the data has as whole images."""
WHOLE = "tile7"
PART = "tile7-part"
PART_AT = (slice(600, 3400), slice(1200, 4000))
"""Rows and columns of the part of tile 7 to which fields are fitted. It has houses, roads, gardens and sand."""
IGNORE = 255
WHOLE_FIELD = "whole-"
"""Beginning of the names of labels in which the surroundings of a retina are background."""
METHODS = ("downsample", "patch", "magnet")
"""Methods of `magnet segment` whose masks a cascade learns to sharpen."""


@dataclass(frozen=True, kw_only=True)
class SceneFiles:
    """The files that belong to one scene."""

    work: Path
    """The folder WORK."""
    name: str


def write_labels(path: Path, labels: NDArray[np.uint8], *, classes: Sequence[str] = ()) -> None:
    """Write class indices as a tiled TIFF, with the names of the classes where they are given."""
    named = [{"name": name, "color": class_color(label)} for label, name in enumerate(classes)]
    description = json.dumps({"classes": named}) if named else None
    tifffile.imwrite(path, labels, tile=(256, 256), compression="zlib", description=description)


def write_list(folder: Path, names: Iterable[str], *, suffix: str = ".tif", kind: str = "") -> None:
    """Write the CSV file that training and evaluation read, `scenes.csv`.

    Args:
        folder: Folder of the images and their labels.
        names: Names of the scenes.
        suffix: Suffix of the images.
        kind: What the names of the CSV file and of the labels begin with, such as `whole-`.
    """
    with (folder / f"{kind}scenes.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["name", "image", "label"])
        writer.writerows([name, f"{name}{suffix}", f"{name}-{kind}labels.tif"] for name in names)


def prepare_dubai(data: Path, folder: Path) -> None:
    """Join the nine parts of each tile, and take tiles 5 and 7 as they are."""
    folder.mkdir(parents=True, exist_ok=True)
    for scene in load_scenes(data, DataConfig(scenes=TILES, grid=(3, 3))):
        pixels = scene.pixels.read(0, Box.whole(scene.size))
        labels = scene.labels.at(np.arange(scene.size.height), np.arange(scene.size.width))
        tifffile.imwrite(folder / f"{scene.name}.tif", pixels, tile=(256, 256), compression="zlib", photometric="rgb")
        write_labels(folder / f"{scene.name}-labels.tif", labels)
    for name in MOSAICS:
        (folder / f"{name}.tif").write_bytes((data / "mosaics" / f"{name}.tif").read_bytes())
        write_labels(folder / f"{name}-labels.tif", imagecodecs.imread(data / "mosaics" / f"{name}_label.png"))
    for name in (WHOLE, f"{WHOLE}-labels"):
        part = tifffile.imread(folder / f"{name}.tif")[PART_AT]
        target = folder / f"{name.replace(WHOLE, PART)}.tif"
        tifffile.imwrite(target, part, tile=(256, 256), compression="zlib")
    write_list(folder, (*TILES, *MOSAICS, PART))


def prepare_hrf(data: Path, folder: Path) -> None:
    """Write vessels as 0 and 1 inside the field of view, and 255 outside it; and once more with 0 outside it."""
    folder.mkdir(parents=True, exist_ok=True)
    names = []
    for vessels in sorted((data / "vessels").iterdir()):
        name = vessels.stem
        image = next(path for path in (data / "images").iterdir() if path.stem == name)
        view = tifffile.imread(data / "fov" / f"{name}_mask.tif")
        seen = (view if view.ndim == 2 else view[..., 0]) > 0
        whole = (seen & (tifffile.imread(vessels) > 0)).astype(np.uint8)
        (folder / f"{name}.jpg").write_bytes(image.read_bytes())
        write_labels(folder / f"{name}-labels.tif", np.where(seen, whole, np.uint8(IGNORE)))
        write_labels(folder / f"{name}-{WHOLE_FIELD}labels.tif", whole)
        names.append(name)
    write_list(folder, names, suffix=".jpg")
    write_list(folder, names, suffix=".jpg", kind=WHOLE_FIELD)


def write_joint_list(work: Path) -> None:
    """Write one CSV file of the scenes of every folder."""
    with (work / "scenes.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["name", "image", "label"])
        for folder in ("dubai", "hrf"):
            with (work / folder / "scenes.csv").open(newline="", encoding="utf-8") as part:
                rows = list(csv.DictReader(part))
            writer.writerows([row["name"], f"{folder}/{row['image']}", f"{folder}/{row['label']}"] for row in rows)


def write_mask_list(work: Path) -> None:
    """Write a CSV file that lists each retina once for each method, with the mask that is to be sharpened."""
    names = sorted(path.stem for path in (work / "hrf").glob("*.jpg"))
    with (work / "masks.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["name", "image", "label", "mask"])
        for name in names:
            for method in METHODS:
                mask = f"masks/{name}-{method}.tif"
                writer.writerow([f"{name}-{method}", f"hrf/{name}.jpg", f"hrf/{name}-labels.tif", mask])


def main() -> None:
    """Prepare all data that DATA holds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--work", type=Path, default=Path("accuracy-work"))
    args = parser.parse_args()
    prepare_dubai(args.data / "dubai", args.work / "dubai")
    prepare_hrf(args.data / "hrf", args.work / "hrf")
    write_joint_list(args.work)
    write_mask_list(args.work)


if __name__ == "__main__":
    main()
