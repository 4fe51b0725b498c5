"""Bundles of networks that another library saved, which appear complete or not at all."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from magnet_cli import images
from magnet_cli.geometry import LEVEL0, Box
from magnet_cli.importing.staging import check_output, staged
from magnet_cli.models.bundle import Bundle, load_bundle
from magnet_cli.models.description import CARD
from magnet_cli.models.foreign import measurement
from magnet_cli.models.foreign.foreign_bundle import UNKNOWN_LICENCE, tried_network, write_description
from magnet_cli.models.foreign.foreign_spec import FOLDER
from magnet_cli.models.foreign.trial import SIDE
from magnet_cli.plan import check_bands, check_values
from magnet_cli.system import durable
from magnet_cli.system.addresses import is_address

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from magnet_cli.models.foreign.foreign_bundle import TriedNetwork
    from magnet_cli.options.foreign_network import NetworkOptions
    from magnet_cli.options.shared import EngineOption


@dataclass(frozen=True, kw_only=True)
class ImportedNetwork:
    """The bundle that was made of a network from elsewhere."""

    bundle: Bundle
    lines: tuple[str, ...]
    """A line for each value of the description, with its origin."""


def import_network(
    options: NetworkOptions,
    output: Path,
    *,
    sample: str | Path | None = None,
    licence: str | None = None,
    overwrite: bool = False,
    engine: EngineOption = "auto",
) -> ImportedNetwork:
    """Make a bundle of a network that another library saved.

    The bundle needs neither that folder nor an internet connection.

    Args:
        options: The network's path, and the values that its files do not state.
        output: The bundle's folder.
        sample: An image whose centre is the picture of the trial pass. None makes up a picture.
        licence: Licence of the weights, where the files state none or another one.
        overwrite: Replace a bundle that is there.
        engine: Library that computes the network; `auto` is the kind's first one that is installed.

    Raises:
        WeightsError, UsageError: The network cannot be used, or values are missing; the message says what to do.
        OutputError: The folder is there already, or cannot be written.
        SourceError: The sample cannot be read, or has other bands.
    """
    read = [Path(path) for path in (options.network, sample) if path and not is_address(str(path))]
    check_output(output, overwrite=overwrite, read=read)
    tried = tried_network(options, picture=None if sample is None else partial(_centre, sample), engine=engine)
    if licence is not None:
        tried = replace(tried, description=tried.description.with_value("licence", licence, "--licence"))
    reading = tried.description.reading
    with staged(output) as folder:
        with durable.writing(output):
            # Only the files that the network was read from are copied. A folder of another library may hold data and
            # other weights.
            for name in reading.files:
                (folder / FOLDER / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(reading.root / name, folder / FOLDER / name)
        write_description(folder, tried, name=output.name)
        # The copy in the new folder is measured, not the original, so that a file which the copy lacks fails here.
        found = measurement.measured(load_bundle(str(folder.resolve())))
        measurement.store(folder, found, margin=True)
        durable.write_whole(folder / CARD, _card(tried, output.name).encode())
    bundle = load_bundle(str(output.resolve()))
    return ImportedNetwork(bundle=bundle, lines=(*tried.description.lines(), *found.lines()))


@dataclass(frozen=True, kw_only=True)
class SampleReader:
    """The bands and values of the sample that a network reads."""

    bands: tuple[str, ...]
    value_range: tuple[float, float]
    title: str = "the network"


def _centre(path: str | Path, bands: tuple[str, ...], span: tuple[float, float]) -> NDArray[Any]:
    """Return the stored values `(bands, 512, 512)` or fewer from the centre of an image."""
    with images.open_image(path) as image:
        info = image.info
        reader = SampleReader(bands=bands, value_range=span)
        positions = check_bands(info, reader)
        check_values(info, reader, None)
        width, height = min(SIDE, info.size.width), min(SIDE, info.size.height)
        box = Box(x=(info.size.width - width) // 2, y=(info.size.height - height) // 2, width=width, height=height)
        region = image.read([images.Request(pitch=LEVEL0, box=box)])[0]
    # Networks take bands first, and readers return them last.
    return np.ascontiguousarray(np.moveaxis(region.pixels[:, :, list(positions)], 2, 0))


def _card(tried: TriedNetwork, name: str) -> str:
    """Return the model card as Markdown."""
    spec, known = tried.spec, tried.description
    lines = [
        f"# {name}",
        "",
        f"A network of the kind {spec.kind}, imported.",
        "",
        f"- files: {', '.join(spec.files)}",
        f"- classes: {', '.join(each.name for each in tried.classes)}",
        f"- licence: {known.get('licence') or UNKNOWN_LICENCE}",
        "- scores: none measured here; 'magnet evaluate MASK TRUTH' measures them",
        "",
        "## Where the values are from",
        "",
        *(f"- {line}" for line in known.lines()),
        "",
    ]
    return "\n".join(lines)
