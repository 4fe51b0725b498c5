"""The words that make a mask again: options as the command line spells them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from magnet_cli.options.option import command_words
from magnet_cli.options.segment import DEFAULT_BUNDLE, SegmentOptions

if TYPE_CHECKING:
    from pathlib import Path

    from _typeshed import DataclassInstance


def segment_words(image: str, mask: Path, options: SegmentOptions) -> list[str]:
    """The command line of `magnet segment` that gives these options, word by word; a shell needs them quoted."""
    found = ["magnet", "segment", as_path(image), "-o", as_path(str(mask))]
    return [*found, "--weights", options.weights or DEFAULT_BUNDLE, *option_words(options)]


def option_words(options: DataclassInstance) -> list[str]:
    """The options of a command that differ from their defaults, word by word, without the bundle."""
    return command_words(options, without=("weights",))


def as_path(text: str) -> str:
    """A file as a word that is not taken for an option."""
    return f"./{text}" if text.startswith("-") else text
