"""The image of which a mask and its probabilities were made, by the report beside them and their metadata."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from magnet_cli import images
from magnet_cli.errors import OutputError, SourceError
from magnet_cli.images.urls import is_url
from magnet_cli.masks.kept_field import FieldFile
from magnet_cli.masks.output import OutputPaths
from magnet_cli.masks.report_file import read_report

if TYPE_CHECKING:
    from collections.abc import Mapping

MOST_BYTES = 64 << 20
"""Largest report in bytes. A larger file of that name belongs to another program and is not parsed."""
MOVED = "if the image is the same nevertheless, copy the mask without the report beside it"


def check_origins(image: images.ImageInfo, mask: str | Path, evidence: Path | None) -> None:
    """Refuse a mask or probabilities of another image of the same size.

    Masks that this program has not written, or that were moved without their reports, are taken as they are.

    Raises:
        SourceError: The mask or the probabilities were made of another image, or the probabilities do not exist.
    """
    if not is_url(str(mask)):
        paths = OutputPaths.of(Path(mask).absolute())
        noted = _noted(paths)
        if noted is not None:
            _check(image, *noted, file=mask, what="this mask was", otherwise=f"; {MOVED}")
    if evidence is not None:
        field = FieldFile.open(evidence)
        if field.image is not None:
            what, otherwise = "these probabilities were", ", or leave out --evidence"
            _check(image, field.image_path or "", field.image, file=evidence, what=what, otherwise=otherwise)


def _noted(paths: OutputPaths) -> tuple[str, images.ImageIdentity] | None:
    """Return path and identity of the image from the report beside a mask; None without such a report.

    A report of another size of mask belongs to an older file and says nothing about this one.
    """
    try:
        if paths.report.stat().st_size > MOST_BYTES:
            return None
        report, size = read_report(paths.report), paths.mask.stat().st_size
    except (OutputError, OSError):
        return None
    source, made_of = _section(report, "input").get("path"), images.ImageIdentity.noted(_section(report, "hashes"))
    if source is None or made_of is None or _section(report, "mask").get("bytes") != size:
        return None
    return str(source), made_of


def _section(report: Mapping[str, object], key: str) -> Mapping[str, Any]:
    found = report.get(key)
    return cast("Mapping[str, Any]", found) if isinstance(found, dict) else {}


def _check(
    image: images.ImageInfo,
    source: str,
    made_of: images.ImageIdentity,
    *,
    file: str | Path,
    what: str,
    otherwise: str,
) -> None:
    if is_url(source) != is_url(image.path):
        # An address and a copy on disk have fingerprints of different kinds.
        return
    if images.fingerprint(image.path) != made_of.fingerprint:
        if source == image.path:
            rule, advice = "made of this image before it was changed", "Segment it again"
        else:
            rule, advice = f"made of another image, {source}", "Give that image"
        raise SourceError(f"{what} {rule}", value=image.path, file=file, advice=advice + otherwise)
    if made_of.series != image.series:
        raise SourceError(
            f"{what} made of another image of {image.path}, number {made_of.series}",
            value=f"number {image.series}",
            file=file,
            advice=f"Give --series {made_of.series}",
        )
