"""Stains of a section: found once on the overview of an image, and separated or normalised in every patch.

The estimate of stains is Macenko's (A method for normalizing histology slides for quantitative analysis, 2009): the two
stains are the ends of the directions that optical densities have in the plane that most of them lie in.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import numpy as np
import torch

from magnet_cli.areas.tissue import overview_pitch
from magnet_cli.errors import SourceError, UsageError
from magnet_cli.geometry import Box
from magnet_cli.images import Request
from magnet_cli.plan.preparation import Row, StainMap

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray
    from torch import Tensor

    from magnet_cli.images import Image
    from magnet_cli.plan import ModelFacts, Plan

COLOURS = ("red", "green", "blue")
MOST_PIXELS = 1 << 20
"""Most pixels of the overview that are used. Rows and columns beyond that are skipped evenly."""
LEAST_PIXELS = 256
"""Stained pixels without which no stains are found."""
STAINED = 0.15
"""Density from which on a pixel counts as stained (Macenko's beta)."""
SHARE = 1.0
"""Percentile of directions and of concentrations that is taken for their end."""
GLASS, FAINT = 0.83, 0.12
"""Least brightness and largest saturation of glass."""
USUAL_LIGHT, LIGHTS = 240.0, (200.0, 255.0)
"""Stored value of glass where an image has too little glass to measure it, and the least and the largest value."""
APART = 0.05
"""Sine of the angle between two stains below which there is only one."""
REFERENCE = np.array([[0.5626, 0.2159], [0.7201, 0.8012], [0.4062, 0.5581]])
"""Hematoxylin and eosin of Macenko's reference, a column each."""
STRENGTH = np.array([1.9705, 1.0308]) / np.log(10)
"""Concentrations of its 99th percentile, for decimal logarithms."""
CONES = np.array([[0.3811, 0.5783, 0.0402], [0.1967, 0.7244, 0.0782], [0.0241, 0.1288, 0.8444]])
"""Responses of the eye's cones to red, green and blue (Reinhard and others, Color transfer between images, 2001)."""
OPPONENT = np.diag(1 / np.sqrt([3, 6, 2])) @ np.array([[1, 1, 1], [1, 1, -2], [1, -1, 0]])
"""Lightness and two differences of the logarithms of these responses (Ruderman's space)."""
TISSUE_MEAN, TISSUE_DEVIATION = (
    np.array([8.63234435, -0.11501964, 0.03868433]),
    np.array([0.57506023, 0.10403329, 0.01364062]),
)
"""Mean and deviation of the reference that HistomicsTK's programs take by default, in Ruderman's space."""
WHITE = 240.0
"""Stored value of the glass after normalisation."""
DIGITS = 6
"""Decimals that are kept, so that machines whose last bits differ find the same map."""


def check_preparation(plan: Plan, facts: ModelFacts) -> None:
    """Check that an image and the options of a plan allow the preparation that a network needs.

    Raises:
        UsageError: The values or the bands are not those of a coloured section, or the arithmetic is another one.
    """
    if facts.bands != COLOURS or set(plan.value_range) != {(0, 255)}:
        raise UsageError(
            f"{facts.title} needs prepared stains, which takes red, green and blue from 0 to 255",
            value=f"{', '.join(facts.bands)}; {plan.value_range[0][0]:g} to {plan.value_range[0][1]:g}",
            file=plan.image.path,
            advice="Take an image of a stained section in 8 bits, without --value-range",
        )
    if plan.settings.compat != "paper":
        raise UsageError(f"{facts.title} needs prepared stains, which --compat published does not do",
            file=plan.image.path, advice="Leave --compat out")  # fmt: skip


def find_stains(image: Image, bands: Sequence[int], kind: str) -> StainMap:
    """Find the map for an image on its overview.

    Args:
        image: The image.
        bands: Positions of red, green and blue.
        kind: `stains` or `macenko`.

    Raises:
        SourceError: The overview cannot be decoded, or shows no two stains.
    """
    size = image.info.size
    pitch = overview_pitch(size)
    region = image.read([Request(pitch=pitch, box=Box.whole(pitch.cover(size)), bands=tuple(bands))])[0]
    step = max(1, int(np.ceil(np.sqrt(region.pixels.shape[0] * region.pixels.shape[1] / MOST_PIXELS))))
    pixels = region.pixels[::step, ::step].reshape(-1, 3)
    if region.valid is not None:
        pixels = pixels[region.valid[::step, ::step].reshape(-1)]
    try:
        return stain_map(pixels, kind)
    except ValueError as exc:
        raise SourceError(
            f"the stains of the section cannot be separated: {exc}",
            file=image.info.path,
            advice="Take --preparation none where the image is no section with two stains",
        ) from exc


def stain_map(pixels: NDArray[np.uint8], kind: str) -> StainMap:
    """Find the map for the colours of a section.

    Args:
        pixels: `(n, 3)`, red, green and blue of the whole section, glass included.
        kind: `stains` or `macenko`.

    Raises:
        ValueError: The colours have no two stains. The message names what is missing.
    """
    light = _light(pixels)
    density = -np.log10(np.clip(pixels.astype(np.float64), 1, light) / light)
    stained = density[np.linalg.norm(density, axis=1) > STAINED]
    if len(stained) < LEAST_PIXELS:
        message = f"{len(stained)} pixels of the overview are stained, and {LEAST_PIXELS} are needed"
        raise ValueError(message)
    if kind == "reinhard":
        return _reinhard(light * 10**-stained, light)
    hematoxylin, eosin = _stains(stained)
    # A third direction makes the matrix of stains square. It takes up what neither stain explains.
    normal = np.cross(hematoxylin, eosin)
    if np.linalg.norm(normal) < APART:
        message = "all of it has one stain"
        raise ValueError(message)
    inverse = np.linalg.inv(np.stack((hematoxylin, eosin, normal / np.linalg.norm(normal)), axis=1))
    if kind == "macenko":
        strength = np.percentile(stained @ inverse[:2].T, 100 - SHARE, axis=0)
        if strength.min() <= 0:
            message = "one of its stains occurs nowhere"
            raise ValueError(message)
        return StainMap(kind=kind, light=light, matrix=_rows(REFERENCE @ np.diag(STRENGTH / strength) @ inverse[:2]))
    matrix = np.stack((inverse[1], inverse[0], np.full(3, 1 / 3)))
    ends = np.percentile(density @ matrix.T, (SHARE, 100 - SHARE), axis=0)
    low, high = np.round(ends, DIGITS)
    if not bool((high > low).all()):
        message = "the concentration of a stain is the same everywhere"
        raise ValueError(message)
    spans = tuple((float(a), float(b)) for a, b in zip(low, high, strict=True))
    return StainMap(kind=kind, light=light, matrix=_rows(matrix), spans=spans)


def _reinhard(colours: NDArray[np.float64], light: float) -> StainMap:
    """Return the map that gives colours `(n, 3)` of tissue the reference's mean and deviation in Ruderman's space."""
    found = np.log(colours @ CONES.T) @ OPPONENT.T
    deviation = found.std(axis=0)
    if deviation.min() <= 0:
        message = "all of it has one colour"
        raise ValueError(message)
    factors, back = TISSUE_DEVIATION / deviation, np.linalg.inv(OPPONENT)
    shift = back @ (TISSUE_MEAN - factors * found.mean(axis=0))
    one, two, three = (round(float(each), DIGITS) for each in shift)
    return StainMap(
        kind="reinhard", light=light, matrix=_rows(back @ np.diag(factors) @ OPPONENT), shift=(one, two, three)
    )


def apply_stains(values: Tensor, found: StainMap) -> None:
    """Replace stored colours `(..., 3)` float32 in place by what a map makes of them, 0 to 255."""
    light = found.light
    if found.kind == "reinhard":
        responses = _mapped(values.clamp_(1, 255), CONES.tolist())
        logs = torch.stack([each.log_() for each in responses], dim=-1)
        cones = torch.stack(
            [each.add_(shift).exp_() for each, shift in zip(_mapped(logs, found.matrix), found.shift, strict=True)],
            dim=-1,
        )
        for band, colour in enumerate(_mapped(cones, np.linalg.inv(CONES).tolist())):
            values[..., band] = colour.clamp_(0, 255)
        return
    # The logarithm of 0 is infinite, so the darkest value is 1.
    values.clamp_(1, light).div_(light).log10_().neg_()
    for band, result in enumerate(_mapped(values, found.matrix)):
        if found.spans:
            low, high = found.spans[band]
            values[..., band] = ((result - low) / (high - low)).clamp_(0, 1).mul_(255)
        else:
            values[..., band] = torch.pow(10.0, -result).mul_(WHITE).clamp_(0, 255)


def _mapped(values: Tensor, matrix: Sequence[Sequence[float]]) -> list[Tensor]:
    """Return each row of a matrix times the three values of every pixel.

    Products are summed for each pixel alone: a matrix product may add in another order for another number of pixels.
    """
    return [values[..., 0] * row[0] + values[..., 1] * row[1] + values[..., 2] * row[2] for row in matrix]


def _light(pixels: NDArray[np.uint8]) -> float:
    """Return the mean value of the glass: bright and hardly coloured. Pure white was often never scanned."""
    most, least = pixels.max(axis=1).astype(np.float32), pixels.min(axis=1).astype(np.float32)
    glass = (most > GLASS * 255) & (most - least < FAINT * most)
    seen = pixels[glass & (least < 255)]  # noqa: PLR2004 - pure white
    seen = seen if len(seen) >= LEAST_PIXELS else pixels[glass]
    if len(seen) < LEAST_PIXELS:
        return USUAL_LIGHT
    return round(float(np.clip(seen.mean(dtype=np.float64), *LIGHTS)), DIGITS)


def _stains(density: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return unit vectors of hematoxylin and eosin: the ends of the directions in the plane of most densities."""
    # `eigh` sorts eigenvalues in rising order, so the last two vectors span the plane of most densities (Macenko and
    # others, ISBI 2009).
    _, vectors = np.linalg.eigh(density.T @ density)
    first, second = vectors[:, 2], vectors[:, 1]
    # The sign of an eigenvector is arbitrary, and densities are positive.
    first = first if first.sum() > 0 else -first
    along, across = density @ first, density @ second
    ends = np.percentile(np.arctan2(across, along), (SHARE, 100 - SHARE))
    one, other = (np.cos(angle) * first + np.sin(angle) * second for angle in ends)
    # Hematoxylin is blue: it takes more of the red light than eosin does.
    return (one, other) if one[0] > other[0] else (other, one)


def _rows(matrix: NDArray[np.float64]) -> tuple[Row, Row, Row]:
    one, two, three = (tuple(round(float(each), DIGITS) for each in row) for row in matrix)
    return cast("tuple[Row, Row, Row]", (one, two, three))
