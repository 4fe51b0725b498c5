"""The site of the documents is built without a network, has no broken link, and has a complete reference."""

from __future__ import annotations

import html
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer

from magnet_cli import errors
from magnet_cli.cli.app import app

ROOT = Path(__file__).parents[1]
BUILD = """
import socket, sys
def refuse(*args, **kwargs):
    raise OSError("the site is built without a network")
socket.socket.connect = socket.create_connection = socket.getaddrinfo = refuse
from mkdocs.__main__ import cli
cli(sys.argv[1:])
"""
"""A script that runs MkDocs in a process that cannot reach a host."""


def built(site: Path, config: Path = ROOT / "mkdocs.yml") -> subprocess.CompletedProcess[str]:
    """Build the site into a folder."""
    # With --quiet MkDocs counts no warnings, so that a broken link would pass.
    return subprocess.run(
        [sys.executable, "-c", BUILD, "build", "--strict", "-f", str(config), "-d", str(site)],
        check=False,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT), "NO_MKDOCS_2_WARNING": "1"},
        timeout=120,
    )


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("material")
    folder = tmp_path_factory.mktemp("site")
    done = built(folder)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def text_of(page: Path) -> str:
    """Return the text of a page without its markup."""
    return html.unescape(re.sub(r"<[^>]+>", " ", page.read_text(encoding="utf-8")))


def test_every_page_is_in_the_site_and_loads_nothing_from_another_host(site: Path) -> None:
    for page in (ROOT / "docs").rglob("*.md"):
        name = page.relative_to(ROOT / "docs").with_suffix("")
        found = site / ("index.html" if name.name == "index" else f"{name}/index.html")
        loaded = re.findall(r"<(?:script|img|link)\b[^>]*(?:src|href)=\"?(https?://[^\" >]+)", found.read_text())
        assert loaded == [], name


def test_the_reference_names_every_command_and_every_option(site: Path) -> None:
    text = text_of(site / "reference" / "commands" / "index.html")
    group: Any = typer.main.get_command(app)
    for name, entry in group.commands.items():
        inner = getattr(entry, "commands", None) or {"": entry}
        for word, command in inner.items():
            words = f"magnet {name} {word}".strip()
            assert words in text
            section = text.partition(f"{words} ¶")[2].partition("¶")[0]
            for parameter in command.params:
                if parameter.param_type_name == "option" and not parameter.hidden:
                    assert max(parameter.opts, key=len) in section, words


def test_the_reference_names_every_exit_code(site: Path) -> None:
    text = text_of(site / "reference" / "commands" / "index.html")
    codes = {each.exit_code for each in errors.MagnetError.__subclasses__()} | {0, 7, 130}
    for code in codes:
        assert re.search(rf"\s{code}\s+\w", text.partition("exit code")[2]), code


@pytest.mark.full
def test_a_broken_link_is_an_error(tmp_path: Path) -> None:
    pytest.importorskip("material")
    (tmp_path / "docs").mkdir()
    text = (ROOT / "mkdocs.yml").read_text(encoding="utf-8").partition("nav:\n  - Home")[0]
    hook = f"hooks: [{ROOT / 'docs/reference/site_hook.py'}]"
    (tmp_path / "mkdocs.yml").write_text(re.sub(r"hooks: .*", hook, text), encoding="utf-8")
    for link, said in (("none.md", "none.md"), ("#none", "none"), ("../none.toml", "does not exist")):
        (tmp_path / "docs" / "index.md").write_text(f"# Page\n\n[a link]({link})\n", encoding="utf-8")
        done = built(tmp_path / "site", tmp_path / "mkdocs.yml")
        assert done.returncode != 0, link
        assert said in done.stdout + done.stderr
    (tmp_path / "docs" / "index.md").write_text("# Page\n\n[a link](#page)\n", encoding="utf-8")
    assert built(tmp_path / "site", tmp_path / "mkdocs.yml").returncode == 0


def test_the_first_page_of_the_repository_is_short() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 200
