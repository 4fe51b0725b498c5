"""The command that makes a mask again: its options are written as words of the command line."""

from __future__ import annotations

from typing import TYPE_CHECKING

from magnet_cli.options.option import command_words
from magnet_cli.options.segment import DEFAULT_BUNDLE, SegmentOptions

if TYPE_CHECKING:
    from pathlib import Path

    from _typeshed import DataclassInstance


def segment_words(image: str, mask: Path, options: SegmentOptions) -> list[str]:
    """Return the command `magnet segment` with these options, one word an item; a shell needs the words quoted."""
    found = ["magnet", "segment", as_path(image), "-o", as_path(str(mask))]
    bundle = [] if options.foreign.network is not None else ["--weights", options.weights or DEFAULT_BUNDLE]
    return [*found, *bundle, *option_words(options)]


def option_words(options: DataclassInstance) -> list[str]:
    """Return the words of all options that differ from their defaults, without the bundle."""
    return command_words(options, without=("weights",))


def as_path(text: str) -> str:
    """Return the path as a word that the command line does not read as an option."""
    return f"./{text}" if text.startswith("-") else text
