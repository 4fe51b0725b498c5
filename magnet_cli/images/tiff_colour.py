"""The meaning of the samples of a TIFF page, and the conversion of decoded tiles into bands."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from magnet_cli.images.store import Pixels
from magnet_cli.images.validity import both, of_bands, without_nodata

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from tifffile import TiffPage

    from magnet_cli.images.protocol import Alpha

MINISWHITE, MINISBLACK, RGB, PALETTE, YCBCR = 0, 1, 2, 3, 6
JPEG_LIKE = (7, 34892, 33007, 50001, 50002, 52546)
"""Compressions whose decoder hands back RGB for YCbCr: JPEG in its variants, WebP, JPEG XL."""
OLD_JPEG = 6
"""Compression code of old JPEG, whose streams lack headers that only libtiff puts together."""
APERIO_YCBCR = 33003
JPEG_2000 = (33003, 33004, 33005, 34712)
"""Compression codes of JPEG 2000; its decoder returns what is stored, YCbCr too."""
ASSOCIATED_ALPHA, UNASSOCIATED_ALPHA = 1, 2
TOGETHER = 1
"""Planar configuration in which the samples of a pixel are stored side by side."""
COEFFICIENTS, CHROMA_SUBSAMPLING, REFERENCES = 529, 530, 532
"""Tags of YCbCr: the weights of red, green and blue, the subsampling, and the values of black and white."""
RATIONAL = (5, 10)
"""Data types of tags that hold two whole numbers for each value."""
MOST_NAMED = 8
"""Largest count of a tag's numbers in a message."""
JFIF, FULL_RANGE = (0.299, 0.587, 0.114), (0, 255, 128, 255, 128, 255)
COLOURS = ("red", "green", "blue")


@dataclass(frozen=True, kw_only=True)
class Colour:
    """The rule that turns decoded samples into bands."""

    bands: tuple[str, ...]
    dtype: np.dtype[Any]
    """NumPy dtype of the bands."""
    alpha: int | None = None
    """Index of the alpha sample; None where there is none."""
    palette: NDArray[np.uint8] | None = None
    """`(entries, 3)`."""
    inverted: int | None = None
    """Largest value, where 0 means white."""
    luma: bool = False
    """Whether decoded samples are still YCbCr."""
    stored_samples: int = 1
    notes: tuple[str, ...] = ()

    def only(self, bands: tuple[int, ...]) -> tuple[Colour, list[int]] | None:
        """Return some of the bands, by their positions, and the positions of the samples that these take.

        It is None where every band is made of all samples. The colour that is returned is one of those samples alone.
        """
        if self.palette is not None or self.luma or (self.inverted is not None and self.stored_samples > 1):
            return None
        samples = [band + (self.alpha is not None and band >= self.alpha) for band in bands]
        found = replace(self, bands=tuple(self.bands[band] for band in bands))
        if self.alpha is None:
            return found, samples
        return replace(found, alpha=len(samples)), [*samples, self.alpha]

    def bands_of(self, stored: Pixels, nodata: float | None) -> Pixels:
        """Convert decoded samples to bands and their validity.

        Args:
            stored: Samples `(height, width, stored samples)`, with the validity that the codec reports.
            nodata: The stored value of missing pixels.
        """
        samples, valid = stored
        if self.alpha is not None:
            opaque = samples[:, :, self.alpha] > 0
            samples = np.delete(samples, self.alpha, axis=2)
            if valid is not None and valid.ndim > 2:  # noqa: PLR2004 (height and width)
                valid = np.delete(valid, self.alpha, axis=2)
            valid = both(valid, None if opaque.all() else opaque)
        valid = both(valid, without_nodata(samples, nodata))
        if valid is not None and (self.palette is not None or self.luma):
            valid = of_bands(valid, range(samples.shape[2]))
        if self.palette is not None:
            # GDAL has palettes of fewer entries than a sample has values.
            samples = self.palette.take(samples[:, :, 0].astype(np.intp), axis=0, mode="clip")
        elif samples.dtype == np.bool_:
            samples = samples.astype(np.uint8) * np.uint8(255)
        if self.inverted is not None:
            # What follows the grey of one page is no shade. Pages of their own are all grey.
            shades = samples if self.stored_samples == 1 else samples[:, :, :1]
            shades = self.dtype.type(self.inverted) - shades
            samples = np.concatenate([shades, samples[:, :, shades.shape[2] :]], axis=2)
        if self.luma:
            samples = rgb_of_ycbcr(samples)
        return Pixels(samples, valid)


def understood(page: TiffPage) -> bool:
    """Return whether `colour` covers the page; the others (CMYK, Lab, plain YCbCr, LogLuv) need a colour conversion."""
    if page.dtype is None or page.dtype.kind not in "buif" or page.compression == OLD_JPEG:
        return False
    if page.photometric == YCBCR:
        if page.compression in JPEG_LIKE:
            return True
        return bool(page.dtype == np.uint8) if page.compression in JPEG_2000 else not chroma_fault(page)
    if page.photometric == PALETTE:
        return page.samplesperpixel == 1 and page.colormap is not None and page.dtype.kind in "bu"
    return page.photometric in (MINISWHITE, MINISBLACK, RGB)


def chroma_fault(page: TiffPage) -> str:
    """Return what keeps YCbCr from being JFIF's in whole chroma, as words for a message; empty where nothing does."""
    if page.samplesperpixel != len(COLOURS):
        return f"{page.samplesperpixel} samples a pixel"
    if page.dtype != np.uint8:
        return f"{_bits(page)} bits a sample" if page.dtype is None else f"samples in {page.dtype.name}"
    if not has_whole_chroma(page):
        return "subsampled chroma"
    stated = (("coefficients", COEFFICIENTS, JFIF), ("values of black and white", REFERENCES, FULL_RANGE))
    for name, code, usual in stated:
        numbers = _numbers(page, code)
        if numbers is not None and (numbers.size != len(usual) or not np.allclose(numbers, usual, atol=1e-3)):
            return f"{name} {', '.join(f'{number:g}' for number in numbers[:MOST_NAMED]) or 'that are no numbers'}"
    return ""


def has_whole_chroma(page: TiffPage) -> bool:
    """Return whether YCbCr is stored with as much chroma as luma; by TIFF 6.0 it is subsampled unless a tag says so."""
    return tuple(page.tags.valueof(CHROMA_SUBSAMPLING, ())) == (1, 1)


def _numbers(page: TiffPage, code: int) -> NDArray[np.float64] | None:
    """Return the numbers of a tag, of which writers choose the type; None without the tag, empty without numbers."""
    tag = page.tags.get(code)
    if tag is None:
        return None
    try:
        numbers = np.asarray(tag.value, np.float64).ravel()
    except (TypeError, ValueError):
        return np.zeros(0)
    if int(tag.dtype) not in RATIONAL:
        return numbers
    # Numerators and denominators take turns.
    pairs = numbers.reshape(-1, 2)
    found: NDArray[np.float64] = pairs[:, 0] / np.where(pairs[:, 1] == 0, 1, pairs[:, 1])
    return found


def colour(page: TiffPage, channels: int = 1, *, alpha: Alpha = "mask") -> Colour:
    """Return the meaning of a page's samples.

    Args:
        page: Page for which `understood` is true.
        channels: Pages that hold one band each.
        alpha: Meaning of a band that is flagged as alpha.
    """
    stored = np.dtype(page.dtype or np.uint8)
    dtype = np.dtype(np.uint8) if stored.kind == "b" else stored.newbyteorder("=")
    if page.photometric == PALETTE and channels == 1:
        return Colour(bands=COLOURS, dtype=np.dtype(np.uint8), palette=_palette(page))
    flagged = alpha_sample(page)
    transparent = None if alpha == "band" else flagged
    count = channels if channels > 1 else page.samplesperpixel - (transparent is not None)
    chroma = page.compression == APERIO_YCBCR or (page.photometric == YCBCR and page.compression not in JPEG_LIKE)
    luma = chroma and dtype == np.uint8 and page.samplesperpixel == len(COLOURS)
    # For signed numbers and floats "0 is white" has no largest value to count from.
    white = page.photometric == MINISWHITE and dtype.kind == "u"
    return Colour(
        bands=_names(page, count),
        dtype=dtype,
        alpha=transparent,
        inverted=_largest(page, stored) if white else None,
        luma=luma,
        stored_samples=page.samplesperpixel,
        notes=(*_notes(page, stored), *_alpha_notes(flagged, alpha)),
    )


def rgb_of_ycbcr(samples: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Convert JFIF's YCbCr to RGB (ITU-T T.871): `(height, width, 3)` uint8 to the same."""
    luma = samples[:, :, 0].astype(np.float32)
    blue, red = samples[:, :, 1].astype(np.float32) - 128, samples[:, :, 2].astype(np.float32) - 128
    # The coefficients are those of JFIF with full-range values, where 128 is grey.
    mixed = np.stack([luma + 1.402 * red, luma - 0.344136 * blue - 0.714136 * red, luma + 1.772 * blue], axis=2)
    return np.clip(np.floor(mixed + 0.5), 0, 255).astype(np.uint8)


def alpha_sample(page: TiffPage) -> int | None:
    """Return the index of the first sample that is flagged as alpha."""
    first = int(page.samplesperpixel) - len(page.extrasamples)
    kinds = (ASSOCIATED_ALPHA, UNASSOCIATED_ALPHA)
    return next((first + index for index, kind in enumerate(page.extrasamples) if kind in kinds), None)


def _alpha_notes(flagged: int | None, alpha: Alpha) -> tuple[str, ...]:
    return () if flagged is None else (alpha_note(flagged + 1, alpha),)


def alpha_note(number: int, alpha: Alpha) -> str:
    """Return a note on a band that is flagged as alpha, since GDAL flags the last of four bands so."""
    if alpha == "band":
        return f"band {number} is flagged as alpha and read as a band"
    return f"band {number} is flagged as alpha: where it is 0 there is no data (--alpha band makes it a band)"


def has_palette_and_alpha(page: TiffPage) -> bool:
    """Return whether a page holds indices and alpha that libvips turns into the palette's colours and a mask.

    It divides colours by associated alpha, and takes samples that are stored apart for pixels of other columns.
    """
    if page.samplesperpixel != 2 or _bits(page) != 8:  # noqa: PLR2004 (an index and alpha, of 8 bits)
        return False
    return tuple(map(int, page.extrasamples)) == (UNASSOCIATED_ALPHA,) and page.planarconfig == TOGETHER


def palette_fault(page: TiffPage) -> str | None:
    """Return what is wrong with the palette of a page that has one by its tags; None where nothing is."""
    if page.photometric != PALETTE:
        return None
    table = np.asarray(page.colormap)
    if table.ndim == 2 and table.shape[0] == len(COLOURS) and table.size and table.dtype.kind in "bui":  # noqa: PLR2004
        return None
    return f"{table.size if table.dtype.kind in 'bui' else 0} numbers"


def _palette(page: TiffPage) -> NDArray[np.uint8]:
    table = np.asarray(page.colormap)
    # Some writers store 8-bit colours in the 16-bit table.
    return (table.T >> 8 if table.max(initial=0) > 255 else table.T).astype(np.uint8)  # noqa: PLR2004


def _largest(page: TiffPage, stored: np.dtype[Any]) -> int:
    return 255 if stored.kind == "b" else int(2 ** _bits(page) - 1)


def _bits(page: TiffPage) -> int:
    return int(np.ravel(page.bitspersample)[0])


def _names(page: TiffPage, count: int) -> tuple[str, ...]:
    if page.photometric in (RGB, YCBCR) and count >= len(COLOURS):
        return COLOURS + tuple(f"band{index + 1}" for index in range(len(COLOURS), count))
    return ("grey",) if count == 1 else tuple(f"band{index + 1}" for index in range(count))


def _notes(page: TiffPage, stored: np.dtype[Any]) -> tuple[str, ...]:
    if stored.kind == "b":
        return ("bilevel pixels are read as 0 and 255",)
    if _bits(page) != 8 * stored.itemsize:
        return (f"{_bits(page)}-bit values are read as they are stored, in {stored.name}",)
    return ()
