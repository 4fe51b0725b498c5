"""The command that makes a mask again: its options are written as words of the command line."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from magnet_cli.errors import UsageError
from magnet_cli.options.option import command_words, options_in
from magnet_cli.options.segment import DEFAULT_BUNDLE, SegmentOptions

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from _typeshed import DataclassInstance

    from magnet_cli.options.option import Option


def segment_words(image: str, mask: str, options: SegmentOptions) -> list[str]:
    """Return the command `magnet segment` with these options, one word an item; a shell needs the words quoted."""
    found = ["magnet", "segment", as_path(image), "-o", as_path(mask)]
    bundle = [] if options.foreign.network is not None else ["--weights", options.weights or DEFAULT_BUNDLE]
    return [*found, *bundle, *option_words(options)]


def option_words(options: DataclassInstance) -> list[str]:
    """Return the words of all options that differ from their defaults, without the bundle."""
    return command_words(options, without=("weights",))


def options_of_words(group: type[DataclassInstance], words: Sequence[str]) -> dict[str, object]:
    """Return the values of a dataclass of options that words of a command line give, by name.

    Args:
        group: The dataclass.
        words: Words that `option_words` has written, or `segment_words` after the output.

    Raises:
        UsageError: A word is no option of the dataclass.
    """
    rest = list(words)
    found: dict[str, object] = {}
    while rest:
        _take(group, rest, found)
    return _grouped(group, found)


def _take(group: type[DataclassInstance], rest: list[str], found: dict[str, object]) -> None:
    """Move one option from the front of some words to the values that were found."""
    word = rest.pop(0)
    for entry in _flat(group):
        if word == entry.word or (entry.off is not None and word == entry.off):
            is_switch = entry.form.annotation is bool
            found[entry.name] = word == entry.word if is_switch else rest.pop(0)
            return
    raise UsageError(
        "this is no option of the command",
        value=word,
        advice="Check the spelling; 'magnet help COMMAND' lists the options",
    )


def _flat(group: type[DataclassInstance]) -> Iterator[Option[Any]]:
    for entry in options_in(group):
        yield from (entry,) if entry.group is None else _flat(entry.group)


def _grouped(group: type[DataclassInstance], found: Mapping[str, object]) -> dict[str, object]:
    """Put the values of options into the groups that they belong to."""
    values: dict[str, object] = {}
    for entry in options_in(group):
        if entry.group is None and entry.name in found:
            values[entry.name] = found[entry.name]
        elif entry.group is not None and (inner := _grouped(entry.group, found)):
            values[entry.name] = entry.group(**inner)
    return values


def as_path(text: str) -> str:
    """Return the path as a word that the command line does not read as an option."""
    return f"./{text}" if text.startswith("-") else text
