"""Addresses in messages do not contain what gives access."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from magnet_cli.errors import SourceError, redacted, redacted_report


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("https://host/a/b.tif?X-Amz-Signature=SECRET&x=1", "https://host/a/b.tif?***"),
        ("https://user:SECRET@host:8080/b.tif", "https://host:8080/b.tif"),
        ("HTTPS://SECRET@host/b.tif?sig=SECRET#SECRET: broken (got x)", "HTTPS://host/b.tif?***: broken (got x)"),
        ("read (http://h/a?token=SECRET), 'http://h/b?SECRET' and s3://key:SECRET@bucket/what?.tif",
         "read (http://h/a?***), 'http://h/b?***' and s3://bucket/what?.tif"),
        ("https://host?sig=SECRET", "https://host?***"),
        ("https://host/a@b.tif", "https://host/a@b.tif"),
        ("C:\\slides\\a.tif, what? a.svs", "C:\\slides\\a.tif, what? a.svs"),
    ],
)  # fmt: skip
def test_host_and_path_stay(text: str, shown: str) -> None:
    assert redacted(text) == shown
    assert redacted(shown) == shown
    assert redacted_report({"a": [{"b": text}, 1, None], "c": (text,)}) == {"a": [{"b": shown}, 1, None], "c": [shown]}


def test_an_error_shows_no_secret() -> None:
    error = SourceError(
        "refused", value="https://u:SECRET@h/a", file="https://h/a?SECRET", advice="Ask https://h/?SECRET."
    )
    assert str(error) == "https://h/a?***: refused (got https://h/a). Ask https://h/?***."
    assert "SECRET" not in str(error.args)


def test_an_error_says_what_to_do_apart_from_why() -> None:
    error = SourceError("there is no such file", value="https://u:SECRET@h/a", file="a.tif", advice="Check the path.")
    assert error.instruction == "Check the path"
    assert error.reason == "there is no such file (got https://h/a)"
    assert str(error) == "a.tif: there is no such file (got https://h/a). Check the path."
    assert SourceError("broken").instruction is None


ADVICE = re.compile(r"advice=\(?\s*f?\"([^\"]+)")
ALONE = re.compile(r"(Known|Shipped)\b|\w+ (them|these|such|one of them)\b")
"""Beginnings of advice that nobody understands who has not read the rule."""


def test_advice_is_understood_without_its_rule() -> None:
    """The command line prints the file and the advice first, so that `it` may stand for the file alone."""
    package = Path(__file__).parents[1] / "magnet_cli"
    found = [advice for path in package.rglob("*.py") for advice in ADVICE.findall(path.read_text(encoding="utf-8"))]
    assert len(found) > 300
    assert [advice for advice in found if ALONE.match(advice)] == []
