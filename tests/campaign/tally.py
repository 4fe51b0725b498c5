"""The counts of a campaign, in one line of a file of results."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from tests.campaign.verdict import Verdict


@dataclass(kw_only=True)
class Group:
    """The cases of one part and subject."""

    cases: int = 0
    fell: int = 0
    """Cases in which a law did not hold."""
    outcomes: Counter[str] = field(default_factory=Counter)


@dataclass(kw_only=True)
class Tally:
    """The counts of one campaign, or of several together."""

    about: dict[str, Any] = field(default_factory=dict)
    """Date, commit, seed and minutes."""
    groups: dict[str, Group] = field(default_factory=dict)
    fell: list[dict[str, Any]] = field(default_factory=list)
    """Name, broken laws and seed of each case that fell."""

    def add(self, verdict: Verdict) -> None:
        """Count one case."""
        group = self.groups.setdefault(verdict.group, Group())
        group.cases += 1
        group.outcomes.update(verdict.outcomes)
        if verdict.faults:
            group.fell += 1
            self.fell.append({"case": verdict.case, "faults": list(verdict.faults)})

    @property
    def counted(self) -> str:
        """The cases and signals so far, in one line."""
        parts: Counter[str] = Counter()
        for name, group in self.groups.items():
            parts[name.partition("/")[0]] += group.cases
            parts["signals"] += sum(count for what, count in group.outcomes.items() if what.startswith("SIG"))
        found = [f"{name} {count:,}" for name, count in parts.items()]
        return ", ".join([*found, f"fell {len(self.fell):,}"])

    def line(self) -> str:
        """Return the counts as one line of JSON."""
        groups = {name: vars(group) | {"outcomes": dict(group.outcomes)} for name, group in sorted(self.groups.items())}
        return json.dumps({**self.about, "groups": groups, "fell": self.fell}) + "\n"

    @classmethod
    def read(cls, line: str) -> Self:
        """Return the counts of a line."""
        found = json.loads(line)
        groups = {
            name: Group(cases=group["cases"], fell=group["fell"], outcomes=Counter(group["outcomes"]))
            for name, group in found.pop("groups").items()
        }
        fell = found.pop("fell")
        return cls(about=found, groups=groups, fell=fell)

    @classmethod
    def together(cls, tallies: Sequence[Tally]) -> Self:
        """Return the sums of several campaigns."""
        found = cls()
        for tally in tallies:
            for name, group in tally.groups.items():
                sums = found.groups.setdefault(name, Group())
                sums.cases += group.cases
                sums.fell += group.fell
                sums.outcomes.update(group.outcomes)
            found.fell += [
                {**case, "seed": tally.about["seed"], "commit": tally.about["commit"]} for case in tally.fell
            ]
        return found


def read_results(path: Path) -> list[Tally]:
    """Return the campaigns of a file of results, oldest first."""
    return [Tally.read(line) for line in path.read_text(encoding="utf-8").splitlines()]
