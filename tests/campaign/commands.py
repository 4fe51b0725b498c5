"""The commands that a campaign kills and disturbs, with the small files that they work on."""

from __future__ import annotations

import json
import pickle
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import imagecodecs
import numpy as np
import tifffile
import torch
import zarr

from magnet_cli.geometry import Size
from magnet_cli.models.bundle import load_bundle, load_cascade_bundle
from magnet_cli.models.bundle_writer import describe_cascade, write_cascade_bundle
from magnet_cli.models.registry import build_backbone, build_cascade
from magnet_cli.scene import Pyramid, Scene, write_scene
from magnet_cli.train.config import TrainConfig
from magnet_cli.train.curves import picture
from tests.campaign.child import typed
from tests.laws.support import blurry_bundle
from tests.segmentation.test_grnet import grnet
from tests.train.grnet import GRNET, SELECTOR
from tests.train.support import CONFIG, make_data
from tests.train.test_cascade import CONFIG as CASCADE

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

SIZE: Final = Size(width=200, height=150)
VOLATILE: Final = frozenset(
    {
        *("seconds", "started", "finished", "machine", "memory", "program", "command", "groups", "timing", "peak"),
        *("created", "digest", "engine", "host_peak", "io", "throughput", "workers", "resumed", "run", "status"),
    }
)
"""Keys of reports and logs, at any depth, whose values differ from one undisturbed run to the next."""


MEASURED: Final = re.compile(r'<h2 id="h-cost">.*?<section|<th scope="row">report</th>[^\n]*', re.DOTALL)
"""The parts of a page with times, memory and counts of the run, and the digest of the report, which has those too."""


@dataclass(frozen=True, kw_only=True)
class Command:
    """One command line, typed in an empty folder."""

    name: str
    words: tuple[str, ...]
    """With `@` for the folder of inputs; outputs go below `out`."""

    repeatable: bool = True
    """Whether it may be typed again once it is finished. One that refuses an existing output then ends with 5."""

    @property
    def finished(self) -> set[int]:
        """The exit codes of a run that finds or makes the finished output."""
        return {0} if self.repeatable else {0, 5}

    def line(self, inputs: Path) -> list[str]:
        """Return the words, with the inputs' folder filled in."""
        return [word.replace("@", str(inputs)) for word in self.words]


def _segment(
    name: str, *words: str, bundle: str = "blurry", image: str = "scene.tif", out: str = "out/m.tif"
) -> Command:
    usual = ("segment", f"@/{image}", f"--weights=@/{bundle}", "--tissue=none", "--device=cpu")
    return Command(name=name, words=(*usual, *words, "-o", out))


def _train(what: str, *, config: str) -> Command:
    return Command(
        name=f"train {what}", words=("train", what, "@/data", "--config", f"@/{config}", "-o", "out/trained")
    )


ONE_PASS: Final = ("--scales=32,64,128", "--overlap=16", "--batch-size=1")
TWO_PASSES: Final = ("--scales=32,64,128,256,512", "--overlap=16", "--batch-size=1")
FAST: Final = ("--method=magnet-fast", *TWO_PASSES)
EXPORTS: Final = ("--format=cog,ome-tiff,ome-zarr,geojson",)
REFINING: Final = ("refine", "@/scene.tif", "@/discs.tif", "--device=cpu")
COMMANDS: Final = (
    _segment("segment", *ONE_PASS),
    _segment("segment two passes, two readers", *TWO_PASSES, "--num-workers=2"),
    _segment("segment --method patch", "--method=patch", *ONE_PASS),
    _segment("segment --method magnet-fast", *FAST, "--patches=3,2,2,2"),
    _segment("segment --method grnet", "--method=grnet", bundle="grnet"),
    _segment("segment with fields", *TWO_PASSES, "--probabilities", "--uncertainty"),
    _segment("segment with exports", *ONE_PASS, *EXPORTS),
    _segment("segment with overlay and page", *ONE_PASS, "--overlay", "--html"),
    _segment("segment --refine guided", *ONE_PASS, "--refine=guided"),
    _segment("segment a folder", *ONE_PASS, image="folder", out="out"),
    Command(
        name="refine by a cascade",
        words=(*REFINING, "--weights=@/sharp", "--L=96", "--min-area=20", "-o", "out/r.tif"),
    ),
    Command(name="refine guided", words=("refine", "@/scene.tif", "@/discs.tif", "--method=guided", "-o", "out/r.tif")),
    _train("backbone", config="backbone.toml"),
    _train("cascade", config="cascade.toml"),
    _train("grnet", config="grnet.toml"),
    Command(
        name="weights import",
        words=(
            *("weights", "import", "--preset=cityscapes", "--architecture=conv"),
            *("--backbone=@/checkpoint.pth", "-o", "out/imported"),
        ),
        repeatable=False,
    ),
    Command(
        name="evaluate --data",
        words=("evaluate", "--data=@/folder/list.csv", "--weights=@/blurry", *ONE_PASS, "--device=cpu", "-o", "out"),
    ),
    Command(name="export", words=("export", "@/mask/m.tif", "--format=cog,ome-tiff,ome-zarr,geojson", "-o", "out")),
)


def make_inputs(folder: Path) -> int:
    """Write the images, masks, bundles, configurations and scenes that the commands read; an exit code."""
    torch.set_num_threads(1)
    write_scene(folder / "scene.tif", Scene(size=SIZE, seed=2, plain=True), pyramid=Pyramid(tile=64))
    pixels = tifffile.imread(folder / "scene.tif")
    rows, columns = np.mgrid[: SIZE.height, : SIZE.width]
    discs = np.zeros(rows.shape, np.uint8)
    for row, column, radius in ((35, 40, 20), (100, 60, 25), (45, 150, 27), (115, 165, 20)):
        discs[(rows - row) ** 2 + (columns - column) ** 2 <= radius**2] = 1
    tifffile.imwrite(folder / "discs.tif", discs, tile=(64, 64), photometric="minisblack", metadata=None)
    blurry_bundle(folder / "blurry", scales=(32, 64, 128), margin=8)
    grnet(folder / "grnet")
    _cascade(folder / "sharp")
    _images(folder / "folder", pixels, discs)
    make_data(folder / "data")
    loop = CONFIG.replace("iterations = 40", "iterations = 12")
    (folder / "backbone.toml").write_text(loop)
    (folder / "grnet.toml").write_text(GRNET)
    (folder / "selector.toml").write_text(SELECTOR)
    (folder / "cascade.toml").write_text(
        CASCADE.replace("iterations = 30", "iterations = 8").replace("save_every = 100", "save_every = 2")
    )
    torch.manual_seed(8)
    network = build_backbone("conv", classes=19, bands=3, options={})
    torch.save(network.state_dict(), folder / "checkpoint.pth")
    (folder / "mask").mkdir()
    command = COMMANDS[0].line(folder)
    return typed([*command[:-1], str(folder / "mask" / "m.tif")])


def warm(folder: Path) -> None:
    """Let this process make what every child would make anew: validators of descriptions, and fonts of pictures.

    Args:
        folder: The folder of `make_inputs`.
    """
    for name in ("blurry", "grnet"):
        load_bundle(str(folder / name))
    load_cascade_bundle(str(folder / "sharp"))
    for name in ("backbone", "cascade", "grnet"):
        TrainConfig.read(folder / f"{name}.toml")
    picture([{"iteration": 1.0, "loss": 0.5, "rate": 0.1}, {"iteration": 2.0, "loss": 0.4, "rate": 0.1}])


def _cascade(folder: Path) -> None:
    """Write a cascade that is one random convolution, which mostly keeps the mask."""
    torch.manual_seed(5)
    network = build_cascade("conv", options={"kernel": 3})
    with torch.no_grad():
        network.get_parameter("network.conv.weight")[:, 3:, 1, 1] += 1
    description = describe_cascade(side=96, network={"options": {"kernel": 3}})
    write_cascade_bundle(folder, description, network, dtype=torch.float32)


def _images(folder: Path, pixels: np.ndarray[Any, np.dtype[np.uint8]], labels: np.ndarray[Any, Any]) -> None:
    """Write three images in three formats, and a list of them with their labels."""
    folder.mkdir()
    (folder.parent / "labels").mkdir()
    tifffile.imwrite(folder / "a.tif", pixels[:90, :100], tile=(64, 64), photometric="rgb", compression="deflate")
    imagecodecs.imwrite(folder / "b.png", pixels[50:130, 40:110])
    zarr.create_array(folder / "c.zarr", data=np.moveaxis(pixels[:80, 110:190], 2, 0), chunks=(3, 64, 64))
    lines = ["name,image,label"]
    for name, image, truth in (("a", "a.tif", labels[:90, :100]), ("b", "b.png", labels[50:130, 40:110])):
        imagecodecs.imwrite(folder.parent / "labels" / f"{name}.png", truth)
        lines.append(f"{name},{image},../labels/{name}.png")
    (folder / "list.csv").write_text("\n".join(lines) + "\n")


def outputs_of(folder: Path) -> dict[str, bytes]:
    """Return the content of every output, by its path: exact bytes, without what two undisturbed runs never share.

    Reports and logs are parsed, and lose the times, memory and counts of the run; everything else is as it lies there.
    """
    found: dict[str, bytes] = {}
    for path in sorted(folder.rglob("*")):
        if path.is_dir():
            found[f"{path.relative_to(folder)}/"] = b""
        else:
            found[str(path.relative_to(folder))] = _comparable(path)
    return found


def _comparable(path: Path) -> bytes:
    data = path.read_bytes()
    compared: Any = None
    try:
        if path.name == "run.json":
            # It counts images by what the last run did with them.
            compared = _lasting({**json.loads(data), "counts": None})
        elif path.name.endswith(".json") and path.name != "zarr.json":
            compared = _lasting(json.loads(data))
        elif path.name.endswith(".jsonl"):
            compared = [_lasting(json.loads(line)) for line in data.decode().splitlines()]
        elif path.suffix == ".pt":
            # An archive of a training that went on has its parts in another order.
            compared = _tensors(torch.load(path, weights_only=True))
        elif path.suffix == ".html":
            compared = MEASURED.sub("", data.decode())
    except (ValueError, RuntimeError, pickle.UnpicklingError):
        return data
    return data if compared is None else repr(compared).encode()


def _tensors(value: Any) -> Any:
    """Return a checkpoint's values, its tensors as type, shape and bytes."""
    if isinstance(value, dict):
        return sorted((str(key), _tensors(inner)) for key, inner in value.items())
    if isinstance(value, list | tuple):
        return [_tensors(inner) for inner in value]
    if isinstance(value, torch.Tensor):
        return str(value.dtype), tuple(value.shape), value.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
    return value


def _lasting(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _lasting(inner) for key, inner in value.items() if key not in VOLATILE}
    if isinstance(value, list):
        return [_lasting(inner) for inner in value]
    return value


def differences(expected: Mapping[str, bytes], found: Mapping[str, bytes]) -> list[str]:
    """Return what differs between two sets of outputs, a line each."""
    lost = [f"missing: {name}" for name in expected if name not in found]
    left = [f"left over: {name}" for name in found if name not in expected]
    return [
        *lost,
        *left,
        *(f"differs: {name}" for name in expected if found.get(name, expected[name]) != expected[name]),
    ]
