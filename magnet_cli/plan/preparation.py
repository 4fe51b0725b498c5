"""A step before normalisation whose values belong to the whole image, so that every block is treated alike."""

from __future__ import annotations

from dataclasses import dataclass

Row = tuple[float, float, float]


@dataclass(frozen=True, kw_only=True)
class StainMap:
    """The map from the colours of a stained section to those on which a network was trained, found once for an image.

    It is linear in logarithms: in optical densities, which are minus the decimal logarithms of a colour's shares of the
    light, or, for `reinhard`, in the natural logarithms of the responses of the eye's cones.
    """

    kind: str
    """`stains`: the concentrations of eosin and hematoxylin and the mean density take the place of red, green and blue.
    `macenko`: colours as they would be with the stains of Macenko's reference. `reinhard`: colours whose mean and
    deviation are those of a reference."""
    light: float
    """Stored value of empty glass, which absorbs no light."""
    matrix: tuple[Row, Row, Row]
    """Rows of the linear map."""
    shift: Row = (0.0, 0.0, 0.0)
    """Values that are added after the linear map."""
    spans: tuple[tuple[float, float], ...] = ()
    """Values that become 0 and 255, for each result of `stains`. Values beyond them are clamped."""

    def describe(self) -> dict[str, object]:
        """Return the map as JSON values."""
        return {
            "kind": self.kind,
            "light": self.light,
            "matrix": [list(row) for row in self.matrix],
            "shift": list(self.shift),
            "spans": [list(span) for span in self.spans],
        }
