"""Hooks of MkDocs: the reference is made from the program, and links that leave docs/ become names of files.

MkDocs loads this file by its path in `mkdocs.yml`.
"""

from __future__ import annotations

import ast
import inspect
import json
import posixpath
import re
from collections.abc import Mapping
from dataclasses import MISSING, fields, is_dataclass
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from types import NoneType, UnionType
from typing import (
    TYPE_CHECKING,
    Annotated,
    Any,
    Literal,
    NamedTuple,
    NotRequired,
    Union,
    get_args,
    get_origin,
    get_type_hints,
)

import typer

from magnet_cli import errors
from magnet_cli.cli import outcome, signals
from magnet_cli.cli.app import app
from magnet_cli.models.description import CascadeFile, SegmentationFile
from magnet_cli.models.network_spec import Temperature
from magnet_cli.models.schema import FieldRule
from magnet_cli.report.report_schema import MEANINGS, RunReport, SegmentReport

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.files import Files
    from mkdocs.structure.pages import Page

LINK = re.compile(r"\[([^\]]*)\]\(((?:\.\./)+[^)#\s]+)(?:#[^)\s]*)?\)")
"""A link that begins by leaving its folder."""
OTHERS = "More"
"""Section of pages that the navigation does not name."""
INLINE = ("SizeKeys", "Size")
"""Classes of a width and a height, which are named in the row of their key instead of rows of their own."""
PLAIN = {str: "text", int: "whole number", float: "number", Fraction: "number", bool: "true or false", Path: "text"}
MARKS = {
    "commands": lambda: "\n".join(commands_text()),
    "exit codes": lambda: "\n".join(exit_code_text()),
    "bundle": lambda: "\n".join(keys_text(SegmentationFile)),
    "cascade": lambda: "\n".join(keys_text(CascadeFile)),
    "report": lambda: "\n".join(keys_text(SegmentReport)),
    "run": lambda: "\n".join(keys_text(RunReport)),
}
"""What stands in place of the comment `<!-- NAME -->` of a page."""


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add pages that the navigation does not name to its last section, so that none is out of reach."""
    named = set(_named(config.nav))
    rest = sorted(file.src_uri for file in files.documentation_pages() if file.src_uri not in named)
    if rest and config.nav is not None:
        config.nav.append({OTHERS: rest})
    return files


def _named(nav: Any) -> Iterator[str]:
    if isinstance(nav, str):
        yield nav
    for entry in nav.values() if isinstance(nav, dict) else nav if isinstance(nav, list) else ():
        yield from _named(entry)


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Fill in what is made from the program, and turn links to files outside of docs/ into their names.

    Raises:
        FileNotFoundError: A link leads to a file that the repository does not have.
    """
    del files
    for name, make in MARKS.items():
        comment = f"<!-- {name} -->"
        if comment in markdown:
            markdown = markdown.replace(comment, make())
    folder, root = posixpath.dirname(page.file.src_uri), Path(config.docs_dir).parent

    def outside(match: re.Match[str]) -> str:
        target = posixpath.normpath(posixpath.join("docs", folder, match[2]))
        if target.startswith("docs/"):
            return match[0]
        # The source distribution has no benchmarks.
        if not (root / target).exists() and not target.startswith("benchmarks/"):
            raise FileNotFoundError(f"{page.file.src_uri} links to {target}, which does not exist")
        text = match[1].strip("`")
        if text == target:
            return match[1]
        # The end of the path says no more than the path.
        return f"`{target}`" if target.endswith(f"/{text}") else f"{match[1]} (`{target}`)"

    return LINK.sub(outside, markdown)


def commands_text() -> Iterator[str]:
    """Yield a section for each command: its description, its arguments and its options."""
    group: Any = typer.main.get_command(app)
    for name in sorted(group.commands):
        entry = group.commands[name]
        inner = getattr(entry, "commands", None)
        if inner is None:
            yield from _command(f"magnet {name}", entry)
        else:
            for word in sorted(inner):
                yield from _command(f"magnet {name} {word}", inner[word])


def _command(words: str, entry: Any) -> Iterator[str]:
    about = str(entry.help or "").partition("\f")[0].strip()
    first, _, rest = about.partition("\n")
    yield from (f"### {words}", "", first, "")
    if rest.strip():
        yield from ("```text", rest.replace("\b\n", "").strip("\n"), "```", "")
    yield from ("| option | meaning | variable |", "|---|---|---|")
    for parameter in entry.params:
        if parameter.param_type_name == "argument":
            yield f"| `{_cell(parameter.metavar or parameter.name.upper())}` | {_cell(_about(parameter))} | |"
        elif not parameter.hidden:
            both = [*parameter.opts, *parameter.secondary_opts]
            variable = f"`{parameter.envvar}`" if parameter.envvar else ""
            yield f"| `{_cell(', '.join(both))}` | {_cell(_about(parameter))} | {variable} |"
    yield ""


def _about(parameter: Any) -> str:
    text = " ".join(str(parameter.help or "").split())
    default = parameter.default
    is_shown = default is not None and not callable(default) and not isinstance(default, bool) and default != ()
    return f"{text} Default: `{default}`." if is_shown and "Default" not in text and str(default) else text


def _cell(text: str) -> str:
    """Return a text that stands in one cell of a table and is no markup."""
    escaped = text.replace("|", "\\|").replace("\n", " ")
    # Inside of backticks an entity would be shown as it is written.
    return escaped if "`" in text else escaped.replace("<", "&lt;")


def exit_code_text() -> Iterator[str]:
    """Yield a table of the exit codes, made of the classes of failures."""
    meanings = {
        0: "everything succeeded",
        outcome.SOME_FAILED: "some of several inputs failed, and the others are done",
        signals.INTERRUPTED: "the command was interrupted; the same command continues",
    }
    for failure in (errors.MagnetError, *_below(errors.MagnetError)):
        if failure is not errors.MagnetError and failure.__base__ is errors.MagnetError:
            about = (failure.__doc__ or "").partition("\n")[0].rstrip(".")
            meanings[failure.exit_code] = about[:1].lower() + about[1:]
    yield from ("| exit code | meaning |", "|---|---|")
    for code in sorted(meanings):
        yield f"| {code} | {meanings[code]} |"
    yield ""


def _below(failure: type[errors.MagnetError]) -> Iterator[type[errors.MagnetError]]:
    for each in failure.__subclasses__():
        yield each
        yield from _below(each)


class Key(NamedTuple):
    """A key of a JSON file, with what is known of it from the field of a class."""

    name: str
    """The keys that lead to it, with periods between them; `[]` is an entry of an array, `NAME` any key."""
    value: str
    """The values that it takes."""
    about: str
    """Its meaning."""
    default: str | None
    """The value that stands for a key that is left out, as JSON. None where the key is needed."""
    is_always: bool
    """Whether every file has the key."""


def keys_text(kind: type) -> Iterator[str]:
    """Yield a table of the keys of a JSON file, made of the class of its content."""
    is_read = is_dataclass(kind)
    yield from (
        ("| key | value | meaning |", "|---|---|---|")
        if not is_read
        else (
            "| key | value | meaning | if left out |",
            "|---|---|---|---|",
        )
    )
    for key in keys(kind):
        about = f"{key.about} Not in every file." if not is_read and not key.is_always else key.about
        default = "an error" if key.default is None else f"`{key.default}`"
        yield f"| `{key.name}` | {_cell(key.value)} | {_cell(about)} |{f' {default} |' if is_read else ''}"
    yield ""


def keys(kind: type, prefix: str = "") -> Iterator[Key]:
    """Yield the keys of a dataclass or of a typed dictionary, each followed by those inside it."""
    texts, hints = _field_texts(kind), get_type_hints(kind, include_extras=True)
    defaults = {entry.name: _default(entry) for entry in fields(kind)} if is_dataclass(kind) else {}
    for name, hint in hints.items():
        if name.startswith("_"):
            continue
        default, value, inner, tail = defaults.get(name), *_value(hint)
        is_always = default is None and get_origin(hint) is not NotRequired
        yield Key(f"{prefix}{name}", value, texts.get(name, ""), default, is_always)
        if inner is not None:
            yield from keys(inner, f"{prefix}{name}{tail}.")


def _default(entry: Any) -> str | None:
    value = entry.default_factory() if entry.default_factory is not MISSING else entry.default
    if value is MISSING:
        return None
    if is_dataclass(value):
        return "1"  # a temperature, the only value of its own class that has a default
    return json.dumps(list(value) if isinstance(value, tuple) else value)


def _value(hint: Any) -> tuple[str, type | None, str]:
    """Return the words for a type, the class whose keys are inside its values, and what leads to these."""
    origin, inside = get_origin(hint), get_args(hint)
    if origin is Annotated:
        value, inner, tail = _value(inside[0])
        rules = [each.text for each in inside[1:] if isinstance(each, FieldRule)]
        own = rules[0].removeprefix("must be ").removeprefix("written ") if rules and inner is None else value
        found = own, inner, tail
    elif origin in (NotRequired, Union, UnionType):
        parts = [_value(part) for part in inside if part is not NoneType]
        inner, tail = next(((inner, tail) for _, inner, tail in parts if inner is not None), (None, ""))
        words = [*(value for value, _, _ in parts), *(["null"] if NoneType in inside else [])]
        found = " or ".join(words), inner, tail
    elif origin in (tuple, list):
        value, inner, tail = _value(inside[0])
        found = f"array: {value}", inner, f"[]{tail}"
    elif origin in (dict, Mapping):
        value, inner, tail = _value(inside[1])
        named = f"object, keys {_value(inside[0])[0]}" if get_origin(inside[0]) is Literal else "object"
        is_said = inner is not None or inside[1] in (Any, object)
        found = named if is_said else f"{named}: {value}", inner, f".NAME{tail}"
    else:
        found = _single(hint)
    return found


def _single(hint: Any) -> tuple[str, type | None, str]:
    """Return the same for a type that holds no others."""
    if get_origin(hint) is Literal:
        return ", ".join(f"`{word}`" for word in get_args(hint)), None, ""
    if hint is Temperature:
        return "number, or an object of numbers by scale", None, ""
    if getattr(hint, "__name__", "") in INLINE:
        return "object: width, height", None, ""
    if is_dataclass(hint) or hasattr(hint, "__total__"):
        return "object", hint, ""
    return PLAIN.get(hint, "any value"), None, ""


def _field_texts(kind: type) -> dict[str, str]:
    """Return the texts under the fields of a class and of the classes that it is made of, each on one line.

    Keys that cannot be names of fields have their meanings in `MEANINGS`.
    """
    found = dict(MEANINGS)
    for each in reversed([*getattr(kind, "__orig_bases__", ()), *kind.__mro__]):
        if not isinstance(each, type) or not each.__module__.startswith("magnet_cli"):
            continue
        try:
            (tree,) = ast.parse(inspect.getsource(each)).body
        except (OSError, TypeError):
            continue
        body = getattr(tree, "body", [])
        for field, text in pairwise(body):
            is_field = isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name)
            if is_field and isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant):
                found[field.target.id] = re.sub(r"\bNone\b", "null", " ".join(str(text.value.value).split()))
    return found
