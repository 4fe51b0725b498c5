"""A large synthetic slide, and lavlab-shell's network on it: by its own command, and by `magnet segment`.

    python benchmarks/sections.py slide ../shared/data/formats/wsi_svs/CMU-1-Small-Region.svs WORK/slide.tif
    python benchmarks/sections.py run WORK/slide.tif --packages FOLDER --work WORK --pixel 2
    python benchmarks/sections.py compare --work WORK

`slide` enlarges a scanned section twofold, as if it came from a scanner of 40x, and mirrors it to a slide of any size,
in bounded memory and always with the same pixels. `run` runs both programs in turn, one thread each, and notes their
seconds, processor time and largest resident memory; FOLDER holds the packages lavlab-shell and macenko-pca. The
package's command runs as it is, and once more with `--mode tile`, which leaves the network's answer uncut, and with
tiles of the size that `magnet` takes. `compare` counts equal labels on the network's grid, and draws the masks.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyvips
import tifffile
import zarr

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

PIXEL = 0.499
"""Micrometres of a pixel of the section, as its file states them."""
ENLARGED = 2
TILE = 512
"""Side of windows and tiles where both programs take the same, in pixels of the network's grid."""
COMMAND = """
import sys
import shell.infer_wsi
side = int(sys.argv.pop(1))
if side:
    # The package has no option for the side of its tiles.
    shell.infer_wsi.TILE_SIZE = (side, side)
from shell.cli import main
sys.exit(main())
"""
IMPORT = (
    *("--input", str(TILE), "--multiple", "64", "--mean", "0,0,0", "--std", "1,1,1", "--activation", "sigmoid"),
    *("--classes", "lumen,epithelium,rest", "--preparation", "stains", "--licence", "MIT"),
)
CLASSES = ("lumen", "epithelium", "rest")
PALETTE = np.array([[60, 16, 152], [226, 169, 41], [225, 225, 225], [255, 255, 255]], np.uint8)
"""Colours of lumen, epithelium, rest, and of what was not computed."""


@dataclass(frozen=True, kw_only=True)
class Took:
    """The cost of a command."""

    command: str
    seconds: float
    processor: float
    """Processor seconds of all its threads."""
    peak: int
    """Largest resident memory in MiB."""


def make_slide(section: Path, slide: Path, side: int) -> None:
    """Write a pyramidal TIFF of `side` pixels a side, in JPEG tiles, with the size of a pixel."""
    image = pyvips.Image.tiffload(str(section)).resize(ENLARGED).copy_memory()
    for name in image.get_fields():
        if name.startswith(("image-description", "icc-", "exif-", "xmp-")):
            image = image.copy()
            image.remove(name)
    whole = image.embed(0, 0, side, side, extend="mirror")
    per_millimetre = 1000 * ENLARGED / PIXEL
    whole.copy(xres=per_millimetre, yres=per_millimetre).tiffsave(
        str(slide), tile=True, tile_width=512, tile_height=512, pyramid=True, compression="jpeg", Q=90, resunit="cm"
    )


def took(name: str, words: Sequence[str], packages: str) -> Took:
    """Run a command in one thread, and return its cost.

    Raises:
        subprocess.CalledProcessError: The command failed.
    """
    threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "VIPS_CONCURRENCY"), "1")
    path = os.pathsep.join(filter(None, [packages, os.environ.get("PYTHONPATH")]))
    started = time.monotonic()
    process = subprocess.Popen([sys.executable, *words], env={**os.environ, **threads, "PYTHONPATH": path})
    _, status, used = os.wait4(process.pid, 0)
    if status:
        raise subprocess.CalledProcessError(os.waitstatus_to_exitcode(status), words)
    found = Took(
        command=name,
        seconds=round(time.monotonic() - started, 1),
        processor=round(used.ru_utime + used.ru_stime, 1),
        peak=used.ru_maxrss // 1024,
    )
    print(found, flush=True)
    return found


def run(args: argparse.Namespace) -> None:
    """Run both programs, in turn, and append what each took to WORK/took.jsonl."""
    work: Path = args.work
    weights = next(Path(folder) / "shell" / "weights" for folder in args.packages.split(os.pathsep))
    magnet = ("-m", "magnet_cli.cli.app")
    bundle = work / "bundle"
    if not bundle.exists():
        pixel = ("--pixel", f"{args.pixel:g}um")
        network = ("--network", str(weights / "model_v1.onnx"))
        took("import", (*magnet, "weights", "import", *network, *IMPORT, *pixel, "-o", str(bundle)), "")
    shell = ("infer", "-i", str(args.slide), "--target-mpp", str(args.pixel), "--device", "cpu", "-o")
    uncut = ("--mode", "tile", "--min-tissue-frac", "0", "--tile-pad", "1")
    segment = (*magnet, "segment", str(args.slide), "--weights", str(bundle), "--overwrite", "--num-workers", "0")
    commands = {
        "magnet": ((*segment, "--tissue", "otsu", "-o", str(work / "magnet.tif")), ""),
        "magnet-uncut": (
            (*segment, "--tissue", "none", "--probabilities", "-o", str(work / "magnet-uncut.tif")),
            "",
        ),
        "shell": (
            ("-c", COMMAND, "0", *shell, str(work / "shell.tif"), "--save-raw", str(work / "shell-raw.tif")),
            args.packages,
        ),
        "shell-uncut": (
            *[("-c", COMMAND, str(TILE), *shell, str(work / "shell-uncut.tif"), *uncut, "--save-raw")],
            args.packages,
        ),
    }
    words, packages = commands["shell-uncut"]
    commands["shell-uncut"] = ((*words, str(work / "shell-uncut-raw.tif")), packages)
    for name in args.command or commands:
        words, packages = commands[name]
        # A finished mask of the same options would not be computed again.
        (work / f"{name}.tif").unlink(missing_ok=True)
        with (work / "took.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(asdict(took(name, words, packages))) + "\n")


def grid(path: Path, step: int) -> NDArray[np.uint8]:
    """Return every `step`-th pixel of an image, `(rows, columns, bands)`, from the middle of the first square."""
    half = step // 2
    with tifffile.TiffFile(path) as file:
        stored: Any = zarr.open(file.series[0].aszarr(level=0), mode="r")
        pixels: NDArray[np.uint8] = np.asarray(stored[half::step, half::step])
    return np.atleast_3d(pixels)


def labels_of_raw(raw: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return the classes of the package's raw bands. Lumen has priority over epithelium; the rest is neither."""
    return np.where(raw[..., 0] > 0, 0, np.where(raw[..., 1] > 0, 1, 2)).astype(np.uint8)


def agreement(first: NDArray[np.uint8], second: NDArray[np.uint8]) -> str:
    """Return the share of equal labels, and the IoU of each class."""
    known = (first != 255) & (second != 255)
    first, second = first[known], second[known]
    ious = []
    for label, name in enumerate(CLASSES):
        union = np.count_nonzero((first == label) | (second == label))
        ious.append(f"{name} {np.count_nonzero((first == label) & (second == label)) / max(1, int(union)):.3f}")
    return f"{np.mean(first == second):.2%} of {first.size} pixels are equal; IoU: {', '.join(ious)}"


def compare(args: argparse.Namespace) -> None:
    """Print how the masks agree, and write WORK/masks.png: the slide, and the masks side by side."""
    work: Path = args.work
    step = round(args.pixel * ENLARGED / PIXEL)
    masks: dict[str, NDArray[np.uint8]] = {}
    for name in ("magnet", "magnet-uncut"):
        if (work / f"{name}.tif").exists():
            masks[name] = grid(work / f"{name}.tif", step)[..., 0]
    for name in ("shell-raw", "shell-uncut-raw"):
        if (work / f"{name}.tif").exists():
            raw = grid(work / f"{name}.tif", step)
            print(name, f"lumen and epithelium at once: {np.mean((raw[..., 0] > 0) & (raw[..., 1] > 0)):.2%}")
            masks[name] = labels_of_raw(raw)
    for name, mask in masks.items():
        shares = [f"{label} {np.mean(mask == index):.1%}" for index, label in enumerate(CLASSES)]
        print(name, *shares, f"not computed {np.mean(mask == 255):.1%}")
    names = list(masks)
    for index, first in enumerate(names):
        for second in names[index + 1 :]:
            print(first, "against", second, agreement(masks[first], masks[second]))
    slide = grid(args.slide, step)[..., :3]
    views = [slide, *(PALETTE[np.minimum(mask, 3)] for mask in masks.values())]
    rows, columns = (min(view.shape[axis] for view in views) for axis in (0, 1))
    side = np.hstack([view[:rows, :columns] for view in views])[:: args.shrink, :: args.shrink]
    pyvips.Image.new_from_array(side).write_to_file(str(work / "masks.png"))


def main() -> None:
    """Make the slide, run the programs, or compare their masks."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parts = parser.add_subparsers(required=True)
    making = parts.add_parser("slide")
    making.add_argument("section", type=Path)
    making.add_argument("slide", type=Path)
    making.add_argument("--side", type=int, default=20_000)
    making.set_defaults(does=lambda args: make_slide(args.section, args.slide, args.side))
    running = parts.add_parser("run")
    running.add_argument("slide", type=Path)
    running.add_argument("--packages", required=True, help="folders of the packages, as PYTHONPATH lists them")
    running.add_argument("--command", action="append", help="one of magnet, magnet-uncut, shell, shell-uncut")
    running.set_defaults(does=run)
    comparing = parts.add_parser("compare")
    comparing.add_argument("slide", type=Path)
    comparing.add_argument("--shrink", type=int, default=4)
    comparing.set_defaults(does=compare)
    for part in (running, comparing):
        part.add_argument("--work", type=Path, required=True)
        part.add_argument("--pixel", type=float, default=2.0, help="micrometres of a pixel of the network's grid")
    args = parser.parse_args()
    args.does(args)


if __name__ == "__main__":
    main()
