"""Groups of commands: their help, the words `help` and `version`, and wrong words, which end as other failures do."""

from __future__ import annotations

import re
from contextlib import contextmanager
from difflib import get_close_matches
from itertools import takewhile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer
from typer.core import TyperGroup

from magnet_cli.cli.outcome import print_failure
from magnet_cli.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

UsageMistake: type[Exception] = typer.BadParameter.__mro__[1]
"""The base class of typer's own errors about words of the command line, which it does not export."""
CHOICES = re.compile(r"'[^']*' is not one of (?P<choices>.*)$")
"""How typer says that a word is none of those that an option takes."""


class CommandGroup(TyperGroup):
    """A group of commands. Its help has the whole first sentence of every command, and `help` stands for `--help`."""

    def make_context(self, *args: Any, **kwargs: Any) -> Any:
        """Read the words before the name of the command."""
        with _named("magnet"):
            return super().make_context(*args, **kwargs)

    def invoke(self, ctx: Any) -> Any:
        """Read the words of the command, and run it."""
        with _named(ctx.command_path, ctx):
            return super().invoke(ctx)

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Read the words of the group. Without words it prints its help, and ends as after wrong words."""
        if not args and not ctx.resilient_parsing:
            typer.echo(ctx.get_help(), err=True)
            raise typer.Exit(UsageError.exit_code)
        # No option of a group takes a value, so that the first word without a dash is that of a command.
        flags = list(takewhile(lambda word: word.startswith("-"), args))
        words = args[len(flags) :]
        if words[:1] == ["help"]:
            # `help` and `version` are words of this program and no commands, so its own help is theirs.
            words = [] if ctx.parent is None and words[1:] in (["help"], ["version"]) else words[1:]
            words = [*words, "--help"]
        elif words == ["version"] and ctx.parent is None:
            words = ["--version"]
        return super().parse_args(ctx, [*flags, *words])

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Return the command that the words name.

        Raises:
            UsageError: There is no such command.
        """
        try:
            return super().resolve_command(ctx, args)
        except UsageMistake:
            if args[0].startswith("-"):
                raise
            advice = self._advice(ctx, args[0])
            raise UsageError(f"{ctx.command_path} has no such command", value=args[0], advice=advice) from None

    def _advice(self, ctx: Any, word: str) -> str:
        path = ctx.command_path
        near = get_close_matches(word, self.commands)
        if near:
            return f"Write {_alternatives([f'{path} {name}' for name in near])}"
        rest = f"'{path} --help' lists the commands"
        # A new user forgets the command more often than its name.
        is_image = ctx.parent is None and Path(word).exists()
        return f"Write {path} segment {word}; {rest}" if is_image else f"Check the spelling; {rest}"

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Write the commands with their first sentences, which typer would cut to the width of a line."""
        entries = [(name, self.get_command(ctx, name)) for name in self.list_commands(ctx)]
        with formatter.section("Commands"):
            formatter.write_dl([(name, entry.get_short_help_str(1000)) for name, entry in entries if entry is not None])


@contextmanager
def _named(path: str, group: Any = None) -> Iterator[None]:
    """Print a mistake in the words of the command line as a failure, and end the program with exit code 2.

    Args:
        path: The words before the name of the command, such as `magnet weights`.
        group: Context of a group whose command is read. It knows the command as soon as its name is read.
    """
    try:
        yield
    except UsageError as error:
        failure = error
    except UsageMistake as error:
        command = None if group is None else group.invoked_subcommand
        failure = usage_failure(error, path if command is None else f"{path} {command}")
    else:
        return
    print_failure(failure)
    raise typer.Exit(UsageError.exit_code)


def usage_failure(error: Any, path: str) -> UsageError:
    """Turn an error of typer about the words of the command line into a failure of this program.

    Args:
        error: The error of typer.
        path: The words of the command, such as `magnet segment`.
    """
    lists = f"'{path} --help' lists the options"
    message = error.format_message().replace(": Value error, ", ": ").removesuffix(".")
    kind = type(error).__name__
    if kind == "NoSuchOption":
        near = error.possibilities
        advice = f"Write {_alternatives(sorted(near))}; {lists}" if near else f"Check the spelling; {lists}"
        return UsageError(f"the command {path} has no such option", value=error.option_name, advice=advice)
    if kind == "MissingParameter" and error.ctx is not None:
        usage = error.ctx.get_usage().removeprefix("Usage: ")
        name = error.param.metavar or error.param.name.upper()
        missing = name if error.param.param_type_name == "argument" else max(error.param.opts, key=len)
        return UsageError(f"{missing} is missing", advice=f"Write {usage}; {lists}")
    if kind == "BadOptionUsage":
        return UsageError(message, advice=f"Write a value after {error.option_name}; {lists}")
    if getattr(error, "param", None) is not None:
        return UsageError(message, advice=f"{_wanted(error.param, message)}; {lists}")
    return UsageError(message, advice=f"Leave the extra word out, or quote words that belong together; {lists}")


def _wanted(param: Any, message: str) -> str:
    """Return what to write for an option or an argument, as far as typer's message says it."""
    name = max(param.opts, key=len) if param.param_type_name == "option" else str(param.metavar or param.name.upper())
    choices = CHOICES.search(message)
    if choices is not None:
        words = [word.strip("' ") for word in choices["choices"].split(",")]
        return f"Write {name} {_alternatives(words)}"
    is_number = "integer" in message or "number" in message
    return f"Write {'a number' if is_number else 'another value'} for {name}"


def _alternatives(words: Sequence[str]) -> str:
    *front, last = words
    return f"{', '.join(front)} or {last}" if front else last
