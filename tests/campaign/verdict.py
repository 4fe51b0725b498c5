"""The outcome of one case of a campaign."""

from __future__ import annotations

import zlib
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What came of one case."""

    case: str
    """The name by which the case is repeated: part, subject and number, with slashes between them."""
    outcomes: tuple[str, ...] = ()
    """What happened, in words that are counted: `killed`, `exit 3`, `equal`."""
    faults: tuple[str, ...] = ()
    """Laws that did not hold, a sentence each; empty where the case held."""
    evidence: str = ""
    """The end of standard error, for whoever looks into a fault."""

    @property
    def group(self) -> str:
        """Part and subject, which are counted together."""
        return self.case.rpartition("/")[0]


def chance(seed: int, case: str) -> np.random.Generator:
    """Return the random numbers of a case, which depend on the seed and the name alone."""
    return np.random.default_rng([seed, zlib.crc32(case.encode())])
