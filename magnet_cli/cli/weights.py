"""`magnet weights`: the bundles that come with the program, and making one of published checkpoints."""

from __future__ import annotations

import json as json_text
import re
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from magnet_cli.cli import words
from magnet_cli.cli.ending import SCHEMA, command, say, tell
from magnet_cli.errors import MagnetError, UsageError, WeightsError
from magnet_cli.geometry import Size
from magnet_cli.memory import format_bytes

if TYPE_CHECKING:
    from collections.abc import Iterator

    from magnet_cli.importing import Sample
    from magnet_cli.models.bundle import Bundle, NetworkSpec

CARD = "README.md"

weights_app = typer.Typer(help="Show, check and import model bundles.", no_args_is_help=True, rich_markup_mode=None)

Name = Annotated[str, typer.Argument(metavar="NAME", help="A shipped bundle's name or a folder.")]


class PresetName(StrEnum):
    """Published experiments."""

    CITYSCAPES = "cityscapes"
    DEEPGLOBE = "deepglobe"
    GLEASON = "gleason"
    INRIA = "inria"


class InputOrder(StrEnum):
    """What a refiner gets first."""

    OWN_FIRST = "own-first"
    FIELD_FIRST = "field-first"


@contextmanager
def answering(key: str, *, json: bool) -> Iterator[list[object]]:
    """Rows that are printed as one JSON object at the end, with the error that ended it."""
    found: dict[str, object] = {"schema": SCHEMA}
    rows: list[object] = []
    found[key] = rows
    try:
        yield rows
    except MagnetError as error:
        found |= {"error": str(error), "exit_code": error.exit_code}
        raise
    finally:
        if json:
            tell(json_text.dumps(found, indent=1))


@weights_app.command("list")
@command
def list_bundles(*, json: words.Json = False) -> int:
    """The bundles that come with the program."""
    from magnet_cli.models.bundle import load_bundle, shipped_bundles

    code = 0
    with answering("bundles", json=json) as rows:
        for name, folder in shipped_bundles().items():
            try:
                bundle = load_bundle(name)
            except WeightsError as error:
                code = error.exit_code
                say(f"magnet: {error}")
                rows.append({"name": name, "folder": str(folder), "error": str(error)})
                continue
            rows.append(summary(bundle))
            if not json:
                tell(f"{bundle.name}: {', '.join(entry.name for entry in bundle.classes)}")
                tell(f"  {bundle.backbone.architecture}, scales {_scales(bundle)}, {format_bytes(_bytes(bundle))}")
        if not rows and not json:
            tell("no bundles")
    return code


@weights_app.command()
@command
def show(name: Name, *, json: words.Json = False) -> None:
    """What a bundle says of itself, and where its model card lies."""
    from magnet_cli.models.bundle import load_bundle

    with answering("bundles", json=json) as rows:
        bundle = load_bundle(name)
        description = json_text.loads((bundle.folder / "bundle.json").read_text(encoding="utf-8"))
        rows.append({**summary(bundle), "description": description})
        if not json:
            tell(bundle_text(bundle))


@weights_app.command()
@command
def verify(name: Name, *, json: words.Json = False) -> int:
    """Load every file of a bundle: hashes, keys, shapes, finite weights."""
    with answering("files", json=json) as rows:
        from magnet_cli.models.bundle import load_bundle
        from magnet_cli.models.verifying import verify_bundle

        checks = verify_bundle(load_bundle(name))
        rows += [check.describe() for check in checks]
        for check in checks:
            if check.error is not None:
                say(f"magnet: {check.error}")
            elif not json:
                hashed = "as hashed" if check.hashed else "no hash to compare with"
                tell(f"{check.file}: {check.architecture}, {format_bytes(check.bytes)}, {hashed}, fits")
    return WeightsError.exit_code if any(check.error for check in checks) else 0


@weights_app.command("import")
@command
def import_checkpoints(
    context: typer.Context,
    *,
    preset: Annotated[PresetName, typer.Option(help="The published experiment that the weights are of.")],
    backbone: Annotated[Path, typer.Option(help="Checkpoint (.pth) of the segmentation network.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="The bundle's folder.")],
    refiner: Annotated[
        list[Path] | None,
        typer.Option(help="Checkpoint of a refiner. Repeatable, coarsest stage first."),
    ] = None,
    refiner_scale: Annotated[
        list[str] | None,
        typer.Option(help="Window, 1224 or 1024x512, that the refiner in the same place was trained for. Repeatable."),
    ] = None,
    architecture: Annotated[str | None, typer.Option(help="Of the backbone. Default: the experiment's.")] = None,
    refiner_input: Annotated[
        InputOrder, typer.Option(help="What refiners get first, where no sample decides.")
    ] = InputOrder.OWN_FIRST,
    image: Annotated[Path | None, typer.Option(help="Sample that decides the refiners' input order.")] = None,
    label: Annotated[Path | None, typer.Option(help="The sample's true classes.")] = None,
    licence: Annotated[str | None, typer.Option(help="Of the weights, for the model card.")] = None,
    device: words.Device = None,
    gpu: words.Gpu = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the bundle that is there.")] = False,
    json: words.Json = False,
) -> None:
    """Make a bundle of published MagNet checkpoints."""
    del device, gpu
    with answering("bundles", json=json) as rows:
        scales = tuple(parse_scale(text) for text in refiner_scale or ())
        wanted, sample = words.device_name(context), _sample(image, label)
        from magnet_cli import importing
        from magnet_cli.models.device import pin_arithmetic, resolve_device, usable_cores
        from magnet_cli.presets import PRESETS

        pin_arithmetic(usable_cores())
        options = importing.ImportOptions(
            preset=PRESETS[preset],
            architecture=architecture,
            refiner_scales=scales,
            order=refiner_input.value,
            sample=sample,
            device=resolve_device(wanted),
            overwrite=overwrite,
            **({} if licence is None else {"licence": licence}),
        )
        made = importing.import_bundle(backbone, refiner or [], output, options)
        dropped = [{"file": name, "keys": list(keys)} for name, keys in made.dropped]
        rows.append(
            {**summary(made.bundle), "refiner_input": made.order, "scores": dict(made.scores), "left_out": dropped}
        )
        for sentence in made.left_out:
            say(f"note: {sentence}")
        say(f"{output}: bundle '{made.bundle.name}', {len(made.bundle.classes)} classes; {made.finding}")


def parse_scale(text: str) -> Size:
    """`1224` or `1024x512`.

    Raises:
        UsageError: It is neither.
    """
    match = re.fullmatch(r"([1-9]\d{0,8})(?:x([1-9]\d{0,8}))?", text.strip().lower())
    if match is None:
        raise UsageError(
            "--refiner-scale is a window's side or WIDTHxHEIGHT", value=repr(text), advice="Write 1224 or 1024x512"
        )
    return Size(width=int(match[1]), height=int(match[2] or match[1]))


def _sample(image: Path | None, label: Path | None) -> Sample | None:
    if image is None and label is None:
        return None
    if image is None or label is None:
        raise UsageError("a sample is an image and its true classes", advice="Give --image and --label, or neither")
    from magnet_cli.importing import Sample

    return Sample(image=image, label=label)


def summary(bundle: Bundle) -> dict[str, object]:
    """A bundle as JSON values."""
    card = bundle.folder / CARD
    return {
        "name": bundle.name,
        "folder": str(bundle.folder),
        "card": str(card) if card.is_file() else None,
        "classes": [vars(entry) for entry in bundle.classes],
        "scales": [{"width": scale.width, "height": scale.height} for scale in bundle.scales],
        "bytes": _bytes(bundle),
    }


def bundle_text(bundle: Bundle) -> str:
    """A bundle in lines."""
    card, pixel = bundle.folder / CARD, bundle.resolution
    magnet = ", ".join(f"{key} {value}" for key, value in vars(bundle.magnet).items())
    low, high = bundle.input.range
    lines = [
        f"{bundle.name}: {bundle.folder}",
        f"  model card: {card if card.is_file() else 'none'}",
        f"  licence: {bundle.licence or 'not said'}",
        f"  source: {bundle.source or 'not said'}",
        f"  input: {bundle.input.size} pixels, {', '.join(bundle.input.bands)}, values from {low:g} to {high:g}",
        f"  pixel size: {'not known' if pixel is None else f'{float(pixel.value):g} {pixel.unit}'}",
        f"  scales: {_scales(bundle)}",
        f"  defaults: {magnet}",
        f"  backbone: {bundle.backbone.architecture}, {_file(bundle, bundle.backbone)}",
    ]
    for spec in bundle.refiners:
        serves = "every scale" if spec.scale is None else f"windows of {spec.scale}"
        lines.append(f"  refiner: {spec.architecture}, {_file(bundle, spec)}, {spec.input}, {serves}")
    lines += [f"  class {index}: {entry.name} {entry.color}" for index, entry in enumerate(bundle.classes)]
    lines += [f"  origin: {origin}" for origin in bundle.origins]
    lines += [f"  note: {note}" for note in bundle.notes]
    return "\n".join(lines)


def _file(bundle: Bundle, spec: NetworkSpec) -> str:
    path = bundle.folder / spec.file
    return f"{spec.file}, {format_bytes(path.stat().st_size) if path.is_file() else 'MISSING'}"


def _scales(bundle: Bundle) -> str:
    return ",".join(str(scale) for scale in bundle.scales)


def _bytes(bundle: Bundle) -> int:
    specs = [bundle.backbone, *bundle.refiners, *filter(None, [bundle.selector])]
    paths = {bundle.folder / spec.file for spec in specs}
    return sum(path.stat().st_size for path in paths if path.is_file())
