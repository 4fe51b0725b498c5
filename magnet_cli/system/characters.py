"""Characters of texts that come from outside, as a terminal and an XML file can take them."""

from __future__ import annotations

import re
import unicodedata

ESCAPED = ("Cc", "Cf", "Cs", "Zl", "Zp")
"""Unicode categories that `printable` escapes: controls, invisible formatting such as the signs that turn the direction
of a line, lone surrogates, and the separators of lines and paragraphs."""
JOINERS = "\u200c\u200d"
"""Invisible signs that words of some scripts and combined emoji need. They change no other character's place."""
BYTES_ESCAPED = range(0xDC80, 0xDD00)
"""Lone surrogates by which Python writes the bytes of a file name that is not valid UTF-8 (PEP 383)."""
UNFIT_FOR_XML = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
"""A character that no XML 1.0 document may contain, not even as a reference (production 2, `Char`)."""


def printable(text: str) -> str:
    r"""Return a text as one line that a terminal shows and does not obey.

    Control characters, line ends and bidirectional signs are written as in Python, such as `\x1b`, `\n` or `\u202e`,
    and bytes of a file name that is not valid UTF-8 as `\xff`.
    """
    if text.isascii() and text.isprintable():
        return text
    return "".join(_escaped(sign) for sign in text)


def xml_text(text: str) -> str:
    r"""Return a text that XML 1.0 can hold once its markup is escaped: other characters are written as `\x1b`."""
    return UNFIT_FOR_XML.sub(lambda found: _code(found[0]), text)


def _escaped(sign: str) -> str:
    return _code(sign) if unicodedata.category(sign) in ESCAPED and sign not in JOINERS else sign


def _code(sign: str) -> str:
    number = ord(sign)
    if number in BYTES_ESCAPED:
        return f"\\x{number - 0xDC00:02x}"
    return sign.encode("unicode_escape", "backslashreplace").decode("ascii")
