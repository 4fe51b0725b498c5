"""Every failure that the program raises says what to do next."""

from __future__ import annotations

import ast
from pathlib import Path

from magnet_cli import errors

PACKAGE = Path(errors.__file__).parent
FAILURES = {
    name
    for name, found in vars(errors).items()
    if isinstance(found, type) and issubclass(found, errors.MagnetError) and found is not errors.BugError
}


def without_advice(source: str) -> list[int]:
    """Return the lines of a module that make a failure without the argument `advice`."""
    # Most modules raise none, and parsing takes long.
    if not any(f"{name}(" in source for name in FAILURES):
        return []
    return [
        call.lineno
        for call in ast.walk(ast.parse(source))
        if isinstance(call, ast.Call)
        and isinstance(call.func, ast.Name)
        and call.func.id in FAILURES
        and not {"advice", None} & {each.arg for each in call.keywords}
    ]


def test_a_failure_without_advice_is_found() -> None:
    source = 'raise UsageError("x", value=1)\nraise UsageError("x", advice="y")\nraise UsageError("x", **given)\n'
    assert without_advice(source) == [1]


def test_every_failure_has_advice() -> None:
    found = {
        str(path.relative_to(PACKAGE)): lines
        for path in sorted(PACKAGE.rglob("*.py"))
        if (lines := without_advice(path.read_text(encoding="utf-8")))
    }
    assert found == {}
