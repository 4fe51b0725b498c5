"""Pages of HTML that need no other file, made of this room's templates."""

from __future__ import annotations

from importlib.resources import files
from typing import TYPE_CHECKING, Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from magnet_cli.system.characters import printable

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping


def render_page(template: str, filters: Mapping[str, Callable[..., str]], **values: Any) -> str:
    """Return the text of a page.

    Args:
        template: The name of a file in `template`.
        filters: Functions by which the template formats values, by name.
        values: The values of the template. Their text is escaped.
    """
    environment = Environment(
        loader=PackageLoader("magnet_cli.report", "template"),
        autoescape=True,
        # A misspelt name in a template would otherwise show as nothing.
        undefined=StrictUndefined,
        # Names of files and classes may hold marks that turn the direction of the text behind them.
        finalize=_plain_text,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= dict(filters)
    return environment.get_template(template).render(**values)


def own_text(name: str) -> Markup:
    """Return the text of one of this room's own files, such as a style sheet, which needs no escaping."""
    return Markup(files("magnet_cli.report").joinpath("template", name).read_text(encoding="utf-8"))  # noqa: S704


def _plain_text(value: object) -> object:
    """Return a value of the template, a text without signs that change how the page around it is shown."""
    return printable(value) if isinstance(value, str) and not isinstance(value, Markup) else value
