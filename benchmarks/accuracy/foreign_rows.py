"""Measure networks of other libraries on scenes that they have not seen: at their own scale, beside MONAI, and coarser.

    python -m benchmarks.accuracy.foreign_training --work WORK
    python -m benchmarks.accuracy.foreign_rows --work WORK --scene tile5 --network smp-fpn
    python -m benchmarks.accuracy.page

Each network is imported as a user would import it (WORK/bundles/foreign-NAME), and scored with its own scale alone
(the default), with MONAI's SlidingWindowInferer at the same window and overlap, and with windows of twice and four
times the side. Each row becomes a line of benchmarks/results/scales.jsonl. `lite0-onnx` is the recipe of `aerial` as
an ONNX file, trained without these scenes by benchmarks/accuracy/pretrained.py and, unlike all others, at four scales.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from monai.inferers.inferer import SlidingWindowInferer
from torch.utils.flop_counter import FlopCounterMode
from typing_extensions import override

from benchmarks.accuracy.cells import Cell
from benchmarks.accuracy.foreign_networks import FOREIGN, INPUT, network_options, onnx_network
from benchmarks.accuracy.foreign_tables import FOREIGN_SCENES, MONAI, NETWORK_ROWS, ONNX, TABLE, foreign_row
from benchmarks.accuracy.rows import Place, digest, megapixels, run_report, scored, windows_run
from benchmarks.accuracy.scenes import write_labels
from magnet_cli import SegmentOptions
from magnet_cli.importing.network_bundle import import_network
from magnet_cli.models.bundle import load_bundle
from magnet_cli.models.description import DESCRIPTION
from magnet_cli.models.networks import load_networks

if TYPE_CHECKING:
    from magnet_cli.models.bundle import Bundle

ONNX_FROM = "lite0-seed1"
"""Name of the bundle of benchmarks/accuracy/pretrained.py that becomes an ONNX file."""


@dataclass(frozen=True, kw_only=True)
class ForeignPlace(Place):
    """The files of a held-out scene, and the bundle of a network that has not seen it."""

    network: str

    @property
    def bundle(self) -> Path:
        """Return the folder of the imported network."""
        return self.work / "bundles" / f"foreign-{self.network}"

    @property
    def saved(self) -> Path:
        """Return the path of the network as its own library saved it."""
        suffix = ".onnx" if self.network == ONNX else FOREIGN[self.network].suffix
        return self.work / "networks" / f"{self.network}{suffix}"

    @property
    @override
    def table(self) -> str:
        return TABLE

    @property
    @override
    def weights(self) -> str:
        return digest(self.saved / "model.safetensors" if self.saved.is_dir() else self.saved)


def imported(place: ForeignPlace) -> Bundle:
    """Return the network as a bundle, which is made where it is missing."""
    if not (place.bundle / DESCRIPTION).exists():
        if place.network == ONNX and not place.saved.exists():
            onnx_network(load_bundle(str(place.work / "bundles" / ONNX_FROM)), place.saved)
        import_network(network_options(place.network, place.saved), place.bundle)
    return load_bundle(str(place.bundle))


def loaded(place: ForeignPlace) -> torch.nn.Module:
    """Return the network as its own library loads it, without this program."""
    return FOREIGN[place.network].load(place.saved).eval()


def gmac(place: ForeignPlace) -> float:
    """Return the multiplications of one forward pass in units of 10^9, counted on the library's own network."""
    counted: Any
    if place.network == ONNX:
        bundle = load_bundle(str(place.work / "bundles" / ONNX_FROM))
        counted = partial(load_networks(bundle, device="cpu", precision="float32").predict, scale=bundle.scales[-1])
    else:
        counted = loaded(place)
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        counted(torch.zeros((1, 3, INPUT, INPUT)))
    return float(counter.get_total_flops()) / 2e9


def by_magnet(place: ForeignPlace, name: str, options: dict[str, Any]) -> Cell:
    """Measure one row through the program."""
    bundle = imported(place)
    mask = place.mask(name)
    given = SegmentOptions(weights=str(bundle.folder), overwrite=True, **options)
    report = run_report(place.image, mask, given)
    windows = windows_run(report)
    return Cell(
        row=name,
        scene=place.name,
        **scored(mask, place.truth),
        windows=sum(windows),
        gmac=round(sum(windows) * gmac(place), 3),
        megapixels=megapixels(report),
        backbone=place.weights,
        more={"windows_by_stage": windows, "margin": bundle.magnet.margin, "options": report["options"]},
    )


def by_monai(place: ForeignPlace, name: str) -> Cell:
    """Measure the network, loaded by its own library, in MONAI's sliding window."""
    known, network = FOREIGN[place.network], loaded(place)
    overlap = 2 * imported(place).magnet.margin / INPUT
    pixels = torch.from_numpy(place.pixels()).permute(2, 0, 1).float()[None] / 255
    mean, std = (torch.tensor(values).view(1, -1, 1, 1) for values in (known.mean, known.std))
    windows: list[int] = []

    def scores(patches: torch.Tensor) -> torch.Tensor:
        windows.append(len(patches))
        return known.scores(network, patches).softmax(dim=1)

    started = time.monotonic()
    with torch.inference_mode():
        inferer = SlidingWindowInferer((INPUT, INPUT), sw_batch_size=4, overlap=overlap)
        probs: Any = inferer((pixels - mean) / std, scores)
    seconds = time.monotonic() - started
    mask = place.mask(name)
    mask.parent.mkdir(parents=True, exist_ok=True)
    write_labels(mask, probs[0].argmax(dim=0).to(torch.uint8).numpy())
    return Cell(
        row=name,
        scene=place.name,
        **scored(mask, place.truth),
        windows=sum(windows),
        gmac=round(sum(windows) * gmac(place), 3),
        megapixels=pixels.shape[2] * pixels.shape[3] / 1e6,
        backbone=place.weights,
        more={"overlap": overlap, "seconds": round(seconds, 1)},
    )


def main() -> None:
    """Measure the rows that have not been measured with these weights."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path("accuracy-work"))
    parser.add_argument("--scene", action="append", choices=FOREIGN_SCENES)
    parser.add_argument("--network", action="append", choices=(*FOREIGN, ONNX))
    parser.add_argument("--row", action="append", choices=tuple(NETWORK_ROWS))
    args = parser.parse_args()
    for scene in args.scene or FOREIGN_SCENES:
        for network in args.network or (*FOREIGN, ONNX):
            place = ForeignPlace(work=args.work, name=scene, network=network)
            for row in args.row or NETWORK_ROWS:
                if row == MONAI and network == ONNX:
                    continue
                imported(place)
                name = foreign_row(network, row)
                if row == MONAI:
                    place.keep(name, partial(by_monai, place, name))
                else:
                    place.keep(name, partial(by_magnet, place, name, NETWORK_ROWS[row]))


if __name__ == "__main__":
    main()
