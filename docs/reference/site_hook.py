"""Hooks of MkDocs: the reference is made from the program, and links that leave docs/ become names of files.

MkDocs loads this file by its path in `mkdocs.yml`.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from magnet_cli import errors
from magnet_cli.cli import outcome, signals
from magnet_cli.cli.app import app

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.files import Files
    from mkdocs.structure.pages import Page

LINK = re.compile(r"\[([^\]]*)\]\(((?:\.\./)+[^)#\s]+)(?:#[^)\s]*)?\)")
"""A link that begins by leaving its folder."""
OTHERS = "More"
"""Section of pages that the navigation does not name."""
MARKS = {"commands": lambda: "\n".join(commands_text()), "exit codes": lambda: "\n".join(exit_code_text())}
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
        return match[1] if match[1].strip("`") == target else f"{match[1]} (`{target}`)"

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
