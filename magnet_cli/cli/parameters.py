"""Parameters of commands: groups of options become options of typer, and their words become the groups' values."""

from __future__ import annotations

import functools
import inspect
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Generic, ParamSpec, TypeVar, cast, get_args

import typer
from typer.core import TyperCommand

from magnet_cli.errors import UsageError
from magnet_cli.options.option import Option, Panel, Shorthand, options_in

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from _typeshed import DataclassInstance

P = ParamSpec("P")
R = TypeVar("R")
OptionsT = TypeVar("OptionsT")

FIRST, *OTHERS, MORE = get_args(Panel)
CONTEXT = "context"
"""Name of the parameter in which typer passes the context of the running command."""
TYPE = re.compile(r"<(?:list\[)?(\w+)\]?>")
"""How typer writes the Python type of a value that has no word of its own."""
METAVARS = {"str": "TEXT", "path": "PATH", "Path": "PATH", "int": "N", "float": "NUMBER"}
OWN = "Options"
"""Panel of options that name no panel."""

Inputs = Annotated[
    list[str], typer.Argument(metavar="INPUT...", help="Images, folders, glob patterns, lists (.csv) or URLs.")
]
Json = Annotated[
    bool,
    typer.Option(
        "--json", help="Print one JSON object on standard output.", envvar="MAGNET_JSON", rich_help_panel=MORE
    ),
]
NoProgress = Annotated[
    bool,
    typer.Option(
        "--no-progress",
        help="Show no progress bar, even on a terminal.",
        envvar="MAGNET_NO_PROGRESS",
        rich_help_panel=MORE,
    ),
]


def output_option(about: str) -> Any:
    """Declare `-o` for a command that writes files beside its inputs, into a folder, or under a name.

    Args:
        about: The description in the help, with what the command does without the option.
    """
    return typer.Option("-o", "--output", help=about, envvar="MAGNET_OUTPUT", rich_help_panel=FIRST)


@dataclass(frozen=True, kw_only=True)
class Group(Generic[OptionsT]):
    """The options of a dataclass that a command has."""

    options: type[OptionsT]
    without: tuple[str, ...] = ()
    """Names of options and shorthands that the command does not have."""
    only: tuple[str, ...] | None = None
    """Names of the only options and shorthands that the command has. None means all that `without` does not name."""

    def entries(self) -> Iterator[Option[Any]]:
        """Yield the options that the command has, including those of groups inside the group."""
        yield from self._entries(self.options)

    def _entries(self, options: Any) -> Iterator[Option[Any]]:
        for entry in options_in(options):
            if not self.allows(entry.name):
                continue
            if entry.group is not None:
                yield from self._entries(entry.group)
            else:
                yield entry

    def allows(self, name: str) -> bool:
        """Return whether the command has an option or a shorthand of this name."""
        return name not in self.without and (self.only is None or name in self.only)


class Given(Generic[OptionsT]):
    """The texts that the command line and the environment give for a group of options.

    The command line takes precedence: environment variables are ignored for options that exclude an option which is
    typed, and for options that have no meaning beside it.

    Args:
        group: The group of options.
        context: The context of the running command.
    """

    def __init__(self, group: Group[OptionsT], context: typer.Context) -> None:
        self._group = group
        self._context = context

    def entries(self) -> Iterator[Option[Any]]:
        """Yield the options of the group that the command has."""
        return self._group.entries()

    def names(self) -> Iterator[str]:
        """Yield the names of the command's options and of their shorthands."""
        for entry in self.entries():
            yield entry.name
            if entry.shorthand is not None and self._group.allows(entry.shorthand.name):
                yield entry.shorthand.name

    def has(self, name: str) -> bool:
        """Return whether the group gives the command an option of this name."""
        return any(entry.name == name for entry in self.entries())

    def typed(self, name: str) -> bool:
        """Return whether an option is typed on the command line. Environment variables and defaults do not count."""
        return is_typed(self._context, name)

    def value(self, **more: object) -> OptionsT:
        """Create the dataclass of options from what is given.

        Args:
            more: Values of options that the command line does not have.

        Raises:
            UsageError: A text cannot be parsed, or options contradict each other.
        """
        options: Any = self._group.options
        return cast("OptionsT", options(**self._values(options), **more))

    def _values(self, options: type[DataclassInstance]) -> dict[str, object]:
        found: dict[str, object] = {}
        for entry in options_in(options):
            if not self._group.allows(entry.name):
                continue
            if entry.group is not None:
                inner = self._values(entry.group)
                if inner:
                    found[entry.name] = entry.group(**inner)
                continue
            value = self._text(entry)
            if value is not None and (self._is_typed(entry) or self._counts(entry, options)):
                found[entry.name] = value
        return found

    def _text(self, entry: Option[Any]) -> object:
        """Return the text that is given for an option, directly or by its shorthand; None if there is none."""
        value = self.given(entry.name)
        short = entry.shorthand
        number = None if short is None or not self._group.allows(short.name) else self.given(short.name)
        if short is None or number is None or number is False:
            return value
        said = short.text(number)
        if value is None:
            return said
        if short.adds:
            return f"{value},{said}"
        if self.typed(entry.name) == self.typed(short.name):
            raise UsageError(
                f"{short.word} is short for {entry.word}",
                value=f"{entry.word} {value} and {short.word} {number}",
                advice=f"Give {short.word} or {entry.word}, not both, here or in {entry.variable} and "
                f"MAGNET_{short.name.upper()}",
            )
        return value if self.typed(entry.name) else said

    def _is_typed(self, entry: Option[Any]) -> bool:
        """Return whether an option or its shorthand is typed on the command line."""
        short = entry.shorthand
        return self.typed(entry.name) or (
            short is not None and self._group.allows(short.name) and self.typed(short.name)
        )

    def _counts(self, entry: Option[Any], options: type[DataclassInstance]) -> bool:
        """Return whether the environment variable of an option applies, given the other options."""
        if entry.needs is not None and not self._holds(*entry.needs, options):
            return False
        if entry.unless is not None:
            name, words = entry.unless
            if self.typed(name) and self.given(name) in words:
                return False
        rivals = (other.name for other in self.entries() if entry.rival is not None and other.rival == entry.rival)
        return not any(self.typed(name) for name in rivals if name != entry.partner)

    def _holds(self, name: str, word: str, options: type[DataclassInstance]) -> bool:
        entry = next(entry for entry in options_in(options) if entry.name == name)
        text = self._text(entry)
        if not word:
            return text is not None and (self.typed(name) or self._counts(entry, options))
        return word in str(entry.default if text is None else text).lower().replace(" ", "").split(",")

    def given(self, name: str) -> Any:
        """Return the value that the command line or the environment gives for an option; None if neither does."""
        # Only the source of a value distinguishes a default from the same value on the command line.
        source = self._context.get_parameter_source(name)
        return None if source is None or source.name == "DEFAULT" else self._context.params[name]


def takes(**groups: Group[Any]) -> Callable[[Callable[..., R]], Callable[..., R]]:
    """Give a command the options of groups. Each group is one parameter of the command's function.

    The function gets a `Given` in the parameter that has the group's name. In its place typer gets all options of the
    group. An option that several groups share becomes one option of the command.
    """

    def decorate(function: Callable[..., R]) -> Callable[..., R]:
        own = inspect.signature(function, eval_str=True)
        entries: dict[str, Option[Any] | Shorthand] = {}
        for group in groups.values():
            for entry in group.entries():
                entries.setdefault(entry.name, entry)
                if entry.shorthand is not None and group.allows(entry.shorthand.name):
                    entries.setdefault(entry.shorthand.name, entry.shorthand)
        ordered = sorted(entries.values(), key=lambda entry: (entry.rank is None, entry.rank))
        made = [_parameter(entry) for entry in ordered]
        context = inspect.Parameter(CONTEXT, inspect.Parameter.KEYWORD_ONLY, annotation=typer.Context)
        front = [each for each in own.parameters.values() if each.kind is not inspect.Parameter.KEYWORD_ONLY]
        rest = [
            each
            for name, each in own.parameters.items()
            if each.kind is inspect.Parameter.KEYWORD_ONLY and name not in groups
        ]

        @functools.wraps(function)
        def run(**given: Any) -> R:
            context = given[CONTEXT]
            mine = {name: given[name] for name in own.parameters if name not in groups}
            return function(**mine, **{name: Given(group, context) for name, group in groups.items()})

        signature = own.replace(parameters=[*front, *made, *rest, *([] if CONTEXT in own.parameters else [context])])
        # Typer makes options from the signature and the annotations of a function, so both are made of the groups.
        vars(run)["__signature__"] = signature
        run.__annotations__ = {name: each.annotation for name, each in signature.parameters.items()}
        return run

    return decorate


def _parameter(entry: Option[Any] | Shorthand) -> inspect.Parameter:
    """Return the parameter of a function's signature from which typer creates an option."""
    form = entry.form
    default: Any
    if isinstance(entry, Shorthand):
        words: tuple[str, ...] = (entry.word,)
        variable: str | None = f"MAGNET_{entry.name.upper()}"
        default = False if form.annotation is bool else None
    else:
        words = entry.words if entry.off is None else (f"{entry.word}/{entry.off}",)
        variable = entry.variable
        default = entry.default if entry.shown is None else entry.shown or None
    described = typer.Option(
        *words,
        help=entry.about,
        envvar=variable or None,
        min=entry.least if isinstance(entry, Shorthand) else None,
        metavar=form.metavar,
        rich_help_panel=entry.panel if entry.rank is None else FIRST,
    )
    annotation = form.annotation if default is not None else form.annotation | None
    return inspect.Parameter(
        entry.name,
        inspect.Parameter.KEYWORD_ONLY,
        default=default,
        annotation=Annotated[annotation, described],
    )


def is_typed(context: typer.Context, name: str) -> bool:
    """Return whether a parameter is typed on the command line. Environment variables and defaults do not count."""
    source = context.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"


class PanelCommand(TyperCommand):
    """A command whose help groups its options in panels, and names their environment variables in one sentence."""

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        """Return what may follow the name of the command. Arguments are written as they are declared, without braces.

        Typer would write `{INPUT...}...`.
        """
        entry: Any
        found = ["[OPTIONS]"]
        for entry in self.get_params(ctx):
            if entry.param_type_name == "argument":
                name = entry.metavar or entry.name.upper()
                found.append(name if entry.required or name.startswith("[") else f"[{name}]")
        return found

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write the arguments, the panels and the sentence about environment variables."""
        panels: dict[str, list[tuple[str, str]]] = {}
        arguments: list[tuple[str, str]] = []
        entry: Any
        for entry in self.get_params(ctx):
            if entry.param_type_name == "option":
                entry.show_envvar = False  # One sentence below names the variables of all options.
            record = entry.get_help_record(ctx)
            if record is None:
                continue
            about = record[1]
            if entry.param_type_name == "argument":
                arguments.append((entry.metavar or entry.name.upper(), about.removesuffix("  [required]")))
            else:
                record = (TYPE.sub(_metavar, record[0]), about)
                panel = MORE if entry.name == "help" else getattr(entry, "rich_help_panel", None) or OWN
                panels.setdefault(panel, []).append(record)
        others = [name for name in panels if name not in (FIRST, *OTHERS, MORE)]
        for name in ("Arguments", FIRST, *others, *OTHERS, MORE):
            records = arguments if name == "Arguments" else panels.get(name)
            if records:
                with formatter.section(name):
                    formatter.write_dl(records)
        rule = _variables(self.params)
        if rule is not None:
            formatter.write_paragraph()
            formatter.write_text(rule)


def _metavar(match: re.Match[str]) -> str:
    """Return the word that stands for a value in the help, in place of the name of its Python type."""
    return METAVARS.get(match[1], match[0])


def _variables(parameters: list[Any]) -> str | None:
    """Return the sentence that says how environment variables are named, with all exceptions; None without any."""
    named: Mapping[str, Any] = {
        max(entry.opts, key=len): entry.envvar
        for entry in parameters
        if entry.param_type_name == "option" and not entry.hidden
    }
    regular = {word: f"MAGNET_{word.lstrip('-').replace('-', '_').upper()}" for word in named}
    follows = [word for word in named if named[word] == regular[word]]
    if not follows:
        return None
    example = max(follows, key=lambda word: word.count("-"))
    text = f"An environment variable stands for each option, {regular[example]} for {example}"
    other = [f"{named[word]} for {word}" for word in named if named[word] not in (None, regular[word])]
    text = ", ".join([text, *other])
    without = [word for word in named if named[word] is None]
    return f"{text}; but none for {', '.join(without)}." if without else f"{text}."
