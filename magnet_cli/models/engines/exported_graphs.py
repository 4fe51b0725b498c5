"""Graphs of a bundle's networks for engines other than PyTorch, exported once and kept in the user's state folder.

The export runs in a process of its own: it takes a few hundred megabytes that a run could not get back.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Self

from magnet_cli import __version__
from magnet_cli.errors import MagnetError, WeightsError
from magnet_cli.models.bundle import CascadeBundle, load_description
from magnet_cli.models.cascade_networks import load_cascade
from magnet_cli.models.engines.graph_engine import EXPORTERS, check_modules, version_of
from magnet_cli.models.engines.graph_writer import write_cascade, write_graph, write_sizeless
from magnet_cli.models.networks import load_networks
from magnet_cli.models.pass_memory import answer_of
from magnet_cli.system import durable
from magnet_cli.system.speeds import state_folder

if TYPE_CHECKING:
    from magnet_cli.models.network_spec import Bundle, Described

FORMAT = 1
"""Number that is raised where the same network is to be exported in another way."""
DONE = "graphs.json"
LOCAL, AGGREGATION = "local.onnx", "aggregation.onnx"
SOURCES = (
    *("architectures", "folding.py", "networks.py", "cascade_networks.py", "registry.py", "weights_file.py"),
    "engines/graph_writer.py",
)
"""Sources of this program that a network is made with; graphs of others are not taken for those of today's."""


@dataclass(frozen=True, kw_only=True)
class ExportedGraphs:
    """Files of the graphs of a bundle's networks."""

    backbone: Path
    refiners: tuple[Path, ...]
    local: Path | None
    """The refinement branch of a GRNet; None for other bundles."""
    aggregation: Path | None
    """The aggregation layer of a GRNet, for maps of any size; None for other bundles."""


@dataclass(frozen=True, kw_only=True)
class CascadeGraphs:
    """Files of the graphs of a cascade's passes, each for an image of any size."""

    first: Path
    middle: Path
    last: Path

    @classmethod
    def of(cls, folder: Path) -> Self:
        """Return the files as they lie in a folder."""
        return cls(first=folder / "first.onnx", middle=folder / "middle.onnx", last=folder / "last.onnx")


def exported_graphs(bundle: Bundle) -> ExportedGraphs:
    """Return the graphs of a bundle's networks, without its selector. The first call for a bundle exports them.

    Raises:
        WeightsError: A package that the export needs is missing, the networks cannot be loaded, or the exporter
            refuses them.
        OutputError: The state folder cannot be written.
    """
    folder = _kept_graphs(bundle)
    return ExportedGraphs(
        backbone=folder / "backbone.onnx",
        refiners=tuple(folder / _refiner(index) for index in range(len(bundle.refiners))),
        local=None if bundle.local is None else folder / LOCAL,
        aggregation=None if bundle.local is None else folder / AGGREGATION,
    )


def cascade_graphs(bundle: CascadeBundle) -> CascadeGraphs:
    """Return the graphs of a cascade's passes, as `exported_graphs` returns those of other bundles."""
    return CascadeGraphs.of(_kept_graphs(bundle))


def _kept_graphs(bundle: Bundle | CascadeBundle) -> Path:
    """Return the folder of a bundle's graphs in the state folder, exported where nobody has done so before."""
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
    return folder


def _refiner(index: int) -> str:
    return f"refiner-{index}.onnx"


def _key(bundle: Described) -> str:
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


def _export(bundle: Bundle | CascadeBundle, folder: Path) -> None:
    answer, status = answer_of(__name__, str(bundle.folder.absolute()), str(folder))
    found = json.loads(answer) if answer.startswith("{") else {"error": f"exit status {status}"}
    if "error" in found:
        raise WeightsError(
            "the network cannot be exported for another engine",
            value=found["error"],
            file=bundle.folder,
            advice="Take --engine torch",
        )


def export_bundle(bundle: Bundle | CascadeBundle, folder: Path) -> None:
    """Write the graphs of a bundle's networks into a folder, with norms folded as a run on a CPU has them.

    Raises:
        WeightsError: The networks cannot be loaded, or the exporter refuses one.
    """
    if isinstance(bundle, CascadeBundle):
        write_cascade(load_cascade(bundle, device="cpu", precision="float32").network, vars(CascadeGraphs.of(folder)))
    else:
        _write_networks(bundle, folder)
    durable.write_whole(folder / DONE, json.dumps({"bundle": bundle.name, "digest": bundle.digest}).encode())


def _write_networks(bundle: Bundle, folder: Path) -> None:
    networks, size = load_networks(bundle, device="cpu", precision="float32"), bundle.input.size
    patch, pair = (len(bundle.input.bands), size.height, size.width), 2 * len(bundle.classes)
    write_graph(networks.backbone, patch, folder / "backbone.onnx")
    for index, refiner in enumerate(networks.refiners):
        write_graph(refiner, (pair, size.height, size.width), folder / _refiner(index))
    if networks.local is not None:
        write_graph(networks.local.branch, patch, folder / LOCAL)
        write_sizeless(networks.local.aggregation, pair, folder / AGGREGATION)


def _main(bundle: str, folder: str) -> dict[str, object]:
    try:
        export_bundle(load_description(bundle), Path(folder))
    except MagnetError as error:
        return {"error": str(error)}
    return {}


if __name__ == "__main__":
    sys.stdout.write("\n" + json.dumps(_main(*sys.argv[1:])) + "\n")
