"""Inputs that are URLs and not paths."""

from __future__ import annotations

from pathlib import PurePath
from urllib.parse import unquote, urlsplit

from magnet_cli.errors import SourceError
from magnet_cli.system.addresses import SCHEME

SCHEMES = ("http", "https", "s3")


def is_url(text: str) -> bool:
    """Return whether an input is a URL that is read over the network.

    Raises:
        SourceError: The URL is of a kind that is not read.
    """
    found = SCHEME.match(text)
    if found is None:
        return False
    if found[1].lower() not in SCHEMES:
        raise SourceError(
            f"addresses begin with {', '.join(f'{scheme}://' for scheme in SCHEMES)}",
            value=f"{found[1]}://",
            file=text,
            advice="Download the image, and name the file",
        )
    return True


def url_name(url: str) -> str:
    """Return the last part of a URL without query and escapes: `a slide.svs` for `http://host/a%20slide.svs?x=y`."""
    # A question mark is a common character of an S3 key.
    path = url.partition("://")[2] if url.lower().startswith("s3:") else urlsplit(url).path or urlsplit(url).netloc
    last = unquote(path).rstrip("/").rpartition("/")[2]
    # A slash or a NUL that an escape hides is no part of a file's name.
    return last.replace("\\", "_").replace("\0", "_") or "image"


def last_part(source: str) -> str:
    """Return the file name of a path, or the last part of a URL with its escapes and without its query."""
    return _divided(source)[1] if is_url(source) else PurePath(source).name


def sibling_url(url: str, name: str) -> str:
    """Return the URL of another file of the same folder, with the query of the first, which may hold a token.

    Args:
        url: URL of a file.
        name: Name of the other file, with its escapes.
    """
    before, _, query = _divided(url)
    return f"{before}{name}{query}"


def _divided(url: str) -> tuple[str, str, str]:
    """Divide a URL into what stands before its last part, the last part, and the query."""
    path, query = url, ""
    if not url.lower().startswith("s3:"):
        path, mark, rest = url.partition("#")[0].partition("?")
        query = f"{mark}{rest}"
    before, slash, last = path.rpartition("/")
    return f"{before}{slash}", last, query


def file_name(source: str) -> str:
    """Return the last part of a path or a URL."""
    return url_name(source) if is_url(source) else PurePath(source).name
