"""One option, defined once: its Python value, its text, its name on the command line and its place in the help."""

from __future__ import annotations

from copy import copy
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
"""Names of concrete types that error messages show instead of Python's abstract types of numbers."""
Panel = Literal[
    "Most used",
    "What to compare",
    "What to measure",
    "What to read",
    "Method",
    "Network from elsewhere",
    "How that network is called",
    "Where to look",
    "Outputs",
    "Machine",
    "Several jobs or devices",
    "More",
]
"""Sections of a command's help, in the order in which they are shown."""


@dataclass(frozen=True, kw_only=True)
class Form:
    """The form of an option's values: their text, and the Python values that are accepted."""

    parse: Callable[[str, str], Any]
    """Parses a text into a value; the second argument is the option's name in error messages. Raises UsageError."""
    spell: Callable[[Any], str] = str
    """Writes a value as a text that `parse` reads back exactly."""
    types: tuple[type, ...]
    """Types of the Python values that the option accepts."""
    convert: Callable[[Any], Any] | None = None
    """Converts a Python value of one of `types` to the option's value. None keeps the value as it is."""
    annotation: Any = str
    """Type to which typer converts a word before `parse` gets it: `str`, `int`, `bool`, `Path` or a `Literal`."""
    metavar: str | None = None
    """Placeholder of the value in the help. None leaves it to typer, which shows the choices of a `Literal`."""

    def take(self, value: object, word: str) -> Any:
        """Convert a text or a Python value to the option's value.

        Args:
            value: A text as the command line takes it, or a value of one of `types`.
            word: The option's name in error messages.

        Raises:
            UsageError: The value has another type, or cannot be converted.
        """
        if isinstance(value, str):
            return self.parse(value, word)
        # A truth value is a whole number to Python, but never one that a user means.
        if isinstance(value, self.types) and not (isinstance(value, bool) and bool not in self.types):
            try:
                return value if self.convert is None else self.convert(value)
            # Infinity and NaN are floats, but neither whole numbers nor fractions.
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
    """An option of the command line alone that sets another option: `--gpu 1` means `--device cuda:1`."""

    name: str
    form: Form
    about: str
    text: Callable[[Any], str]
    """Returns the text of the other option that a value of this one stands for."""
    adds: bool = False
    """Whether the text is appended to the other option's list. Otherwise it is an error to give both options."""
    panel: Panel
    rank: int | None = None
    least: int | None = None

    @property
    def word(self) -> str:
        """The option as the command line spells it."""
        return f"--{self.name.replace('_', '-')}"


class Option(Generic[T]):
    """A field of a dataclass of options. It accepts values of its type and the texts of the command line.

    It is a descriptor, so that type checkers know both: `options.memory` is `int | None`, and `memory="4GiB"` is
    accepted when options are created.

    Args:
        default: The value of an option that is not given.
        form: The form of values as text, and the Python values that are accepted.
        about: The description of the option in the help.
        panel: The section of the help that lists the option. None takes the panel of the option's group.
        rank: The option's position among the most used options, which the help lists first. None for all others.
        words: Names of the option on the command line. None means `--` and the field's name.
        off: The word of the command line that switches the option off.
        variable: The environment variable of the option. None derives it from the option's word, or from its group,
            and an empty text means that there is none.
        shown: The default as the help shows it. None shows the default itself, an empty text shows nothing.
        least: The smallest number that is allowed.
        needs: The name of another option and a text that its value has to contain, because this option has no meaning
            otherwise; an empty text stands for any value. The environment variable of this option is then ignored.
            None takes what the option's group needs.
        rival: A name shared by options that exclude each other. Where one of them is typed on the command line, the
            environment variables of the others are ignored.
        partner: The name of the rival that goes together with this option, and excludes the others as it does.
        unless: The name of another option and some of its texts. Where one of these is typed on the command line, the
            environment variable of this option is ignored.
        shorthand: An option of the command line that sets this one.
        group: The dataclass of options that is this option's value. The command line has each of its options.
        spelled: Writes the value as text where the text depends on the other options. None uses the form's `spell`.
        of_one_run: Whether the option concerns a single run, so that the command that repeats the run leaves it out.
    """

    def __init__(
        self,
        default: T,
        form: Form,
        *,
        about: str,
        panel: Panel | None = None,
        rank: int | None = None,
        words: tuple[str, ...] | None = None,
        off: str | None = None,
        variable: str | None = None,
        shown: str | None = None,
        least: int | None = None,
        needs: tuple[str, str] | None = None,
        rival: str | None = None,
        partner: str | None = None,
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
        self.panel: Panel | None = panel
        self.rank = rank
        self.words = words or ()
        self.off = off
        self.variable: str | None = variable
        self.shown = shown
        self.least = least
        self.needs = needs
        self.rival = rival
        self.partner = partner
        self.unless = unless
        self.shorthand = shorthand
        self.group = group
        self.spelled = spelled
        self.of_one_run = of_one_run

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name
        self.words = self.words or (f"--{name.replace('_', '-')}",)

    @property
    def word(self) -> str:
        """The option's name in error messages and commands: the longest of its words."""
        # The long form explains itself in a message, where `-b` does not.
        return max(self.words, key=len)

    def __get__(self, instance: object | None, owner: type | None = None) -> T:
        # A dataclass asks the class for a field's default.
        return self.default if instance is None else cast("T", instance.__dict__[self.name])

    def __set__(self, instance: object, value: T | str) -> None:
        instance.__dict__[self.name] = self.take(value)

    def take(self, value: object) -> T:
        """Convert a text or a Python value to the option's value.

        Raises:
            UsageError: The value cannot be converted, or is smaller than `least`.
        """
        # A dataclass passes the default through the descriptor as well. It need not be parsed again.
        if value is self.default:
            return self.default
        found: T = self.form.take(value, self.word)
        if self.least is not None and isinstance(found, int) and found < self.least:
            raise UsageError(
                f"{self.word} is at least {self.least}", value=found, advice=f"Write {self.word} {self.least} or more"
            )
        return found

    def command_words(self, options: DataclassInstance) -> list[str]:
        """Return the words of the command line that set this option to its value in `options`; none for the default."""
        value = getattr(options, self.name)
        if self.group is not None:
            return command_words(value)
        if value == self.default:
            return []
        # A switch has no value on the command line: it has one word for on, and may have another for off.
        if self.form.annotation is bool:
            return [self.word if value else self.off or ""]
        return [self.word, self.form.spell(value) if self.spelled is None else self.spelled(value, options)]


class NumericOption(Option[T]):
    """An option whose value is an exact number or a rule, and which also accepts Python's plain numbers."""

    def __set__(self, instance: object, value: T | str | float) -> None:
        instance.__dict__[self.name] = self.take(value)


class ListOption(Option[T]):
    """An option that has several values, and which also accepts lists."""

    def __set__(self, instance: object, value: T | str | Sequence[object]) -> None:
        instance.__dict__[self.name] = self.take(value)


class PathOption(Option[T]):
    """An option that names a file, a folder or a bundle, and which also accepts paths."""

    def __set__(self, instance: object, value: T | str | Path) -> None:
        instance.__dict__[self.name] = self.take(value)


class OptionGroup:
    """Base of the dataclasses of options. Their values cannot be changed after they were created.

    A dataclass that derives from it states what its own options have in common:

    - `panel`: the section of the help that lists those options that name none;
    - `needs`: what those options need that state nothing themselves (see `Option`), apart from the needed option;
    - `variables`: whether options have environment variables that they do not name themselves;
    - `of_one_run`: whether all options concern a single run.

    The dataclasses are not declared as frozen, because mypy then infers `str` for the values of inherited options.
    """

    def __init_subclass__(
        cls,
        *,
        panel: Panel | None = None,
        needs: tuple[str, str] | None = None,
        variables: bool = True,
        of_one_run: bool = False,
    ) -> None:
        super().__init_subclass__()
        for entry in vars(cls).values():
            if not isinstance(entry, Option):
                continue
            entry.panel = entry.panel or panel
            if entry.needs is None and needs is not None and entry.name != needs[0]:
                entry.needs = needs
            if entry.variable is None:
                entry.variable = f"MAGNET_{entry.word[2:].replace('-', '_').upper()}" if variables else ""
            entry.of_one_run = entry.of_one_run or of_one_run

    def given_for(self, needs: tuple[str, str]) -> list[str]:
        """Return the names of the options that need `needs` and were given another value than their default."""
        return [
            entry.word
            for entry in _options_of(type(self))
            if entry.needs == needs and getattr(self, entry.name) != entry.default
        ]

    def __setattr__(self, name: str, value: object) -> None:
        # The constructor sets each field once; a second time is a change.
        if name in self.__dict__:
            raise FrozenInstanceError(f"cannot assign to field {name!r}; make other options by dataclasses.replace")
        super().__setattr__(name, value)

    def __delattr__(self, name: str) -> None:
        raise FrozenInstanceError(f"cannot delete field {name!r}")


def options_in(group: type[DataclassInstance]) -> Iterator[Option[Any]]:
    """Yield the options of a dataclass in the order of its fields."""
    yield from _options_of(group)


def _options_of(group: Any) -> Iterator[Option[Any]]:
    for entry in fields(group):
        # A plain getattr would call `__get__` and give the default instead of the descriptor.
        found = getattr_static(group, entry.name, None)
        if isinstance(found, Option):
            yield found


def needing(group: type[DataclassInstance], name: str, needs: tuple[str, str]) -> Option[Any]:
    """Return the option that a group has under a name, for a dataclass in which it needs another option.

    Args:
        group: The group that has the option.
        name: The name of the option.
        needs: The name and the text of the other option, as in `Option`.
    """
    found: Option[Any] = copy(getattr_static(group, name))
    found.needs = needs
    return found


def values_of(options: DataclassInstance, *groups: type[DataclassInstance]) -> dict[str, Any]:
    """Return the values of those options of a dataclass that belong to groups from which it derives, by name."""
    return {entry.name: getattr(options, entry.name) for group in groups for entry in options_in(group)}


def command_words(options: DataclassInstance, *, without: tuple[str, ...] = ()) -> list[str]:
    """Return the words of the command line for all options that differ from their defaults.

    Options that concern a single run, and those named in `without`, are left out.
    """
    given = (entry for entry in options_in(type(options)) if not entry.of_one_run and entry.name not in without)
    return [word for entry in given for word in entry.command_words(options)]
