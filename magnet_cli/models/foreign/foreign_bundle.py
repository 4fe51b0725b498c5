"""The bundle of a network from elsewhere: read, tried, measured, and described in the words of `bundle.json`."""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from magnet_cli.errors import UsageError, WeightsError
from magnet_cli.models.bundle import load_bundle
from magnet_cli.models.bundle_writer import describe, palette_colors
from magnet_cli.models.description import DESCRIPTION
from magnet_cli.models.foreign import measurement
from magnet_cli.models.foreign.adapter import Adapted
from magnet_cli.models.foreign.completion import ForeignDescription, class_choices, described, input_size, pixel_size
from magnet_cli.models.foreign.foreign_spec import ForeignSpec
from magnet_cli.models.foreign.kinds import kind_named, network_path, read_network
from magnet_cli.models.foreign.loading import frozen
from magnet_cli.models.foreign.network_files import digests
from magnet_cli.models.foreign.network_kind import check_installed, engine_of, runtime_of
from magnet_cli.models.foreign.trial import Explorer, Trial, generated_picture, replay, windows_of_description
from magnet_cli.system import durable
from magnet_cli.system.speeds import state_folder

if TYPE_CHECKING:
    from magnet_cli.models.network_spec import Bundle
    from magnet_cli.options.foreign_network import ClassChoice, NetworkOptions
    from magnet_cli.options.shared import EngineOption

Picture = Callable[[tuple[str, ...], tuple[float, float]], NDArray[Any]]
TRIAL = "trial.safetensors"
UNKNOWN_LICENCE = "unknown; ask whoever published the network"


@dataclass(frozen=True, kw_only=True)
class TriedNetwork:
    """A network that has passed its trial, with all that was found."""

    description: ForeignDescription
    spec: ForeignSpec
    classes: tuple[ClassChoice, ...]
    trial: Trial

    def table(self, *, name: str) -> dict[str, Any]:
        """Return the content of `bundle.json`.

        Args:
            name: Name of the bundle.
        """
        known, size = self.description, input_size(self.description)
        table = describe(
            name=name,
            classes=[
                {"name": each.name, "color": color}
                for each, color in zip(self.classes, palette_colors(len(self.classes)), strict=True)
            ],
            size=(size.width, size.height),
            bands=known["bands"],
            input={"range": list(known["range"]), "mean": list(known["mean"]), "std": list(known["std"])},
            activation="none",
            resolution=pixel_size(known),
            magnet={"margin": self.spec.trim},
            preparation=known["preparation"],
            licence=known.get("licence") or UNKNOWN_LICENCE,
            source=f"network of the kind {self.spec.kind}",
        )
        table["scales"] = [{"width": size.width, "height": size.height}]
        table["networks"] = {"foreign": json.loads(json.dumps(asdict(self.spec))), "refiners": [], "selector": None}
        table["origins"] = known.lines()
        return table


def tried_network(
    options: NetworkOptions, *, picture: Picture | None = None, engine: EngineOption = "auto"
) -> TriedNetwork:
    """Read the network that options name, and try it.

    Args:
        options: The path, and the values that its files do not state.
        picture: Gives stored values `(bands, rows, columns)` for the trial, from the names of the bands and the range
            of stored values; None makes some up.
        engine: Library that computes the network; `auto` is the kind's first one that is installed.

    Raises:
        WeightsError, UsageError: The network cannot be used, or values are missing; the message says what to do.
    """
    if options.network is None:
        raise UsageError("a network from elsewhere is named by its path", advice="Give --network PATH")
    path = network_path(options.network)
    reading = read_network(path, options)
    kind = kind_named(reading.kind, file=path)
    description = described(reading, options)
    if reading.holds_code and not options.trust:
        raise WeightsError(
            f"a network of the kind {kind.name} holds code, which may read and write files; it runs only where you "
            "trust it",
            file=path,
            advice="If you trust whoever made it, add --trust",
        )
    chosen = engine_of(kind, engine)
    check_installed(kind, chosen)
    spec = draft(description, trusted=reading.holds_code and options.trust)
    network = frozen(kind.load(reading.root, spec, chosen))
    bands, span = tuple(description["bands"]), tuple(description["range"])
    found = generated_picture(len(bands), span) if picture is None else picture(bands, span)
    windows = windows_of_description(description, found)
    description, spec = Explorer(network, description, spec, windows).explore()
    choices, origin = class_choices(description, max(2, spec.channels))
    description = description.with_value("classes", choices, origin)
    spec = replace(
        spec,
        classes=tuple(each.channels or () for each in choices),
        runtime=runtime_of(kind, chosen),
        trial=TRIAL,
    )
    trial = replay(Adapted(network, spec=spec), windows_of_description(description, found))
    return TriedNetwork(description=description, spec=spec, classes=choices, trial=trial)


def draft(description: ForeignDescription, *, trusted: bool) -> ForeignSpec:
    """Return the description of a network before its trial pass: what its files and the options state.

    Raises:
        WeightsError: A file is missing, or leads outside of its folder.
    """
    reading = description.reading
    return ForeignSpec(
        kind=reading.kind,
        files=digests(reading.root, reading.files),
        options=dict(reading.options),
        channels=description.get("channels") or 1,
        classes=(),
        activation=description.get("activation") or "none",
        output=description["output"],
        layout=description["layout"],
        output_layout=description["output_layout"],
        input_type=description["input_type"],
        batch=description["batch"],
        multiple=description["multiple"],
        trim=description.get("trim") or 0,
        trusted=trusted,
    )


def write_description(folder: Path, tried: TriedNetwork, *, name: str) -> None:
    """Write `bundle.json` and the trial into a folder.

    Raises:
        OutputError: The files cannot be written.
    """
    with durable.writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    durable.write_whole(folder / TRIAL, tried.trial.encode())
    text = json.dumps(tried.table(name=name), indent=2, ensure_ascii=False) + "\n"
    durable.write_whole(folder / DESCRIPTION, text.encode())


def bundle_in_place(options: NetworkOptions, engine: EngineOption = "auto") -> Bundle:
    """Return the bundle of a network whose files stay where they are.

    What its trial has shown is kept in the user's state folder, by files, options and versions of libraries, so that
    the next run of the same network begins at once and a network that holds code is asked for once.

    Raises:
        WeightsError, UsageError: The network cannot be used, or values are missing; the message says what to do.
    """
    path = network_path(options.network or "")
    reading = read_network(path, options)
    kind = kind_named(reading.kind, file=path)
    description = described(reading, options)
    chosen = engine_of(kind, engine)
    check_installed(kind, chosen)
    asked = {
        "files": digests(reading.root, reading.files),
        "values": [[name, repr(stated.value)] for name, stated in sorted(description.values.items())],
        "runtime": runtime_of(kind, chosen),
    }
    key = hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()
    folder = state_folder() / "networks" / key
    if not (folder / DESCRIPTION).is_file():
        with durable.writing(folder):
            folder.parent.mkdir(parents=True, exist_ok=True)
            staging = Path(tempfile.mkdtemp(prefix=f".{key}.", dir=folder.parent))
        try:
            write_description(staging, tried_network(options, engine=chosen), name=path.stem)
            bundle = replace(load_bundle(str(staging)), network_folder=reading.root.resolve())
            measurement.store(staging, measurement.measured(bundle), margin=True)
            with durable.writing(folder):
                durable.replace_folder(staging, folder.absolute())
        finally:
            shutil.rmtree(staging, ignore_errors=True)
    return replace(load_bundle(str(folder.resolve())), network_folder=reading.root.resolve())
