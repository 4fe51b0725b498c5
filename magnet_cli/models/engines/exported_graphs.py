"""Graphs of a bundle's networks for engines other than PyTorch, exported once and kept in the user's state folder.

The export runs in a process of its own: it takes a few hundred megabytes that a run could not get back.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
import tempfile
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from magnet_cli import __version__
from magnet_cli.errors import MagnetError, WeightsError
from magnet_cli.models.architectures.strips import InStrips
from magnet_cli.models.bundle import load_bundle
from magnet_cli.models.engines.graph_engine import EXPORTERS, check_modules, version_of
from magnet_cli.models.networks import load_networks
from magnet_cli.models.pass_memory import answer_of
from magnet_cli.system import durable
from magnet_cli.system.speeds import state_folder

if TYPE_CHECKING:
    from torch import nn

    from magnet_cli.models.network_spec import Bundle

FORMAT = 1
"""Number that is raised where the same network is to be exported in another way."""
DONE = "graphs.json"
SOURCES = ("architectures", "folding.py", "networks.py", "registry.py", "weights_file.py")
"""Sources of this program that a network is made with; graphs of others are not taken for those of today's."""


@dataclass(frozen=True, kw_only=True)
class ExportedGraphs:
    """Files of the graphs of a bundle's networks."""

    backbone: Path
    refiners: tuple[Path, ...]


def exported_graphs(bundle: Bundle) -> ExportedGraphs:
    """Return the graphs of a bundle's backbone and refiners. The first call for a bundle exports them.

    Raises:
        WeightsError: A package that the export needs is missing, the networks cannot be loaded, or the exporter
            refuses them.
        OutputError: The state folder cannot be written.
    """
    folder = state_folder().absolute() / "engines" / _key(bundle)
    if not (folder / DONE).is_file():
        check_modules(EXPORTERS, what="exporting a network")
        with durable.writing(folder):
            folder.parent.mkdir(parents=True, exist_ok=True)
            staging = Path(tempfile.mkdtemp(prefix=".graphs.", dir=folder.parent))
        try:
            _export(bundle, staging)
            with durable.writing(folder):
                durable.replace_folder(staging, folder)
        finally:
            shutil.rmtree(staging, ignore_errors=True)
    return ExportedGraphs(
        backbone=folder / "backbone.onnx",
        refiners=tuple(folder / _refiner(index) for index in range(len(bundle.refiners))),
    )


def _refiner(index: int) -> str:
    return f"refiner-{index}.onnx"


def _key(bundle: Bundle) -> str:
    """SHA-256 over everything that the graphs depend on."""
    total = hashlib.sha256(bundle.digest.encode())
    for word in (str(FORMAT), __version__, *map(version_of, ("torch", *EXPORTERS))):
        total.update(f"\n{word}".encode())
    root = Path(__file__).parents[1]
    for name in SOURCES:
        path = root / name
        for file in sorted(path.glob("*.py")) if path.is_dir() else [path]:
            total.update(file.read_bytes())
    return total.hexdigest()


def _export(bundle: Bundle, folder: Path) -> None:
    answer, status = answer_of(__name__, str(bundle.folder.absolute()), str(folder))
    found = json.loads(answer) if answer.startswith("{") else {"error": f"exit status {status}"}
    if "error" in found:
        raise WeightsError(
            "the network cannot be exported for another engine",
            value=found["error"],
            file=bundle.folder,
            advice="Take --engine torch",
        )


def export_bundle(bundle: Bundle, folder: Path) -> None:
    """Write the graphs of a bundle's networks into a folder, with norms folded as a run on a CPU has them.

    Raises:
        WeightsError: The networks cannot be loaded, or the exporter refuses one.
    """
    networks, size = load_networks(bundle, device="cpu", precision="float32"), bundle.input.size
    write_graph(networks.backbone, (len(bundle.input.bands), size.height, size.width), folder / "backbone.onnx")
    for index, refiner in enumerate(networks.refiners):
        write_graph(refiner, (2 * len(bundle.classes), size.height, size.width), folder / _refiner(index))
    durable.write_whole(folder / DONE, json.dumps({"bundle": bundle.name, "digest": bundle.digest}).encode())


def write_graph(network: nn.Module, shape: tuple[int, int, int], path: Path) -> None:
    """Write the graph of a network for any number of patches of one size.

    Args:
        network: Maps patches `(n, bands, h, w)` to scores; in evaluation mode.
        shape: Bands, rows and columns of a patch.
        path: The file.

    Raises:
        WeightsError: The exporter refuses the network.
    """
    if isinstance(network, InStrips):
        # An engine plans the memory of a whole graph, and has no use for strips.
        network = network.network
    patches = torch.zeros(2, *shape)
    number = torch.export.Dim("n")
    try:
        with warnings.catch_warnings(), torch.inference_mode():
            # The exporter warns of functions of its own that are to change.
            warnings.simplefilter("ignore")
            torch.onnx.export(
                network,
                (patches,),
                str(path),
                input_names=["patches"],
                output_names=["scores"],
                dynamic_shapes=({0: number},),
                dynamo=True,
                external_data=False,
                verbose=False,
            )
    except (RuntimeError, ValueError, TypeError, NotImplementedError) as exc:
        line = (str(exc).strip().splitlines() or [type(exc).__name__])[0][:300]
        raise WeightsError(f"the exporter of PyTorch refuses the network: {line}") from exc


def _main(bundle: str, folder: str) -> dict[str, object]:
    try:
        export_bundle(load_bundle(bundle), Path(folder))
    except MagnetError as error:
        return {"error": str(error)}
    return {}


if __name__ == "__main__":
    sys.stdout.write("\n" + json.dumps(_main(*sys.argv[1:])) + "\n")
