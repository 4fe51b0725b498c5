"""Which image a mask and its probabilities were made of, as the reports beside them say."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from magnet_cli import images
from magnet_cli.errors import OutputError, SourceError
from magnet_cli.images.urls import is_url
from magnet_cli.masks.fieldfile import PROBABILITIES, FieldFile
from magnet_cli.masks.output import OutputPaths
from magnet_cli.masks.reportfile import read_report

if TYPE_CHECKING:
    from collections.abc import Mapping


def check_origins(image: str | Path, mask: str | Path, evidence: Path | None) -> None:
    """Refuse a mask or probabilities of another image of the same size.

    Files that this program has not written, or that were moved without their reports, are taken as they are.

    Raises:
        SourceError: A report names another image, or there are no such probabilities.
    """
    if not is_url(str(mask)):
        paths = OutputPaths.of(Path(mask))
        _check(image, paths.mask, "this mask was", _report(paths.report, of=paths.mask))
    if evidence is not None:
        kept = FieldFile.open(evidence).path
        name = kept.name.removesuffix(PROBABILITIES)
        _check(image, kept, "these probabilities were", _report(kept.with_name(f"{name}.json")))


def _report(path: Path, *, of: Path | None = None) -> Mapping[str, Any]:
    """A report that describes the file that it lies beside; empty where there is none."""
    try:
        found = cast("dict[str, Any]", read_report(path))
    except OutputError:
        return {}
    if of is not None and _section(found, "mask").get("bytes") != of.stat().st_size:
        return {}
    return found


def _section(report: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    found = report.get(key)
    return found if isinstance(found, dict) else {}


def _check(image: str | Path, file: Path, what: str, report: Mapping[str, Any]) -> None:
    source, digest = _section(report, "input").get("path"), _section(report, "hashes").get("input")
    # An address and a copy on disk have fingerprints of different kinds.
    if source is None or digest is None or is_url(str(source)) != is_url(str(image)):
        return
    if images.fingerprint(image) != digest:
        raise SourceError(
            f"{what} made of another image, {source}",
            value=image,
            file=file,
            advice="Give that image; where both hold the same scene, copy the file without the report beside it",
        )
