"""Settings of a method with every default filled in, and the defaults that a bundle recommends."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Self, cast

from magnet_cli.options.rules import ALL, Rule, Select, parse_patches, parse_points, threshold_letter

if TYPE_CHECKING:
    from magnet_cli.geometry import Size
    from magnet_cli.options.segment import Blend, Compat, Merge, Method, Tta


@dataclass(frozen=True, kw_only=True)
class MethodSettings:
    """The options that a stage needs, with every default filled in."""

    method: Method
    merge: Merge
    points: Rule
    patches: Rule
    median: int
    margin: int
    compat: Compat = "paper"
    blend: Blend = "none"
    """Shape of the weights by which overlapping windows are joined."""
    tta: Tta = "none"
    """Mirror images over which the backbone's result is averaged."""
    select: Select = "uncertainty"

    @property
    def refines(self) -> bool:
        """Whether later stages change the result of earlier ones."""
        return self.method in ("magnet", "magnet-fast", "grnet")

    @property
    def images(self) -> int:
        """The number of mirror images of a window, itself included, that the backbone computes."""
        return 1 if self.tta == "none" else int(self.tta)

    @property
    def score_side(self) -> int:
        """Side of the median filter that the selection of points needs; 1 where every point is selected."""
        return 1 if self.points.kind == "all" else self.median

    def describe(self) -> dict[str, object]:
        """Return the settings as JSON values."""
        return {
            "method": self.method,
            "merge": self.merge,
            "points": self.points.spelled("q"),
            "patches": self.patches.spelled(threshold_letter(self.select)),
            "select": self.select,
            "median": self.median,
            "overlap": 2 * self.margin,
            "blend": self.blend,
            "tta": self.tta,
            "compat": self.compat,
        }


@dataclass(frozen=True, kw_only=True)
class BundleDefaults:
    """Values that a bundle recommends for options that are not given."""

    scales: tuple[Size, ...] = field(default=())
    merge: Merge = "mean"
    points: Rule = ALL
    patches: Rule = ALL
    median: int = 11
    margin: int = 0

    @classmethod
    def parse(cls, *, scales: tuple[Size, ...], magnet: dict[str, object]) -> Self:
        """Create the defaults from a bundle's scales and from the `magnet` object of its `bundle.json`."""
        return cls(
            scales=scales,
            merge=cast("Merge", magnet.get("merge", "mean")),
            points=parse_points(str(magnet.get("points", "all"))),
            patches=parse_patches(str(magnet.get("patches", "all"))),
            median=int(str(magnet.get("median", 11))),
            margin=int(str(magnet.get("margin", 0))),
        )
