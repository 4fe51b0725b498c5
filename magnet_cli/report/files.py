"""Writing the picture and the page beside a mask."""

from __future__ import annotations

import shutil
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, cast

from magnet_cli import images
from magnet_cli.errors import OutputError, SourceError, UsageError
from magnet_cli.events import Step
from magnet_cli.images.urls import is_url
from magnet_cli.masks.output import OutputPaths
from magnet_cli.masks.report_file import read_report
from magnet_cli.masks.targets import named_masks
from magnet_cli.options.shared import ViewOptions
from magnet_cli.report.overlay import draw_overlay
from magnet_cli.report.page import is_page, make_page
from magnet_cli.report.picture import read_picture
from magnet_cli.system import durable
from magnet_cli.system.own_pictures import is_own_picture
from magnet_cli.system.private_names import PrivateNames
from magnet_cli.system.written_files import WrittenFile, refuse_collisions, refuse_foreign

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from magnet_cli.events import Events

DISK_SHARE = 0.5
"""Share of the free disk that a decoded copy of the image may take."""

ELSEWHERE = "Say with --image where the image is that the mask was made of"


@dataclass(frozen=True, kw_only=True)
class ViewPaths:
    """The paths of the picture and the page; None for a file that is not wanted."""

    overlay: Path | None = None
    html: Path | None = None

    @classmethod
    def of(cls, mask: Path, *, overlay: bool, html: bool) -> Self:
        """Return the paths that belong to a mask: `x.tif` has `x.overlay.png` and `x.html`."""
        return cls(
            overlay=mask.with_name(f"{mask.stem}.overlay.png") if overlay else None,
            html=mask.with_name(f"{mask.stem}.html") if html else None,
        )

    def files(self, owner: str) -> list[WrittenFile]:
        """Return the files that are written, made for the image `owner`."""
        found = []
        if self.overlay is not None:
            found.append(WrittenFile(path=self.overlay, kind="picture", owner=owner, is_ours=is_own_picture))
        if self.html is not None:
            found.append(WrittenFile(path=self.html, kind="page", owner=owner, is_ours=is_page))
        return found

    def outdated(self, mask: Path) -> Self:
        """Return those files that are missing or older than the mask."""
        # A mask that was computed again is newer than the files that show the one before.
        made = mask.stat().st_mtime_ns
        return type(self)(
            **{
                name: path
                for name, path in vars(self).items()
                if path is not None and not (path.exists() and path.stat().st_mtime_ns >= made)
            }
        )


def write_views(paths: ViewPaths, *, mask: Path, report: Mapping[str, object], image: str | None = None) -> list[Path]:
    """Write the picture and the page of a finished mask, each complete or not at all.

    Args:
        paths: The files to write.
        mask: The file, read only.
        report: The mask's report.
        image: The image of the mask. None takes the path in the report.

    Returns:
        The paths of the written files.

    Raises:
        SourceError: The image is missing or cannot be read.
        OutputError: The mask cannot be read, is not the report's, a file of another program is in the way, or the
            folder refuses a file.
    """
    if paths.overlay is None and paths.html is None:
        return []
    refuse_foreign(paths.files(str(mask)))
    found = cast("Mapping[str, Any]", report)
    folder = mask.parent.resolve()
    cache = images.CacheBudget(folder=folder, max_bytes=int(shutil.disk_usage(folder).free * DISK_SHARE))
    try:
        source, series = found["input"]["path"] if image is None else image, found["input"].get("series")
        alpha = found["input"].get("alpha")
        with images.open_image(source, cache=cache, series=series and series["number"], alpha=alpha) as opened:
            picture = read_picture(opened, mask, found)
        # Both are made before the first is written, so that an image that cannot be read leaves the old files as they
        # are.
        drawn = {
            paths.overlay: draw_overlay(picture) if paths.overlay else b"",
            paths.html: make_page(picture, found, mask.name).encode("utf-8", "replace") if paths.html else b"",
        }
    except (KeyError, TypeError, ValueError, AttributeError, zlib.error) as exc:
        raise _of_another_version(mask) from exc
    written = [path for path in drawn if path is not None]
    # Each file is written whole under a working name, so that a full disk leaves no half of a page.
    for path in written:
        durable.write_whole(path, drawn[path])
    return written


def draw_views(
    mask: Path,
    options: ViewOptions,
    *,
    report: Mapping[str, object],
    image: str,
    events: Events,
    only_outdated: bool = False,
) -> None:
    """Write the picture and the page that the options ask for beside a finished mask, and report each.

    Args:
        mask: The mask, which is complete and stays whatever fails.
        options: Which files are written.
        report: The mask's report.
        image: The image that the mask was made of.
        events: Receives progress and messages.
        only_outdated: Whether files that are newer than the mask are left as they are.

    Raises:
        SourceError, OutputError: A file cannot be made.
    """
    wanted = ViewPaths.of(mask, overlay=options.overlay, html=options.html)
    wanted = wanted.outdated(mask) if only_outdated else wanted
    if wanted == ViewPaths():
        return
    events.step(Step(image=mask.name, what="drawing", done=0, total=1))
    for path in write_views(wanted, mask=mask, report=report, image=image):
        events.message(f"{path}: done")


def make_report(
    masks: str | Path | Sequence[str | Path], options: ViewOptions | None = None, *, image: str | Path | None = None
) -> list[Path]:
    """Write the picture and the page of masks that exist, without computing the masks again.

    Args:
        masks: Masks that `magnet segment` or `magnet refine` has written, or folders of them; one, or several.
        options: Options for the files. If they select neither, the page is written.
        image: The image that the mask was made of, for one mask only. None takes the path in the mask's report.

    Returns:
        The paths of the files.

    Raises:
        UsageError: An image is given for several masks, or a folder holds no mask.
        SourceError: An image is missing, is another one, or cannot be read.
        OutputError: A mask or its report is missing or damaged, or the folder refuses a file.
    """
    # All names are checked before the first page is written.
    found = list(named_masks([masks] if isinstance(masks, str | Path) else masks))
    if image is not None and len(found) > 1:
        raise UsageError("--image belongs to one mask", value=f"{len(found)} masks", advice="Name one mask")
    source = None if image is None else str(image)
    return [path for mask in found for path in show_mask(mask, options or ViewOptions(), image=source)]


def show_mask(mask: Path, options: ViewOptions, *, image: str | None = None) -> list[Path]:
    """Write the picture and the page of one mask, as `make_report` does."""
    if not mask.is_file():
        raise OutputError("there is no such mask", file=mask, advice="Check the path")
    report = cast("dict[str, Any]", read_report(OutputPaths.of(mask).report))
    try:
        source, expected = str(report["input"]["path"] if image is None else image), report["hashes"]["input"]
    except (KeyError, TypeError) as exc:
        raise _of_another_version(mask) from exc
    try:
        found = images.fingerprint(source)
    except SourceError as error:
        raise SourceError(error.rule, value=error.value, file=source, advice=ELSEWHERE) from error
    if found != expected:
        raise SourceError("the mask was made of another image", file=source, advice=ELSEWHERE)
    paths = ViewPaths.of(mask, overlay=options.overlay, html=options.html or not options.overlay)
    refuse_collisions(
        paths.files(str(mask)),
        (path for path in (str(mask), str(OutputPaths.of(mask).report), source) if not is_url(path)),
    )
    told = PrivateNames.of_report(report).table(report) if options.private else report
    return write_views(paths, mask=mask, report=told, image=source)


def _of_another_version(mask: Path) -> OutputError:
    return OutputError(
        "the report does not describe this mask as this version does",
        file=OutputPaths.of(mask).report,
        advice="Compute the mask again with --overwrite",
    )
