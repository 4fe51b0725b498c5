"""Finding tissue on a slide: most of a slide is glass.

Tissue is whatever differs from the glass that `find_glass` has found, in colour or in brightness, except for what
`magnet_cli.areas.ink` knows. To miss tissue is worse than to compute some glass: every doubt ends in "tissue".
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from magnet_cli.areas.area import percent
from magnet_cli.areas.glass import SPREADS, find_glass, smoothed
from magnet_cli.areas.ink import HALO, frame, is_dark_field, strokes, unscanned
from magnet_cli.areas.raster import Raster
from magnet_cli.geometry import Box, Pitch, Size
from magnet_cli.images import Request

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from magnet_cli.areas.glass import Glass
    from magnet_cli.images import Image

    Mask = NDArray[np.bool_]

COLOURS = ("red", "green", "blue")
OVERVIEW_SIDE = 2048
"""Largest longer side of the overview on which tissue is detected, in pixels."""
LEAST_TINT, MOST_TINT = 0.014, 0.018
"""A pixel whose channels lose different shares of the glass's light is tissue: the limit follows the glass's own
variation between these two. The palest sections lose 2 % more in one channel than in another."""
WEAK_TINT = 0.01
"""Smallest such difference that counts as tissue where the region around it has structure."""
LEAST_SHADE, MOST_SHADE = 0.022, 0.05
"""Bounds of the share of light that all channels lose in tissue. It counts only where there is structure around."""
SURE_SHADE = 0.1
"""Share of light that all channels lose in grey tissue; shadows, mountant, and glass beyond a coverslip lose less."""
STRUCTURE_REACH = 24
"""Largest distance in pixels between pieces of sure tissue in a grey region with structure. A grey veil without any
is glass, like shadows and the glass beyond the edge of a coverslip."""
STRUCTURE_LEAST = 8
"""Smallest width and height of such a region in pixels, which a line does not have."""
SPECK_SHARE = 2e-5
"""Share of the overview below which a grey piece is dust."""
LEAST_PIECE = 5
"""Fewest pixels of a coloured piece. Smaller pieces are noise."""
VIVID_TINT = 0.03
PALE_PIECE = 200
"""Fewest pixels of a coloured piece without a pixel of more than `VIVID_TINT`: JPEG gives blocks of 8 x 8 or 16 x 16
pixels of glass a slightly wrong colour."""
SEALED = 4
"""Pixels by which the walls of fat cells and vessels are joined before their content is filled in."""
HOLE_SHARE = 3e-3
"""Holes smaller than this share of the overview are tissue, like fat and vessels."""
RIM = 3
"""Width of the rim around tissue that counts as tissue too, in pixels of the overview."""
LEAST_BESIDE = 0.25
"""Ratio of tissue area to ink area below which the ink may be the tissue itself, and is not left out."""
PIXEL_BYTES = 32
"""Bytes of memory for each pixel of the overview while tissue is found. At 2048 x 2048 pixels 104 MiB were measured,
and 120 MiB with pen strokes."""
GLASS_BYTES = 12 << 20
"""Bytes of the samples from which glass is found."""
ROWS = 256
"""Number of rows of the overview whose colours are held as floats at a time."""


class FoundTissue(NamedTuple):
    """The tissue found on an overview, and an explanation of what was left out."""

    inside: Mask
    """Mask `(height, width)` of the overview, True where tissue is."""
    explained: str
    """A text for the user: which parts of the overview were left out and why, or why no part was."""


class Tissue(Raster):
    """The tissue of a slide.

    Args:
        found: Tissue found on the overview.
        size: Size of the overview in pixels.
        image: Size of the whole image in level-0 pixels.
    """

    def __init__(self, found: FoundTissue, *, size: Size, image: Size) -> None:
        super().__init__(lambda box: found.inside[box.slices], size=size, image=image)
        self.explained = found.explained


def find_tissue(image: Image) -> Tissue:
    """Find tissue on an overview of the image.

    Raises:
        SourceError: The overview cannot be decoded.
    """
    size = image.info.size
    pitch = overview_pitch(size)
    request = Request(pitch=pitch, box=Box.whole(pitch.cover(size)))
    region = image.read([request])[0]
    colours = [image.info.bands.index(name) for name in COLOURS]
    found = tissue_of(region.pixels[:, :, colours], region.valid)
    # The last pixel of the overview may reach beyond the image: its columns and rows are those that the image has.
    return Tissue(found, size=pitch.cover(size), image=_covered(size, pitch))


def overview_pitch(size: Size) -> Pitch:
    """Return the finest power of two at which an image is an overview."""
    step = 1
    while max(size.width, size.height) > OVERVIEW_SIDE * step:
        step *= 2
    return Pitch.square(step)


def tissue_bytes(size: Size) -> int:
    """Return the largest memory that finding tissue on an image takes, in bytes.

    Args:
        size: The size of level 0.
    """
    return PIXEL_BYTES * overview_pitch(size).cover(size).pixels + GLASS_BYTES


def _covered(size: Size, pitch: Pitch) -> Size:
    cover = pitch.cover(size)
    return Size(width=int(cover.width * pitch.x), height=int(cover.height * pitch.y))


def tissue_of(pixels: NDArray[np.uint8], valid: Mask | None) -> FoundTissue:
    """Find tissue on an overview; the result includes holes in the tissue and a rim around it.

    Args:
        pixels: `(height, width, 3)`, red, green and blue.
        valid: `(height, width)`, or None where every pixel holds data.
    """
    shape = pixels.shape[:2]
    scanned = np.ones(shape, bool) if valid is None else valid.copy()
    # Readers leave any colour where there is no data. Black joins with a black frame beside it.
    pixels = pixels * scanned[..., None] if valid is not None else pixels
    white, black = unscanned(pixels) & scanned, frame(pixels) & scanned
    scanned &= ~white & ~black
    left_out = [(white, "white where nothing was scanned"), (black, "a black frame")]
    if not (scanned | black).any():
        return FoundTissue(inside=np.zeros(shape, bool), explained=_explained(left_out, scanned.size))
    glass = None if is_dark_field(black) else find_glass(pixels, scanned)
    if glass is None:
        # Without glass, black is no frame: it is the dark field of fluorescence, whose faintest signal is almost black.
        why = "No glass was recognised (the background is dark, strongly coloured, or covered): tissue is not detected."
        left_out = [(white, "white where nothing was scanned")]
        return FoundTissue(inside=scanned | black, explained=f"{why} {_explained(left_out, scanned.size)}")
    ink, half_width = strokes(pixels, scanned)
    compared = _Compared.of(pixels, glass, scanned)
    tissue, dust = _beside_ink(compared, scanned, ink, half_width) if ink.any() else compared.parted()
    inside = _with_rim(_whole(tissue)) & scanned
    left_out += [(ink & ~inside, "a pen"), (dust & ~inside, "dust")]
    shown = [(scanned & ~inside & ~ink & ~dust, "glass"), *left_out]
    return FoundTissue(inside=inside, explained=_explained(shown, scanned.size))


@dataclass(frozen=True, kw_only=True)
class _Compared:
    """Comparison of each pixel of the overview with the glass; all arrays are `(height, width)`."""

    coloured: Mask
    """Pixels whose channels lose different shares of the glass's light."""
    vivid: Mask
    """Pixels whose channels differ more than noise can explain."""
    dark: Mask
    """Pixels all of whose channels lose more light than in a shadow."""
    weak: Mask
    """Coloured or dark pixels that differ so little from glass that only structure around them can confirm tissue."""

    @classmethod
    def of(cls, pixels: NDArray[np.uint8], glass: Glass, scanned: Mask) -> _Compared:
        """Compare an overview with its glass."""
        shape = scanned.shape
        coloured, vivid, dark, weak = (np.empty(shape, bool) for _ in range(4))
        tint = float(np.clip(glass.tint, LEAST_TINT, MOST_TINT))
        weak_tint = tint * WEAK_TINT / LEAST_TINT
        shade = float(np.clip(SPREADS * glass.shade, LEAST_SHADE, MOST_SHADE))
        for top in range(0, shape[0], ROWS):
            rows = slice(top, min(top + ROWS, shape[0]))
            of_glass = glass.at(rows)
            # Small cells are nothing but two pixels, which an average hides.
            sharp = pixels[rows] / of_glass
            bright = sharp.max(axis=2)
            sharp_span = bright - sharp.min(axis=2)
            ratio = smoothed(pixels, scanned, rows) / of_glass
            high = ratio.max(axis=2)
            span = high - ratio.min(axis=2)
            coloured[rows] = (span > tint) | (sharp_span > SURE_SHADE)
            vivid[rows] = (span > VIVID_TINT) | (sharp_span > SURE_SHADE)
            dark[rows] = (1 - high > SURE_SHADE) | (1 - bright > 2 * SURE_SHADE)
            weak[rows] = (1 - high > shade) | (span > weak_tint)
        return cls(coloured=coloured & scanned, vivid=vivid & scanned, dark=dark & scanned, weak=weak & scanned)

    def parted(self, *, without: Mask | None = None) -> tuple[Mask, Mask]:
        """Return tissue, and dust: small pieces that are grey, or hardly coloured."""
        from scipy.ndimage import label  # noqa: PLC0415 - takes long to import, and only slides need it

        sure = self.coloured | self.dark
        found = sure | _supported(self.weak, sure)
        if without is not None:
            found &= ~without
        labels, count = label(found, structure=np.ones((3, 3)))
        sizes = np.bincount(labels.ravel(), minlength=count + 1)
        coloured = np.bincount(labels[self.coloured & found], minlength=count + 1)
        vivid = np.bincount(labels[self.vivid & found], minlength=count + 1) > 0
        grey = coloured < sizes / 2
        least = np.where(grey, int(SPECK_SHARE * found.size) + LEAST_PIECE, np.where(vivid, LEAST_PIECE, PALE_PIECE))
        kept = sizes >= least
        kept[0] = False
        tissue: Mask = kept[labels]
        return tissue, found & ~tissue


def _beside_ink(compared: _Compared, scanned: Mask, ink: Mask, half_width: float) -> tuple[Mask, Mask]:
    """Return tissue and dust of a slide with pen strokes."""
    halo = _grown(ink, 2 * HALO + 1)
    tissue, dust = compared.parted(without=halo)
    if np.count_nonzero(tissue) < LEAST_BESIDE * np.count_nonzero(ink):
        return compared.parted()
    # Ink on tissue hides it, and a stroke over a section must not cut it: what is as near to tissue as the stroke is
    # wide belongs to it.
    return tissue | (halo & scanned & _grown(tissue, 2 * (round(half_width) + HALO + RIM) + 1)), dust


def _supported(shaded: Mask, sure: Mask) -> Mask:
    """Return the shaded pixels among and around pieces that surely are tissue."""
    reach = 2 * STRUCTURE_REACH + 1
    among = ~_grown(~_grown(sure, reach), reach)
    wide = _grown(~_grown(~among, 2 * STRUCTURE_LEAST + 1), 2 * STRUCTURE_LEAST + 1)
    return shaded & _grown(wide, reach)


def _grown(mask: Mask, side: int) -> Mask:
    from scipy.ndimage import maximum_filter  # noqa: PLC0415 - as above

    found: Mask = maximum_filter(mask, side, mode="nearest")
    return found


def _whole(tissue: Mask) -> Mask:
    """Return the tissue together with the holes that it encloses."""
    from scipy.ndimage import binary_closing  # noqa: PLC0415 - as above
    from skimage.morphology import remove_small_holes  # noqa: PLC0415 - as above

    padded = np.pad(tissue, SEALED)
    sealed = binary_closing(padded, iterations=SEALED)[SEALED:-SEALED, SEALED:-SEALED]
    found: Mask = remove_small_holes(sealed | tissue, max_size=int(HOLE_SHARE * tissue.size))
    return found


def _with_rim(tissue: Mask) -> Mask:
    from scipy.ndimage import binary_dilation  # noqa: PLC0415 - as above

    found: Mask = binary_dilation(tissue, iterations=RIM)
    return found


def _explained(parts: list[tuple[Mask, str]], pixels: int) -> str:
    shares = [(np.count_nonzero(mask) / pixels, what) for mask, what in parts]
    said = [f"{what} ({percent(share)})" for share, what in shares if share >= 0.0005]  # noqa: PLR2004 - printed as 0.1 %
    return f"Left out: {', '.join(said)}." if said else "Nothing was left out."
