"""Painted slides with known tissue: stains, inks, frames, glass and illumination as scanners deliver them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import imagecodecs
import numpy as np
from scipy.ndimage import gaussian_filter

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    Pixels = NDArray[np.float32]
    Mask = NDArray[np.bool_]

Colour = tuple[float, float, float]
GLASS: Colour = (242, 240, 243)
BLUE_INK: Colour = (20, 90, 200)
GREEN_INK: Colour = (10, 140, 70)
RED_INK: Colour = (205, 25, 40)
BLACK_INK: Colour = (12, 12, 14)


@dataclass(frozen=True, kw_only=True)
class Slide:
    """A painted slide."""

    pixels: NDArray[np.uint8]
    """`(height, width, 3)`, after JPEG."""
    tissue: Mask
    """`(height, width)`, True where tissue is."""


class Canvas:
    """A slide while it is painted.

    Args:
        seed: Seed of the shapes and of the noise.
        width: Width of the slide in pixels.
        height: Height of the slide in pixels.
        glass: Colour of the glass.
    """

    def __init__(self, seed: int, *, width: int = 1000, height: int = 700, glass: Colour = GLASS) -> None:
        self.random = np.random.default_rng(seed)
        self.rows, self.columns = np.mgrid[0:height, 0:width].astype(np.float32)
        self.pixels: Pixels = np.empty((height, width, 3), np.float32)
        self.pixels[:] = glass
        self.tissue: Mask = np.zeros((height, width), bool)

    @property
    def size(self) -> tuple[int, int]:
        """Height and width."""
        return self.tissue.shape[0], self.tissue.shape[1]

    def field(self, sigma: float) -> Pixels:
        """Return smooth noise of standard deviation 1, with features of about `sigma` pixels."""
        noise = gaussian_filter(self.random.standard_normal(self.size).astype(np.float32), sigma)
        smooth: Pixels = noise / noise.std()
        return smooth

    def outline(self, x: float, y: float, across: float, down: float) -> Mask:
        """Return a ragged ellipse; centre and half axes are shares of width and height."""
        height, width = self.size
        distance = np.hypot((self.columns / width - x) / across, (self.rows / height - y) / down)
        inside: Mask = distance + 0.08 * self.field(30) < 1
        return inside

    def section(
        self, where: Mask, stroma: Colour, nucleus: Colour, *, nuclei: float = 0.12, texture: float = 3
    ) -> None:
        """Paint tissue: stroma with texture, and nuclei that cover a share of it."""
        self.tissue |= where
        shade = texture * self.field(4)[..., None]
        self.pixels[where] = (np.array(stroma, np.float32) + shade)[where]
        dark = where & (self.field(3) > np.quantile(self.field(3), 1 - nuclei))
        self.pixels[dark] = nucleus

    def stroke(self, points: list[tuple[float, float]], *, width: float, colour: Colour) -> Mask:
        """Draw a line through points, which are shares of width and height; what is tissue stays tissue."""
        from shapely import LineString, Point, contains_xy, prepare  # noqa: PLC0415 - imports what few tests need

        height, wide = self.size
        scaled = [(x * wide, y * height) for x, y in points]
        area = (LineString(scaled) if len(scaled) > 1 else Point(scaled[0])).buffer(width / 2)
        prepare(area)
        drawn: Mask = contains_xy(area, self.columns + 0.5, self.rows + 0.5)
        self.pixels[drawn] = colour
        return drawn

    def dust(self, count: int, *, colour: Colour = (90, 90, 90), largest: float = 3) -> None:
        """Paint specks of dirt on the glass."""
        height, width = self.size
        for _ in range(count):
            x, y = self.random.uniform(0, width), self.random.uniform(0, height)
            radius = self.random.uniform(0.7, largest)
            speck = np.hypot(self.columns - x, self.rows - y) < radius
            self.pixels[speck & ~self.tissue] = colour

    def lit(self, *, across: float = 0, down: float = 0, bowl: float = 0) -> None:
        """Make illumination uneven: brightness is lost from one side to the other, and towards the corners."""
        height, width = self.size
        x, y = self.columns / width - 0.5, self.rows / height - 0.5
        self.pixels *= (1 - across * (x + 0.5) - down * (y + 0.5) - bowl * 2 * (x**2 + y**2))[..., None]

    def done(self, *, noise: float = 2, blur: float = 0.6, quality: int = 85) -> Slide:
        """Return the slide as a scanner stores it."""
        sharp = gaussian_filter(self.pixels, (blur, blur, 0))
        noisy = sharp + self.random.normal(0, noise, sharp.shape)
        stored = imagecodecs.jpeg_encode(np.clip(np.rint(noisy), 0, 255).astype(np.uint8), level=quality)
        return Slide(pixels=imagecodecs.jpeg_decode(stored), tissue=self.tissue)


HE: tuple[Colour, Colour] = ((222, 150, 190), (95, 60, 140))


def _section(seed: int, stroma: Colour, nucleus: Colour, *, glass: Colour = GLASS, **how: float) -> Canvas:
    canvas = Canvas(seed, glass=glass)
    canvas.section(canvas.outline(0.42, 0.55, 0.33, 0.34), stroma, nucleus, **how)
    canvas.section(canvas.outline(0.87, 0.2, 0.08, 0.13), stroma, nucleus, **how)
    canvas.dust(15)
    return canvas


def _strong() -> Slide:
    return _section(1, (200, 70, 140), (60, 25, 110), texture=12).done()


def _usual() -> Slide:
    return _section(2, *HE, texture=6).done()


def _pale() -> Slide:
    return _section(3, (240, 226, 234), (200, 180, 215)).done()


def _very_pale() -> Slide:
    return _section(4, (241, 235, 238), (215, 205, 220), texture=1).done()


def _pale_with_pen(colour: Colour) -> Callable[[], Slide]:
    def paint() -> Slide:
        canvas = _section(5, (240, 226, 234), (200, 180, 215))
        canvas.stroke([(0.0, 0.07), (0.75, 0.1)], width=26, colour=colour)
        return canvas.done()

    return paint


def _pen_across() -> Slide:
    canvas = _section(6, *HE)
    canvas.stroke([(0.05, 0.9), (0.3, 0.5), (0.7, 0.45), (0.95, 0.9)], width=22, colour=BLUE_INK)
    return canvas.done()


def _ring() -> Slide:
    canvas = _section(7, *HE)
    around = [(0.5 + 0.33 * np.cos(a), 0.5 + 0.47 * np.sin(a)) for a in np.linspace(0, 2 * np.pi, 100)]
    canvas.stroke(around, width=14, colour=BLACK_INK)
    return canvas.done()


def _inks() -> Slide:
    canvas = _section(8, (240, 226, 234), (200, 180, 215))
    for row, colour in enumerate((BLUE_INK, GREEN_INK, RED_INK, BLACK_INK)):
        canvas.stroke([(0.02, 0.03 + 0.05 * row), (0.72, 0.03 + 0.05 * row)], width=28, colour=colour)
    return canvas.done()


def _brown() -> Slide:
    return _section(9, (222, 222, 228), (110, 75, 45), glass=(240, 240, 240), nuclei=0.08).done()


def _silver() -> Slide:
    return _section(10, (170, 168, 167), (40, 39, 38), glass=(240, 240, 240)).done()


def _pale_grey() -> Slide:
    return _section(11, (229, 229, 229), (190, 190, 190), glass=(240, 240, 240)).done()


def _black_silver() -> Slide:
    """Return a slide of reticulin: almost black, in a narrow piece that reaches the edge of the slide."""
    canvas = Canvas(12, glass=(240, 240, 240))
    canvas.section(canvas.outline(0.3, 0.0, 0.12, 0.8), (60, 58, 57), (20, 20, 20), nuclei=0.3, texture=10)
    return canvas.done()


def _trichrome() -> Slide:
    canvas = _section(13, (90, 140, 195), (150, 40, 70), texture=10)
    return canvas.done()


def _frame() -> Slide:
    canvas = _section(14, *HE)
    height, width = canvas.size
    x, y = canvas.columns, canvas.rows
    black = (x < 0.06 * width) | (x > 0.95 * width) | (y < 0.05 * height) | (y > 0.93 * height)
    canvas.tissue &= ~black
    canvas.pixels[black] = (14, 13, 15)
    return canvas.done()


def _padded() -> Slide:
    """Return a slide that is white where nothing was scanned. The glass around the section is a little darker."""
    canvas = _section(15, *HE, glass=(238, 236, 239))
    slide = canvas.done()
    height, width = canvas.size
    scanned = (canvas.columns > 40) & (canvas.columns < 0.96 * width) & (canvas.rows > 90)
    scanned |= (canvas.columns > 0.75 * width) & (canvas.columns < 0.99 * width) & (canvas.rows < 0.5 * height)
    pixels = np.where(scanned[..., None], slide.pixels, np.uint8(255))
    return Slide(pixels=pixels, tissue=slide.tissue & scanned)


def _fat() -> Slide:
    """Return a slide with cells of fat: pale walls around glass. Walls and content are both tissue."""
    canvas = Canvas(16)
    where = canvas.outline(0.5, 0.5, 0.36, 0.38)
    points = canvas.random.uniform(0, 1, (900, 2)) * canvas.size[::-1]
    from scipy.spatial import cKDTree  # noqa: PLC0415 - of this slide alone

    near, _ = cKDTree(points).query(np.stack([canvas.columns, canvas.rows], -1), k=2)
    walls = where & (near[..., 1] - near[..., 0] < 2.5)
    rim = where & ~(gaussian_filter(where.astype(np.float32), 3) > 0.95)
    canvas.tissue |= where
    canvas.pixels[walls | rim] = (228, 196, 214)
    return canvas.done()


def _needles() -> Slide:
    canvas = Canvas(17)
    for x, y in ((0.2, 0.3), (0.45, 0.5), (0.7, 0.7)):
        drift = 20 * np.sin(canvas.columns / 90 + x * 9) + canvas.field(6)
        where = abs(canvas.rows - y * canvas.size[0] - drift) < 7
        where &= abs(canvas.columns / canvas.size[1] - x) < 0.17
        canvas.section(where, (225, 165, 200), (100, 70, 150))
    canvas.dust(40)
    return canvas.done()


def _silver_needle() -> Slide:
    canvas = Canvas(18, glass=(240, 240, 238))
    where = abs(canvas.rows - 350 - 30 * np.sin(canvas.columns / 120)) < 9
    where &= abs(canvas.columns - 500) < 380
    canvas.section(where, (150, 150, 148), (50, 48, 46), nuclei=0.25, texture=12)
    return canvas.done()


def _empty() -> Slide:
    canvas = Canvas(19)
    canvas.dust(120, largest=3.5)
    canvas.lit(across=0.03, bowl=0.02)
    return canvas.done()


def _cells() -> Slide:
    """Return a slide of cytology: single cells and small groups, with pale plasma around a nucleus."""
    canvas = Canvas(20)
    height, width = canvas.size
    for _ in range(160):
        x, y = canvas.random.uniform(10, width - 10), canvas.random.uniform(10, height - 10)
        radius = canvas.random.uniform(3.5, 8)
        away = np.hypot(canvas.columns - x, canvas.rows - y)
        plasma = canvas.random.choice([(205, 225, 228), (232, 200, 215)])
        canvas.pixels[away < radius] = plasma
        canvas.pixels[away < radius / 3] = (80, 60, 120)
        canvas.tissue |= away < radius
    canvas.dust(30)
    return canvas.done()


def _tilted() -> Slide:
    canvas = _section(21, (240, 226, 234), (200, 180, 215))
    canvas.lit(across=0.12, down=0.05, bowl=0.05)
    return canvas.done()


def _coverslip() -> Slide:
    """Return a slide with the edge of the coverslip, and glass beyond it that is a little darker."""
    canvas = _section(22, *HE)
    beyond = canvas.columns > 0.78 * canvas.size[1] + 0.05 * canvas.rows
    canvas.pixels[beyond & ~canvas.tissue] -= 9
    line = abs(canvas.columns - 0.78 * canvas.size[1] - 0.05 * canvas.rows) < 2
    canvas.pixels[line & ~canvas.tissue] = (175, 174, 172)
    return canvas.done()


def _yellow_glass() -> Slide:
    return _section(23, (225, 160, 180), (90, 60, 140), glass=(235, 230, 205)).done()


def _dim() -> Slide:
    return _section(24, (178, 128, 155), (80, 50, 115), glass=(196, 194, 192)).done()


def _crowded() -> Slide:
    """Return a slide with more tissue than glass, which the edge cuts off."""
    canvas = Canvas(25)
    canvas.section(canvas.outline(0.5, 0.45, 0.48, 0.5), (236, 200, 220), (120, 80, 160), texture=8)
    return canvas.done()


SLIDES: dict[str, Callable[[], Slide]] = {
    "strong H&E": _strong,
    "H&E": _usual,
    "pale H&E": _pale,
    "very pale H&E": _very_pale,
    "pale H&E, blue pen": _pale_with_pen(BLUE_INK),
    "pale H&E, green pen": _pale_with_pen(GREEN_INK),
    "pale H&E, red pen": _pale_with_pen(RED_INK),
    "pale H&E, black pen": _pale_with_pen(BLACK_INK),
    "pen across tissue": _pen_across,
    "black ring across tissue": _ring,
    "four broad pens": _inks,
    "DAB": _brown,
    "silver": _silver,
    "pale grey": _pale_grey,
    "reticulin at the edge": _black_silver,
    "trichrome": _trichrome,
    "black frame": _frame,
    "white padding": _padded,
    "pale fat": _fat,
    "needle biopsies": _needles,
    "silver needle biopsy": _silver_needle,
    "empty glass with dust": _empty,
    "cytology": _cells,
    "uneven illumination": _tilted,
    "coverslip edge": _coverslip,
    "yellow glass": _yellow_glass,
    "dim lamp": _dim,
    "crowded": _crowded,
}
