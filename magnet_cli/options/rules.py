"""Rules for how many points and windows a stage computes: `--points`, `--patches` and `--budget`."""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction
from numbers import Rational
from typing import TYPE_CHECKING, Literal

from magnet_cli.errors import UsageError
from magnet_cli.options.forms import (
    DECIMAL_PATTERN,
    exact,
    spell_decimal,
)
from magnet_cli.options.option import Form

if TYPE_CHECKING:
    from collections.abc import Callable

RuleKind = Literal["all", "count", "share", "threshold", "budget", "selector"]
Select = Literal["uncertainty", "change", "both", "ppn"]
_THRESHOLD = re.compile(rf"([quw])>({DECIMAL_PATTERN})")
_SHARE = re.compile(rf"({DECIMAL_PATTERN})(%?)")
_COUNT = re.compile(r"\d{1,18}")


@dataclass(frozen=True, kw_only=True)
class Rule:
    """A rule on the number of points or windows of a stage that are selected."""

    kind: RuleKind
    values: tuple[Fraction, ...] = ()
    """One value for each refining stage; the last one also holds for the stages after it. Empty for `all` and
    `selector`."""

    def __str__(self) -> str:
        return self.spelled("")

    def spelled(self, letter: str) -> str:
        """Return the rule as short text; `letter` is the quantity that a threshold compares, `q`, `u` or `w`."""
        if self.kind in ("all", "selector"):
            return self.kind
        if self.kind == "count":
            return ",".join(str(value) for value in self.values)
        value = self.values[0]
        if self.kind == "threshold":
            return f"{letter}>{float(value):g}"
        return f"{float(value * 100):g}%" + (" of the image" if self.kind == "budget" else "")

    def value(self, step: int) -> Fraction:
        """Return the value for a refining stage; step 0 is the first refining stage of the run."""
        return self.values[min(step, len(self.values) - 1)]


ALL = Rule(kind="all")
NO_OVERLAP = Rule(kind="count", values=(Fraction(0),))
SELECTOR = Rule(kind="selector")
"""A network selects the windows. The rule does not apply to points."""


def parse_points(text: str) -> Rule:
    """Parse the rule for points: `all`, `32768`, `75%`, `0.75` or `q>0.2`.

    Raises:
        UsageError: The text is none of these.
    """
    return _parse_rule(text, option="--points", letters="q", several=False)


def parse_patches(text: str) -> Rule:
    """Parse the rule for windows: `all`, `3`, `4,4,8`, `25%`, `u>0.1`, `w>0.1` or `selector`.

    The limits `u>` and `w>` mean the same: both compare the score that `--select` names.

    Raises:
        UsageError: The text is none of these.
    """
    return _parse_rule(text, option="--patches", letters="uw", several=True)


def threshold_letter(select: Select | None) -> str:
    """Return the letter of the score that a limit on windows compares: `u` for uncertainty, `w` for any other."""
    return "u" if select in (None, "uncertainty") else "w"


def spell_rule(rule: Rule, letter: str) -> str:
    """Write a rule as the command line takes it, with all digits of its numbers.

    Args:
        rule: The rule that is written.
        letter: The quantity that a threshold compares, `q`, `u` or `w`.
    """
    if rule.kind in ("all", "count", "selector"):
        return rule.spelled(letter)
    if rule.kind == "threshold":
        return f"{letter}>{spell_decimal(rule.values[0])}"
    return "100%" if rule.values[0] == 1 else spell_decimal(rule.values[0])


def parse_budget(text: str) -> Fraction:
    """Parse a share of an image's windows, written as `20%`, `0.2` or `1`.

    Raises:
        UsageError: The text is no share above 0 and at most 1.
    """
    word = text.strip().replace(" ", "")
    # `1` is the whole of the windows here, where the rules of `--points` and `--patches` would read it as a count.
    share = Fraction(1) if word == "1" else _share(word)
    if share is None:
        raise _no_budget(repr(text))
    return share


def parse_overlap(text: str) -> Rule:
    """Parse how far windows overlap: `32` network pixels, or a share of the window as `12.5%` or `0.125`.

    Raises:
        UsageError: The text is neither.
    """
    word = text.strip().replace(" ", "")
    # `_share` refuses zero, because selecting nothing has no meaning. Windows that do not overlap have one.
    if word in ("0", "0%"):
        return NO_OVERLAP
    share = _share(word)
    if share is not None and share < 1:
        return Rule(kind="share", values=(share,))
    if _COUNT.fullmatch(word):
        return Rule(kind="count", values=(Fraction(int(word)),))
    raise UsageError(
        "--overlap is a share of the window or a number of network pixels",
        value=repr(text),
        advice="Write --overlap 12.5% or --overlap 32",
    )


def budget_share(given: Rational | float) -> Fraction:
    """Check a budget that is a number, and return it exactly: a rounded share may select a window less.

    Raises:
        UsageError: The number is no share above 0 and at most 1.
    """
    share = exact(given)
    if not 0 < share <= 1:
        raise _no_budget(repr(spell_decimal(share)))
    return share


def _no_budget(value: str) -> UsageError:
    return UsageError("--budget is a share of the image's windows", value=value, advice="Write --budget 20%")


def _parse_rule(text: str, *, option: str, letters: str, several: bool) -> Rule:
    word = text.strip().lower().replace(" ", "")
    if word == "all":
        return ALL
    if word == "selector" and several:
        return SELECTOR
    threshold = _THRESHOLD.fullmatch(word)
    if threshold and threshold[1] in letters and Fraction(threshold[2]) < 1:
        return Rule(kind="threshold", values=(Fraction(threshold[2]),))
    share = _share(word)
    if share is not None:
        return Rule(kind="share", values=(share,))
    parts = word.split(",") if several else [word]
    if all(_COUNT.fullmatch(part) and int(part) >= 1 for part in parts):
        return Rule(kind="count", values=tuple(Fraction(int(part)) for part in parts))
    example = "all, 3, 4,4,8, 25%, u>0.1, w>0.1 or selector" if several else "all, 32768, 75%, 0.75 or q>0.2"
    raise UsageError(f"{option} is one of {example}", value=repr(text), advice=f"Write {option} 25%, for example")


def _share(word: str) -> Fraction | None:
    match = _SHARE.fullmatch(word)
    if match is None:
        return None
    value = Fraction(match[1])
    if match[2]:
        return value / 100 if 0 < value <= 100 else None  # noqa: PLR2004 - percent
    return value if 0 < value < 1 else None


def _number_text(given: Rational | float) -> str:
    """Write a number as text: a whole number as a count, a number below one as a share.

    A float of one or more keeps its decimal point, so that the parser refuses 1.0, which could mean either.
    """
    return repr(given) if isinstance(given, float) and given >= 1 else spell_decimal(exact(given))


def _rule_form(parse: Callable[[str], Rule], spell: Callable[[Rule], str] = str, *, metavar: str = "RULE") -> Form:
    """Make the form of an option that takes a rule, its text, or a number that stands for one."""
    return Form(
        parse=lambda text, _: parse(text),
        spell=spell,
        types=(Rule, Rational, float),
        convert=lambda given: given if isinstance(given, Rule) else parse(_number_text(given)),
        metavar=metavar,
    )


POINTS = _rule_form(parse_points, lambda rule: spell_rule(rule, "q"))
PATCHES = _rule_form(parse_patches)
OVERLAP = _rule_form(parse_overlap, lambda rule: spell_rule(rule, ""), metavar="OVERLAP")
BUDGET = Form(
    parse=lambda text, _: parse_budget(text),
    spell=lambda share: "100%" if share == 1 else spell_decimal(share),
    types=(Rational, float),
    convert=budget_share,
    metavar="SHARE",
)
