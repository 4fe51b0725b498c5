"""One option, defined once: its Python value, its text, its name on the command line and its place in the help."""

from __future__ import annotations

from dataclasses import FrozenInstanceError, dataclass, fields
from inspect import getattr_static
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeVar, cast

from magnet_cli.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from _typeshed import DataclassInstance

T = TypeVar("T")

PLAIN_NAMES = {"Integral": "int", "Rational": "Fraction"}
"""Types that people use, for the abstract types of numbers."""
Panel = Literal[
    "Most used",
    "What to compare",
    "What to measure",
    "What to read",
    "Method",
    "Where to look",
    "Outputs",
    "Machine",
    "More",
]
"""Sections of a command's help, in their order."""


@dataclass(frozen=True, kw_only=True)
class Form:
    """How the values of an option are written as text, and which Python values are taken for them."""

    parse: Callable[[str, str], Any]
    """Makes a value of a text; the second argument is the option as error messages name it. Raises UsageError."""
    spell: Callable[[Any], str] = str
    """Writes a value as a text that `parse` reads back exactly."""
    types: tuple[type, ...]
    """Types of the Python values that are taken."""
    convert: Callable[[Any], Any] | None = None
    """Makes the option's value of a Python value of one of `types`. None takes the value as it is."""
    annotation: Any = str
    """What the command line makes of a word before `parse` sees it: `str`, `int`, `bool`, `Path` or a `Literal`."""
    metavar: str | None = None
    """Placeholder of the value in the help. None shows the choices of a `Literal`."""

    def take(self, value: object, word: str) -> Any:
        """Make the option's value of a text or of a Python value.

        Args:
            value: A text as the command line takes it, or a value of one of `types`.
            word: The option as error messages name it.

        Raises:
            UsageError: It is neither, or cannot be understood.
        """
        if isinstance(value, str):
            return self.parse(value, word)
        # A truth value is a whole number to Python, but never one that a user means.
        if isinstance(value, self.types) and not (isinstance(value, bool) and bool not in self.types):
            try:
                return value if self.convert is None else self.convert(value)
            except (TypeError, ValueError, OverflowError):
                pass
        names = ", ".join(PLAIN_NAMES.get(kind.__name__, kind.__name__) for kind in (*self.types, str))
        raise UsageError(
            f"{word} does not take this value",
            value=f"{value!r}, of type {type(value).__name__}",
            advice=f"Give the text that the command line takes, or one of these types: {names}",
        )


@dataclass(frozen=True, kw_only=True)
class Shorthand:
    """An option that only the command line has, and that sets another one: `--gpu 1` is `--device cuda:1`."""

    name: str
    form: Form
    about: str
    text: Callable[[Any], str]
    """The text of the other option that a value stands for."""
    adds: bool = False
    """Whether the text joins a list that the other option gives, instead of contradicting it."""
    panel: Panel
    rank: int | None = None
    least: int | None = None

    @property
    def word(self) -> str:
        """The option as the command line spells it."""
        return f"--{self.name.replace('_', '-')}"


class Option(Generic[T]):
    """A field of a dataclass of options, which takes values as well as the text of the command line.

    It is a descriptor, so that type checkers know both: `options.memory` is `int | None`, and `memory="4GiB"` is
    accepted where options are made.

    Args:
        default: The value where nobody gives one.
        form: How values are written.
        about: What the option means, for the help.
        panel: The section of the help that shows it.
        rank: Place among the most used options, which the help shows first. None for all others.
        words: How the command line spells it. None for `--` and the field's name.
        off: The word that switches it off.
        variable: The environment variable that stands for it. None derives it from the word, an empty text means none.
        shown: The default as the help shows it. None shows the default itself, an empty text shows nothing.
        least: The smallest number that is allowed.
        needs: The name of another option and a text that it has to hold, without which this one means nothing. What
            the environment says is then left aside.
        rival: A name that options share of which at most one may be given. What is typed on the command line beats
            what the environment says of another one.
        unless: The name of another option and texts of it, typed on the command line, that leave aside what the
            environment says of this one.
        shorthand: An option of the command line that sets this one.
        group: The dataclass of options that the value is made of, each of which the command line has by itself.
        spelled: Writes the value where that depends on the options beside it. None takes the form's way.
        of_one_run: Whether it is about one run alone, so that a command to repeat it leaves it out.
    """

    def __init__(
        self,
        default: T,
        form: Form,
        *,
        about: str,
        panel: Panel,
        rank: int | None = None,
        words: tuple[str, ...] | None = None,
        off: str | None = None,
        variable: str | None = None,
        shown: str | None = None,
        least: int | None = None,
        needs: tuple[str, str] | None = None,
        rival: str | None = None,
        unless: tuple[str, tuple[str, ...]] | None = None,
        shorthand: Shorthand | None = None,
        group: type[DataclassInstance] | None = None,
        spelled: Callable[[Any, Any], str] | None = None,
        of_one_run: bool = False,
    ) -> None:
        self.name = ""
        self.default = default
        self.form = form
        self.about = about
        self.panel = panel
        self.rank = rank
        self.words = words or ()
        self.off = off
        self.variable: str | None = variable
        self.shown = shown
        self.least = least
        self.needs = needs
        self.rival = rival
        self.unless = unless
        self.shorthand = shorthand
        self.group = group
        self.spelled = spelled
        self.of_one_run = of_one_run

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name
        self.words = self.words or (f"--{name.replace('_', '-')}",)
        if self.variable is None:
            self.variable = f"MAGNET_{self.word[2:].replace('-', '_').upper()}"

    @property
    def word(self) -> str:
        """The option as error messages and commands spell it: its longest word."""
        return max(self.words, key=len)

    def __get__(self, instance: object | None, owner: type | None = None) -> T:
        # A dataclass asks the class for a field's default.
        return self.default if instance is None else cast("T", instance.__dict__[self.name])

    def __set__(self, instance: object, value: T | str) -> None:
        instance.__dict__[self.name] = self.take(value)

    def take(self, value: object) -> T:
        """Make the option's value of a text or a Python value.

        Raises:
            UsageError: It cannot be understood, or is smaller than the least.
        """
        if value is self.default:
            return self.default
        found: T = self.form.take(value, self.word)
        if self.least is not None and isinstance(found, int) and found < self.least:
            raise UsageError(f"{self.word} is at least {self.least}", value=found)
        return found

    def command_words(self, options: DataclassInstance) -> list[str]:
        """The words that give the command line the value that some options have; none for the default."""
        value = getattr(options, self.name)
        if self.group is not None:
            return command_words(value)
        if value == self.default:
            return []
        if self.form.annotation is bool:
            return [self.word if value else self.off or ""]
        return [self.word, self.form.spell(value) if self.spelled is None else self.spelled(value, options)]


class NumericOption(Option[T]):
    """An option whose value is exact, or a rule, and which takes Python's plain numbers too."""

    def __set__(self, instance: object, value: T | str | float) -> None:
        instance.__dict__[self.name] = self.take(value)


class ListOption(Option[T]):
    """An option of several values, which takes lists too."""

    def __set__(self, instance: object, value: T | str | Sequence[object]) -> None:
        instance.__dict__[self.name] = self.take(value)


class PathOption(Option[T]):
    """An option that names a file, a folder or a bundle, and which takes paths too."""

    def __set__(self, instance: object, value: T | str | Path) -> None:
        instance.__dict__[self.name] = self.take(value)


class OptionGroup:
    """Base of dataclasses of options, whose values stay as they were made.

    The dataclasses are not declared as frozen, because mypy then takes the values of inherited options for texts.
    """

    def __setattr__(self, name: str, value: object) -> None:
        if name in self.__dict__:
            raise FrozenInstanceError(f"cannot assign to field {name!r}; make other options by dataclasses.replace")
        super().__setattr__(name, value)

    def __delattr__(self, name: str) -> None:
        raise FrozenInstanceError(f"cannot delete field {name!r}")


def options_in(group: type[DataclassInstance]) -> Iterator[Option[Any]]:
    """The options that a dataclass is made of, in the order of its fields."""
    for entry in fields(group):
        found = getattr_static(group, entry.name, None)
        if isinstance(found, Option):
            yield found


def command_words(options: DataclassInstance, *, without: tuple[str, ...] = ()) -> list[str]:
    """The options of a command that differ from their defaults, word by word, without those of one run alone."""
    given = (entry for entry in options_in(type(options)) if not entry.of_one_run and entry.name not in without)
    return [word for entry in given for word in entry.command_words(options)]
