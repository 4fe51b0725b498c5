"""The page beside a mask: one HTML file that needs nothing else, no network either."""

from __future__ import annotations

import base64
import hashlib
import shlex
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from magnet_cli.images.geotransform import system_label
from magnet_cli.report.html import own_text, render_page
from magnet_cli.report.layers import COLOURS, PageLayer, heat_layer, heat_stops, mask_layer, photo_layer, stage_layer
from magnet_cli.report.legend import share_text
from magnet_cli.report.maps import NOTHING, STEPS, Map
from magnet_cli.system.memory import format_bytes

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from magnet_cli.geometry import Size
    from magnet_cli.report.picture import Class, MaskPicture

SQUARES = {"um2": "µm²", "m2": "m²"}
UNITS = {"um": "µm"}
ACTIVITIES = {
    "wall": "from start to end",
    "survey": "finding objects",
    "read": "reading",
    "forward": "networks",
    "refine": "refining",
    "select": "choosing",
    "write": "writing",
    "idle": "waiting",
}
LESS = {
    "uncertainty": "less uncertain",
    "change": "less changed by the stage before",
    "both": "less uncertain and less changed by the stage before",
    "ppn": "scored lower by the selector",
}
"""Reason why a window ranks below others, by the value of `--select`."""
READ_AS = {"binary": ", read as one object", "probability": ", read as a probability"}
WIDE = 3
"""Ratio of width to height from which a picture is shown above the controls instead of beside them."""


@dataclass(frozen=True, kw_only=True)
class Bar:
    """A row of a chart: a name, a number as text, and the length of its bar."""

    name: str
    shown: str
    percent: float
    """Length of the bar in percent of the longest."""


@dataclass(frozen=True, kw_only=True)
class StageRow:
    """A row of the table of stages."""

    number: int
    color: str
    scale: str
    windows: int
    run: int
    nodata: int
    outside: int
    skipped: tuple[tuple[int, str], ...]
    """Numbers of windows with data that were left out, each with its reason in words."""
    points: int
    changed: tuple[float, float] | None
    """Share of the pixels in computed windows that got another class, and the mean change of their probabilities;
    None where there was nothing to change."""
    layer: PageLayer | None
    """The map of the stage's windows."""
    changes: PageLayer | None
    """The map of the stage's changes."""

    @property
    def left_out(self) -> int:
        """The number of windows with data that were not computed."""
        return sum(count for count, _ in self.skipped)

    @property
    def computed(self) -> str:
        """The number of computed windows, in words."""
        return f"computed {self.run:,} of {self.windows:,} windows of {self.scale} pixels"

    @property
    def why(self) -> str:
        """The reasons why the other windows were left out, in words."""
        reasons = [(self.nodata, "without data"), (self.outside, "outside the area"), *self.skipped]
        return ", ".join(f"{count:,} {reason}" for count, reason in reasons if count)


@dataclass(frozen=True, kw_only=True)
class Refined:
    """The changes that refining made to a mask."""

    by: str
    """The bundle or the tool that refined."""
    before: str
    """Name of the mask's file before refining, with the meaning of its values where these are not classes."""
    changed: int
    """Pixels that got another class."""
    share: float
    """The share of all pixels."""
    objects: str
    """The numbers of refined objects, in words; empty for a tool that refines pixels."""


GENERATOR = b'<meta name="generator" content="magnet'
HEAD_BYTES = 8192
"""Number of bytes at the beginning of a page that hold the name of the program."""


def is_page(path: Path) -> bool:
    """Return whether a file is a page that this program has written, of a mask or of a bench."""
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return GENERATOR in file.read(HEAD_BYTES)


def make_page(picture: MaskPicture, report: Mapping[str, Any], name: str) -> str:
    """Return the page as text.

    Args:
        picture: The image and its mask.
        report: The mask's report.
        name: The name of the mask's file.

    Raises:
        KeyError, TypeError, ValueError, zlib.error: The report says something else than this version does.
    """
    script = own_text("page.js")
    unsure = report["maps"]["uncertainty"]
    uncertainty = None if unsure is None else Map.parse(unsure)
    filters = {"count": "{:,}".format, "share": share_text, "area": area_text, "svg": "{:.8g}".format}
    return render_page(
        "page.html",
        filters,
        title=_file_name(str(report["input"]["path"])),
        mask_name=name,
        script=script,
        # The page's content security policy allows this one script alone, so that no text of a report can run as
        # another.
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        picture=picture,
        wide=picture.size.width > WIDE * picture.size.height,
        photo=photo_layer(picture),
        mask=mask_layer(picture),
        stages=list(_stages(report, picture.size)),
        uncertainty=None if uncertainty is None else heat_layer(uncertainty),
        mean_uncertainty=_mean(uncertainty),
        heat=heat_stops(),
        facts=_facts(report),
        classes=picture.classes,
        refined=_refined(report),
        square=_square(picture.classes),
        not_computed=int(report["not_computed"]["pixels"]),
        seconds=_seconds(report["seconds"]),
        memory=_memory(report["memory"]),
        command=[shlex.quote(str(word)) for word in report["command"]],
        options={str(key).replace("_", " "): _as_text(value) for key, value in _options(report).items()},
        hashes=_hashes(report),
        versions={"magnet": report["program"]["version"], **report["versions"]},
        notes=[str(note) for note in report["notes"]],
        report=report,
    )


def _file_name(path: str) -> str:
    return path.replace("\\", "/").rstrip("/").rpartition("/")[2]


def _stages(report: Mapping[str, Any], size: Size) -> Iterator[StageRow]:
    maps, changes = (
        {int(entry["stage"]): Map.parse(entry) for entry in report["maps"].get(kind, [])}
        for kind in ("stages", "changes")
    )
    for step in report["passes"]:
        for entry in step["stages"]:
            number = int(entry["stage"])
            color = COLOURS[(number - 1) % len(COLOURS)]
            yield StageRow(
                number=number,
                color=color,
                scale=_size(entry["scale"]),
                windows=int(entry["windows"]),
                run=int(entry["windows_run"]),
                nodata=int(entry["not_run"]["nodata"]),
                outside=int(entry["not_run"]["outside"]),
                skipped=_skipped(entry["not_run"], report["options"]),
                points=int(entry["points"]),
                changed=_changed(entry["changed"]),
                layer=stage_layer(maps[number], size, color=color) if number in maps else None,
                changes=heat_layer(changes[number]) if number in changes else None,
            )


def _changed(found: Mapping[str, Any] | None) -> tuple[float, float] | None:
    return None if found is None else (float(found["labels"]), float(found["probabilities"]))


def _skipped(not_run: Mapping[str, Any], options: Mapping[str, Any]) -> tuple[tuple[int, str], ...]:
    """Return how many windows were left out, by reason."""
    lower = LESS["ppn" if options["patches"] == "selector" else options["select"]]
    words = {"unselected": lower, "unpaid": f"{lower}, beyond the budget", "settled": "settled"}
    return tuple((int(not_run[why]), f"left out as {reason}") for why, reason in words.items())


def _refined(report: Mapping[str, Any]) -> Refined | None:
    """Return the facts about refining, by `magnet refine` or the last stage of `segment`; None without refining."""
    found = report.get("refined")
    if found is None:
        return None
    settings, size = report["options"].get("refine") or report["options"], report["input"]["size"]
    bundle, changed = found.get("bundle", report["bundle"]), int(found["changed_pixels"])
    classes = [str(entry["name"]) for entry in report["classes"]]
    named = [word if word in classes else classes[int(word)] for word in settings.get("only", [])]
    named = named or classes[1:] if settings.get("object") else named
    return Refined(
        by=str(bundle["name"] if bundle else settings["method"]),
        before=_file_name(str(found["path"])) + READ_AS.get(str(found["read_as"]), ""),
        changed=changed,
        share=changed / (int(size["width"]) * int(size["height"])),
        objects=_objects(found.get("objects") or report["objects"], named) if bundle else "",
    )


def _objects(objects: Mapping[str, Any], named: Sequence[str]) -> str:
    large = sum(int(each["objects"]) for each in objects["large"])
    one_by_one, left = int(objects["refined"]), int(objects["left"])
    kind = f" of {', '.join(named)}" if named else ""
    counts = [(one_by_one, "one by one"), (large, "level by level"), (left, "too small, left as they were")]
    return f"Objects{kind}: " + ", ".join(
        f"{count:,} {what}" for count, what in counts if count or what == counts[0][1]
    )


def _mean(found: Map | None) -> str:
    known = [] if found is None else found.values[found.values != NOTHING]
    return f"{np.mean(known) / STEPS:.2f}" if len(known) else ""


def _facts(report: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return the facts about the image at the head of the page."""
    image, pixel = report["input"], report["input"]["pixel"]
    size = f"{image['size']['width']:,} × {image['size']['height']:,} pixels"  # noqa: RUF001 - the sign of a product
    found = [("Image", size)]
    if pixel is not None:
        unit = UNITS.get(pixel["unit"], str(pixel["unit"]))
        sides = dict.fromkeys(f"{float(pixel[axis]):.4g}" for axis in ("x", "y"))
        found.append(("Pixel", f"{' × '.join(sides)} {unit}"))  # noqa: RUF001
    if image["crs"] is not None:
        found.append(("CRS", system_label(str(image["crs"]))))
    found += [
        ("Bands", f"{_bands(image['bands'])}, {image['dtype']}"),
    ]
    if report["bundle"] is not None:
        found.append(("Bundle", str(report["bundle"]["name"])))
    refined = report["options"].get("refine")
    then = "" if refined is None else f", then {refined['method']}"
    return [*found, ("Method", f"{report['options']['method']}{then}")]


def _bands(names: list[str]) -> str:
    return ", ".join(names) if len(names) <= 4 else f"{len(names)} bands"  # noqa: PLR2004 - what fits into a line


def _square(classes: tuple[Class, ...]) -> str:
    """Return the unit of areas; empty where the size of the image's pixels is unknown."""
    unit = next((entry.unit for entry in classes if entry.unit is not None), "")
    return SQUARES.get(unit, unit)


def area_text(area: float) -> str:
    """Return an area with at least four significant digits, and without zeros that end a fraction."""
    return f"{area:,.0f}" if area >= 1000 or area == 0 else f"{area:.4g}"  # noqa: PLR2004 - four digits


def _seconds(seconds: Mapping[str, Any]) -> list[Bar]:
    """Return a bar for the whole run, and one for each activity.

    These overlap, because they are summed over threads.
    """
    found = {str(name): float(value) for name, value in seconds.items()}
    longest = max([*found.values(), 1e-9])
    first = sorted(found, key=lambda name: (name != "wall", -found[name]))
    return [
        Bar(
            name=ACTIVITIES.get(name, name.replace("_", " ")),
            shown=_duration(found[name]),
            percent=100 * found[name] / longest,
        )
        for name in first
    ]


def _duration(seconds: float) -> str:
    if seconds < 60:  # noqa: PLR2004 - a minute
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"


def _memory(memory: Mapping[str, Any]) -> list[Bar]:
    """Return the bytes that the report states, with bars relative to the largest of the host or of the device."""
    flat: dict[str, int] = {}
    for name, value in memory.items():
        inner = value if isinstance(value, dict) else {"": value}
        flat |= {
            f"{name}_{key}".strip("_").replace("_", " "): int(amount)
            for key, amount in inner.items()
            if isinstance(amount, int | float) and not isinstance(amount, bool) and amount > 0
        }
    largest = {kind: max(v for k, v in flat.items() if k.partition(" ")[0] == kind) for kind in _kinds(flat)}
    return [
        Bar(name=name, shown=format_bytes(amount), percent=100 * amount / largest[name.partition(" ")[0]])
        for name, amount in flat.items()
    ]


def _kinds(names: Mapping[str, int]) -> set[str]:
    return {name.partition(" ")[0] for name in names}


def _options(report: Mapping[str, Any]) -> dict[str, object]:
    """Return the options of the report, its bands in words."""
    bands = [
        f"{entry['name']}: band {int(entry['band'])} ({entry['of_image']}), "
        f"{float(entry['low']):g} to {float(entry['high']):g}"
        for entry in report["options"]["bands"]
    ]
    return {key: value for key, value in {**report["options"], "bands": bands}.items() if value != []}


def _as_text(value: object) -> str:
    """Return a JSON value as text."""
    if isinstance(value, list):
        return ", ".join(_as_text(item) for item in value)
    if isinstance(value, dict):
        sides = set(value) == {"width", "height"}
        return (
            _size(value) if sides else ", ".join(f"{key} {_as_text(item)}" for key, item in value.items() if item != [])
        )
    if value is None or isinstance(value, bool):
        return {True: "yes", False: "no", None: "none"}[value]
    return f"{value:g}" if isinstance(value, float) else str(value)


def _size(size: Mapping[str, Any]) -> str:
    width, height = (f"{float(size[side]):.6g}" for side in ("width", "height"))
    return width if width == height else f"{width} × {height}"  # noqa: RUF001


def _hashes(report: Mapping[str, Any]) -> dict[str, str]:
    return {
        "image": str(report["hashes"]["input"]),
        **({"bundle": str(report["hashes"]["bundle"])} if "bundle" in report["hashes"] else {}),
        "options": str(report["hashes"]["options"]),
        "mask file (SHA-256)": str(report["mask"]["sha256"]),
        "report": str(report["digest"]),
    }
