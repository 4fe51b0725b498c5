"""Texts from outside reach a terminal as one line, and XML as a document that a parser takes."""

from __future__ import annotations

import unicodedata
from xml.etree import ElementTree as ET
from xml.sax.saxutils import escape

from hypothesis import given
from hypothesis import strategies as st

from magnet_cli.system.characters import ESCAPED, JOINERS, printable, xml_text

FOUL = "\x00\x1b\r\n\x9b\u202e\u2066\u2028\udc80\ud800\ufffe"
ANY = st.text(st.characters(exclude_categories=()) | st.sampled_from(FOUL))


def test_names_are_shown_as_they_are() -> None:
    for name in ("slide 1.svs", "Präparat №7.tif", "切片.tif", "شريحة.tif", "👩‍🔬.tif", "נ\u05b0.tif"):
        assert printable(name) == name


def test_what_a_terminal_would_obey_is_written_out() -> None:
    assert printable("a\x1b[2J\n\r\x9b31m\u202etif\x00\udcff\ud800") == (r"a\x1b[2J\n\r\x9b31m\u202etif\x00\xff\ud800")


@given(ANY)
def test_a_printable_text_is_one_line_without_controls(text: str) -> None:
    shown = printable(text)
    assert len(shown.splitlines()) <= 1
    assert not [sign for sign in shown if unicodedata.category(sign) in ESCAPED and sign not in JOINERS]
    shown.encode("utf-8")
    assert printable(shown) == shown


@given(ANY)
def test_a_text_for_xml_comes_back_from_a_parser(text: str) -> None:
    found = ET.fromstring(f"<a>{escape(xml_text(text))}</a>".encode()).text or ""  # noqa: S314 - made here
    # A parser turns every line end into a line feed.
    assert found == xml_text(text).replace("\r\n", "\n").replace("\r", "\n")
