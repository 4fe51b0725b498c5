"""The words that make a mask again: `SegmentOptions` as the command line spells them."""

from __future__ import annotations

from dataclasses import fields
from decimal import Context
from fractions import Fraction
from typing import TYPE_CHECKING

from magnet_cli.geometry import Box, Size
from magnet_cli.options.lengths import PhysicalScales, PhysicalSize, in_unit
from magnet_cli.options.segment import DEFAULT_BUNDLE, ExportOptions, Rule, SegmentOptions, limited
from magnet_cli.options.values import ValueRange

if TYPE_CHECKING:
    from pathlib import Path

    from _typeshed import DataclassInstance

LEFT_OUT = ("overwrite", "resume", "weights")
"""Of one run alone; and the bundle, which is always named."""
BYTES = ("memory", "gpu_memory")
UNITS = {1: "B", 1 << 20: "MiB", 1 << 30: "GiB"}
SPELLED = {"side": "--L", "objects": "--object"}
DIGITS = Context(prec=30)


def segment_words(image: str, mask: Path, options: SegmentOptions) -> list[str]:
    """The command line of `magnet segment` that gives these options, word by word; a shell needs them quoted."""
    found = ["magnet", "segment", as_path(image), "-o", as_path(str(mask))]
    return [*found, "--weights", options.weights or DEFAULT_BUNDLE, *option_words(options)]


def option_words(options: DataclassInstance) -> list[str]:
    """The options of a command that differ from their defaults, word by word."""
    found: list[str] = []
    for entry in fields(options):
        value = getattr(options, entry.name)
        if entry.name in LEFT_OUT or value == entry.default:
            continue
        if isinstance(value, ExportOptions):
            found += _exports(value)
            continue
        option = SPELLED.get(entry.name, f"--{entry.name.replace('_', '-')}")
        if isinstance(value, Rule):
            letter = "q" if entry.name == "points" else limited(getattr(options, "select", None))
            found += [option, _rule(value, letter)]
            continue
        found += [option] if value is True else [option, _spelled(entry.name, value)]
    return found


def _exports(exports: ExportOptions) -> list[str]:
    found = ["--format", ",".join(exports.formats)]
    found += ["--simplify", _number(exports.simplify)] if exports.simplify else []
    return found + (["--min-area", str(exports.min_area)] if exports.min_area else [])


def as_path(text: str) -> str:
    """A file as a word that is not taken for an option."""
    return f"./{text}" if text.startswith("-") else text


def _spelled(name: str, value: object) -> str:
    if name in BYTES and isinstance(value, int):
        unit = max(size for size in UNITS if value % size == 0)
        return f"{value // unit}{UNITS[unit]}"
    if isinstance(value, Box):
        return f"{value.x},{value.y},{value.width},{value.height}"
    if isinstance(value, ValueRange):
        return _value_range(value)
    items = value.sizes if isinstance(value, PhysicalScales) else value if isinstance(value, tuple) else (value,)
    return ",".join(map(_item, items))


def _item(item: object) -> str:
    if isinstance(item, PhysicalSize):
        return _physical(item)
    return str(item) if isinstance(item, Size) else _number(item)


def _physical(size: PhysicalSize) -> str:
    width, height = (_number(in_unit(side, size.unit)) for side in (size.width, size.height))
    return f"{width}x{height}{size.unit}"


def _rule(rule: Rule, letter: str) -> str:
    """As `Rule.spelled`, to the last digit."""
    if rule.kind in ("all", "count", "selector"):
        return rule.spelled(letter)
    if rule.kind == "threshold":
        return f"{letter}>{_number(rule.values[0])}"
    return "100%" if rule.values[0] == 1 else _number(rule.values[0])


def _value_range(given: ValueRange) -> str:
    """As the value spells itself, to the last digit."""
    sign = "%" if given.kind == "percentiles" else ""
    return "dtype" if given.kind == "dtype" else f"{_number(given.low)}{sign},{_number(given.high)}{sign}"


def _number(value: object) -> str:
    if not isinstance(value, Fraction):
        return str(value)
    return format(DIGITS.divide(value.numerator, value.denominator), "f")
