"""`magnet weights` shows, checks and imports bundles."""

from __future__ import annotations

import json as json_text
import re
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from magnet_cli.cli.bundle_text import bundle_lines, described_lines, summary
from magnet_cli.cli.command_group import CommandGroup
from magnet_cli.cli.outcome import SCHEMA, command, print_failure, print_json, print_lines, print_message
from magnet_cli.cli.parameters import Given, Group, Json, PanelCommand, is_typed, takes
from magnet_cli.errors import MagnetError, UsageError, WeightsError
from magnet_cli.geometry import Size
from magnet_cli.options.foreign_network import NetworkOptions
from magnet_cli.options.segment import SegmentOptions
from magnet_cli.options.shared import EngineName, EngineOption, EngineOptions, MachineOptions, Precision
from magnet_cli.system.memory import format_bytes

if TYPE_CHECKING:
    from collections.abc import Iterator

    from magnet_cli.importing import OrderSample
    from magnet_cli.models.network_spec import Bundle, CascadeBundle

weights_app = typer.Typer(cls=CommandGroup, help="Show, check and import model bundles.", rich_markup_mode=None)

Name = Annotated[str, typer.Argument(metavar="NAME", help="A shipped bundle's name or a folder.")]


@contextmanager
def answering(key: str, *, json: bool) -> Iterator[list[object]]:
    """Collect rows that are printed as one JSON object when the context ends, with its error if there was one."""
    found: dict[str, object] = {"schema": SCHEMA}
    rows: list[object] = []
    found[key] = rows
    try:
        yield rows
    except MagnetError as error:
        # The object is printed after an error too, so that a reader of --json always gets one.
        found |= {**error.describe()}
        raise
    finally:
        if json:
            print_json(found)


@weights_app.command("list")
@command
def list_bundles(*, json: Json = False) -> int:
    """List the bundles that come with the program."""
    from magnet_cli.models.bundle import load_description, shipped_bundles

    code = 0
    with answering("bundles", json=json) as rows:
        for name, folder in shipped_bundles().items():
            try:
                bundle = load_description(name)
            except WeightsError as error:
                # One damaged bundle must not hide the others, so its error becomes a row.
                code = error.exit_code
                print_failure(error)
                rows.append({"name": name, "folder": str(folder), "error": str(error)})
                continue
            rows.append(summary(bundle))
            if not json:
                print_lines(*bundle_lines(bundle))
        if not rows and not json:
            print_lines("no bundles")
    return code


@weights_app.command()
@command
def show(name: Name, *, json: Json = False) -> None:
    """Show the description of a bundle, and the path of its model card."""
    from magnet_cli.models.bundle import load_description

    with answering("bundles", json=json) as rows:
        bundle = load_description(name)
        description = json_text.loads((bundle.folder / "bundle.json").read_text(encoding="utf-8"))
        rows.append({**summary(bundle), "description": description})
        if not json:
            print_lines(*described_lines(bundle))


@weights_app.command()
@command
def verify(name: Name, *, json: Json = False) -> int:
    """Load every file of a bundle, and check hashes, keys, shapes and that all weights are finite."""
    with answering("files", json=json) as rows:
        from magnet_cli.models.bundle import load_description
        from magnet_cli.models.bundle_check import verify_bundle

        checks = verify_bundle(load_description(name))
        rows += [check.describe() for check in checks]
        for check in checks:
            if check.error is not None:
                print_failure(check.error)
            elif not json:
                hashed = "as hashed" if check.hashed else "no hash to compare with"
                print_lines(f"{check.file}: {check.architecture}, {format_bytes(check.bytes)}, {hashed}, fits")
    return WeightsError.exit_code if any(check.error for check in checks) else 0


@weights_app.command(cls=PanelCommand)
@command
@takes(machine=Group(options=MachineOptions, only=("device", "gpu")), engine=Group(options=EngineOptions))
def measure(name: Name, *, machine: Given[MachineOptions], engine: Given[EngineOptions], json: Json = False) -> None:
    """Measure the network from elsewhere of a bundle on a device, or an engine, and keep the figures in the bundle.

    Memory and the agreement of bfloat16 are kept. The margin stays as the import has measured it, because masks depend
    on it. With --engine, the speed in that engine and the agreement with PyTorch are measured on the CPU, of the
    bundle's own backbone or of its cascade, and kept in engines.json, from where --engine auto takes them.
    """
    with answering("bundles", json=json) as rows:
        wanted, chosen = machine.value().device, engine.value().engine
        if chosen in ("onnxruntime", "openvino"):
            _refuse_device(machine, "engines are measured beside PyTorch on the CPU")
        from magnet_cli.models.bundle import load_bundle, load_description
        from magnet_cli.models.device import resolve_device
        from magnet_cli.models.foreign import measurement

        if chosen in ("onnxruntime", "openvino"):
            rows.append(_measure_engine(load_description(name), chosen))
            return
        bundle = load_bundle(name)
        if bundle.foreign is None:
            raise WeightsError(
                "the networks of this program are not measured: their memory is planned from their layers",
                value=bundle.name,
                advice="Give a bundle that 'magnet weights import --network' has made, or --engine openvino",
            )
        found = measurement.measured(bundle, resolve_device(wanted))
        measurement.store(bundle.folder, found)
        rows.append({"name": bundle.name, "device": found.device, "lines": found.lines()})
        for line in found.lines():
            print_message(f"{bundle.name}: {line}")


@weights_app.command(cls=PanelCommand)
@command
@takes(reading=Group(options=SegmentOptions, only=("series", "alpha", "bands", "value_range", "slide_mpp")))
def quantise(
    name: Name,
    files: Annotated[
        list[str],
        typer.Argument(metavar="IMAGE...", help="Images like those to segment: files, folders, patterns or URLs."),
    ],
    *,
    windows: Annotated[int, typer.Option(min=1, help="Windows on which ranges of activations are found.")] = 96,
    seed: Annotated[int, typer.Option(min=0, help="Seed by which the windows are drawn.")] = 0,
    reading: Given[SegmentOptions],
    json: Json = False,
) -> None:
    """Write the backbone of a bundle in 8 bits into its folder, for --precision int8 with another engine than PyTorch.

    The ranges of activations are found on windows of the images, at the bundle's scales. The share of pixels that get
    the class of float32 is measured on other windows of the same images. The labels of images that look unlike these
    may differ more, so score masks in int8 before you rely on them. Where segment needs options to read such images,
    give the same options here.
    """
    with answering("bundles", json=json) as rows:
        from magnet_cli.images import find_images
        from magnet_cli.importing.calibration import quantise_bundle
        from magnet_cli.models.bundle import load_bundle

        options, bundle = reading.value(), load_bundle(name)
        sources = [image.source for image in find_images(files)]
        made = quantise_bundle(bundle, sources, options, windows=windows, seed=seed)
        rows.append({"name": bundle.name, "windows": made.windows, "agreement": made.agreement, "sha256": made.sha256})
        if not json:
            print_message(f"{bundle.name}: {made.line()}")


@weights_app.command("import", cls=PanelCommand)
@command
@takes(
    machine=Group(options=MachineOptions, only=("device", "gpu")),
    engine=Group(options=EngineOptions),
    foreign=Group(options=NetworkOptions),
)
def import_checkpoints(
    context: typer.Context,
    *,
    file: Annotated[
        Path | None, typer.Argument(metavar="[FILE]", help="Checkpoint of CascadePSP, with --from cascadepsp.")
    ] = None,
    program: Annotated[
        Literal["magnet", "cascadepsp"], typer.Option("--from", help="The published program that wrote them.")
    ] = "magnet",
    preset: Annotated[
        Literal["cityscapes", "deepglobe", "gleason", "inria"] | None,
        typer.Option(help="MagNet's published experiment from which the weights come."),
    ] = None,
    backbone: Annotated[Path | None, typer.Option(help="Checkpoint (.pth) of the segmentation network.")] = None,
    output: Annotated[Path, typer.Option("-o", "--output", help="The bundle's folder.")],
    refiner: Annotated[
        list[Path] | None,
        typer.Option(help="Checkpoint of a refiner. Repeatable, coarsest stage first."),
    ] = None,
    refiner_scale: Annotated[
        list[str] | None,
        typer.Option(help="Window, 1224 or 1024x512, that the refiner in the same place was trained for. Repeatable."),
    ] = None,
    architecture: Annotated[
        str | None, typer.Option(help="Backbone's architecture. Default: the experiment's.")
    ] = None,
    refiner_input: Annotated[
        Literal["own-first", "field-first"],
        typer.Option(help="Field that refiners get as their first input, where no sample decides."),
    ] = "own-first",
    image: Annotated[
        str | None, typer.Option(metavar="FILE|URL", help="Sample that decides the refiners' input order.")
    ] = None,
    label: Annotated[str | None, typer.Option(metavar="FILE|URL", help="The sample's true classes.")] = None,
    licence: Annotated[str | None, typer.Option(help="Licence of the weights, for the model card.")] = None,
    machine: Given[MachineOptions],
    engine: Given[EngineOptions],
    foreign: Given[NetworkOptions],
    bands: Annotated[
        str | None,
        typer.Option("--bands", help="Short for --network-bands.", rich_help_panel="Network from elsewhere"),
    ] = None,
    sample: Annotated[
        str | None,
        typer.Option(
            metavar="FILE|URL",
            help="Image whose centre is the picture of the trial pass. Default: a made-up picture.",
            rich_help_panel="Network from elsewhere",
        ),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the bundle that is there.")] = False,
    json: Json = False,
) -> None:
    """Make a bundle from checkpoints of the published programs, or from a network that another library saved.

    MagNet's checkpoints are named by --preset, --backbone and --refiner; CascadePSP's checkpoint is FILE. A network of
    another library is named by --network.
    """
    with answering("bundles", json=json) as rows:
        described = _with_bands(foreign, bands)
        if described.network is not None:
            _refuse_checkpoints(context, file)
            _refuse_device(machine, "a network is tried on the CPU, so that the bundle does not depend on a device")
            chosen = engine.value().engine
            rows.append(
                _import_network(described, output, engine=chosen, sample=sample, licence=licence, overwrite=overwrite)
            )
            return
        if sample is not None:
            raise UsageError("--sample is for --network", advice="Give --image and --label for checkpoints of MagNet")
        if engine.typed("engine"):
            raise UsageError(
                "--engine of an import is for --network",
                advice="Leave --engine out: magnet segment --engine computes the bundle in that engine",
            )
        if program == "cascadepsp" or image is None:
            _refuse_device(machine, "checkpoints are converted without computing anything, unless a sample is given")
        if program == "cascadepsp":
            rows.append(_import_cascade(context, file, output, overwrite=overwrite, licence=licence))
            return
        checkpoints = MagnetCheckpoints(
            file=file,
            preset=preset,
            backbone=backbone,
            refiners=tuple(refiner or ()),
            scales=tuple(parse_scale(text) for text in refiner_scale or ()),
            architecture=architecture,
            order=refiner_input,
            sample=_sample(image, label),
        )
        device = machine.value().device
        rows.append(_import_magnet(checkpoints, output, device=device, overwrite=overwrite, licence=licence))


@dataclass(frozen=True, kw_only=True)
class MagnetCheckpoints:
    """The checkpoints of MagNet that a command line names."""

    file: Path | None
    preset: str | None
    backbone: Path | None
    refiners: tuple[Path, ...]
    scales: tuple[Size, ...]
    """The window of each refiner."""
    architecture: str | None
    order: Literal["own-first", "field-first"]
    sample: OrderSample | None


def _import_magnet(
    checkpoints: MagnetCheckpoints, output: Path, *, device: str, overwrite: bool, licence: str | None
) -> dict[str, object]:
    """Import checkpoints of MagNet, and return the new bundle's short description as JSON values."""
    file, preset, backbone = checkpoints.file, checkpoints.preset, checkpoints.backbone
    if file is not None or preset is None or backbone is None:
        raise UsageError(
            "MagNet's checkpoints are named by options",
            value=file,
            advice="Give --preset and --backbone, --from cascadepsp FILE, or --network FILE of another library",
        )
    from magnet_cli import importing
    from magnet_cli.importing.presets import PRESETS
    from magnet_cli.models.device import pin_arithmetic, resolve_device
    from magnet_cli.system.threads import usable_cores

    pin_arithmetic(usable_cores())
    options = importing.ImportOptions(
        preset=PRESETS[preset],
        architecture=checkpoints.architecture,
        refiner_scales=checkpoints.scales,
        order=checkpoints.order,
        sample=checkpoints.sample,
        device=resolve_device(device),
        overwrite=overwrite,
        **({} if licence is None else {"licence": licence}),
    )
    made = importing.import_bundle(backbone, checkpoints.refiners, output, options)
    for sentence in made.left_out:
        print_message(f"note: {sentence}")
    print_message(f"{output}: bundle '{made.bundle.name}', {len(made.bundle.classes)} classes; {made.finding}")
    dropped = [{"file": name, "keys": list(keys)} for name, keys in made.dropped]
    return {**summary(made.bundle), "refiner_input": made.order, "scores": dict(made.scores), "left_out": dropped}


def _measure_engine(bundle: Bundle | CascadeBundle, engine: EngineName) -> dict[str, object]:
    """Measure an engine beside PyTorch, keep the figures, and return them as JSON values."""
    from magnet_cli.models import network_spec
    from magnet_cli.models.device import computes_bfloat16
    from magnet_cli.models.engines.engine_runs import store_engine
    from magnet_cli.models.engines.engine_speed import measure_cascade, measure_engine
    from magnet_cli.models.engines.graph_engine import ENGINES
    from magnet_cli.models.engines.quantised_graph import FILE

    if isinstance(bundle, network_spec.Bundle) and bundle.foreign is not None:
        raise UsageError(
            "the engine of a network from elsewhere is chosen when it is imported",
            value=f"--engine {engine} and {bundle.name}",
            advice="Import the network again: magnet weights import --network PATH --engine ENGINE -o BUNDLE",
        )
    precisions: tuple[Precision, ...] = ("float32", "bfloat16") if computes_bfloat16("cpu") else ("float32",)
    if (bundle.folder / FILE).is_file():
        precisions = (*precisions, "int8")
    lines = []
    for precision in precisions:
        if precision not in ENGINES[engine].precisions:
            continue
        if isinstance(bundle, network_spec.CascadeBundle):
            run = measure_cascade(bundle, engine=engine, precision=precision)
        else:
            run = measure_engine(bundle, engine=engine, precision=precision)
        store_engine(bundle, run, engine=engine, precision=precision)
        lines.append(run.line(engine, precision))
        print_message(f"{bundle.name}: {lines[-1]}")
    return {"name": bundle.name, "device": "cpu", "lines": lines}


def _with_bands(foreign: Given[NetworkOptions], bands: str | None) -> NetworkOptions:
    """Return the network that is described, its bands by the short option where that is given.

    Raises:
        UsageError: The bands are given by both options, or what is given describes no network.
    """
    if bands is None:
        return foreign.value()
    if foreign.typed("network_bands"):
        raise UsageError(
            "--bands is short for --network-bands",
            value=f"--bands {bands} --network-bands {foreign.given('network_bands')}",
            advice="Give either --bands or --network-bands",
        )
    return replace(foreign.value(), network_bands=bands)


def _refuse_device(machine: Given[MachineOptions], rule: str) -> None:
    """Refuse a device that is typed where none is used. One of the environment is for other commands too.

    Raises:
        UsageError: A device is typed.
    """
    if machine.typed("device") or machine.typed("gpu"):
        raise UsageError(
            rule,
            value="--device or --gpu",
            advice="Leave the option out; commands that compute, like segment and weights measure, take it",
        )


def _refuse_checkpoints(context: typer.Context, file: Path | None) -> None:
    given = [f"--{name.replace('_', '-')}" for name in (*MAGNET_ALONE, "program") if is_typed(context, name)]
    if file is not None or given:
        raise UsageError(
            "--network names a network that another library saved; the published programs' checkpoints have options of "
            "their own",
            value=", ".join([*given, *([str(file)] if file is not None else [])]),
            advice="Give --network, or the options of a published program, not both",
        )


def _import_network(
    described: NetworkOptions,
    output: Path,
    *,
    engine: EngineOption,
    sample: str | None,
    licence: str | None,
    overwrite: bool,
) -> dict[str, object]:
    """Import a network that another library saved, and return the new bundle's short description as JSON values."""
    from magnet_cli.importing import import_network
    from magnet_cli.models.device import pin_arithmetic
    from magnet_cli.system.threads import usable_cores

    pin_arithmetic(usable_cores())
    made = import_network(described, output, engine=engine, sample=sample, licence=licence, overwrite=overwrite)
    for line in made.lines:
        print_message(f"  {line}")
    print_message(
        f"{output}: bundle '{made.bundle.name}', {len(made.bundle.classes)} classes; the trial pass went well"
    )
    return {**summary(made.bundle), "values": list(made.lines)}


MAGNET_ALONE = ("preset", "backbone", "refiner", "refiner_scale", "architecture", "refiner_input", "image", "label")
"""Parameters that apply only to checkpoints of MagNet."""


def _import_cascade(
    context: typer.Context, file: Path | None, output: Path, *, overwrite: bool, licence: str | None = None
) -> dict[str, object]:
    """Import a CascadePSP checkpoint, and return the new bundle's short description as JSON values."""
    given = [name for name in MAGNET_ALONE if is_typed(context, name)]
    if given:
        words_given = ", ".join(f"--{name.replace('_', '-')}" for name in given)
        raise UsageError(
            "--from cascadepsp takes one FILE, not MagNet's options",
            value=words_given,
            advice="Leave the other options out",
        )
    if file is None:
        raise UsageError("--from cascadepsp needs a checkpoint", advice="Give FILE after the options")
    from magnet_cli.importing import import_cascade

    bundle = import_cascade(file, output, licence=licence, overwrite=overwrite)
    print_message(f"{output}: bundle '{bundle.name}', which sharpens masks")
    return summary(bundle)


def parse_scale(text: str) -> Size:
    """Parse a window's size in pixels, written as `1224` or `1024x512`.

    Raises:
        UsageError: The text has neither form.
    """
    match = re.fullmatch(r"([1-9]\d{0,8})(?:x([1-9]\d{0,8}))?", text.strip().lower())
    if match is None:
        raise UsageError(
            "--refiner-scale is a window's side or WIDTHxHEIGHT", value=repr(text), advice="Write 1224 or 1024x512"
        )
    return Size(width=int(match[1]), height=int(match[2] or match[1]))


def _sample(image: str | None, label: str | None) -> OrderSample | None:
    if image is None and label is None:
        return None
    if image is None or label is None:
        raise UsageError("a sample is an image and its true classes", advice="Give --image and --label, or neither")
    from magnet_cli.importing import OrderSample

    return OrderSample(image=image, label=label)
