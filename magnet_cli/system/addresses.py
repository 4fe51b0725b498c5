"""Addresses, such as `s3://bucket/a.tif`, told apart from paths, whose slashes Python joins."""

from __future__ import annotations

import re
from pathlib import Path

from magnet_cli.errors import UsageError

SCHEME = re.compile(r"^([A-Za-z][A-Za-z0-9+.-]+)://")
"""Scheme of a URL; it has two letters at least, as a single letter is a Windows drive."""


def is_address(text: str) -> bool:
    """Return whether a text is an address of any scheme, whether or not this program reads that scheme."""
    return SCHEME.match(text) is not None


def local_path(given: str | Path, *, rule: str) -> Path:
    """Return the path of a file that has to lie on a disk.

    Args:
        given: A path, or an address, which is refused.
        rule: Sentence that says what the file is, for the message.

    Raises:
        UsageError: An address is given.
    """
    if is_address(str(given)):
        raise UsageError(rule, value="an address", file=str(given), advice="Download it, and give the path of the copy")
    return Path(given)
