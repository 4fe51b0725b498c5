"""Calibration finds the ranges of activations of a backbone in 8 bits on windows of a user's images."""

from __future__ import annotations

from fractions import Fraction
from typing import TYPE_CHECKING

import numpy as np

from magnet_cli import images
from magnet_cli.errors import SourceError, UsageError
from magnet_cli.geometry import Box, Pitch
from magnet_cli.models.device import pin_arithmetic
from magnet_cli.models.engines.quantised_graph import quantise, refuse_quantising
from magnet_cli.models.facts import model_facts
from magnet_cli.models.foreign.trial import Windows
from magnet_cli.options.segment import SegmentOptions
from magnet_cli.plan import check_bands, check_values, inspect_bands
from magnet_cli.plan.grid import working_grid
from magnet_cli.system.threads import usable_cores

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from torch import Tensor

    from magnet_cli.images.protocol import Image
    from magnet_cli.models.engines.quantised_graph import QuantisedGraph
    from magnet_cli.models.network_spec import Bundle
    from magnet_cli.plan import ModelFacts

TRIES = 20
"""This many places are tried for a window of which at least half is to hold data."""
OTHERS = 4
"""Ratio of the windows on which ranges are found to those on which agreement is measured."""


def quantise_bundle(
    bundle: Bundle, files: Sequence[str | Path], reading: SegmentOptions | None = None, *, windows: int, seed: int
) -> QuantisedGraph:
    """Write the backbone of a bundle in 8 bits into its folder, calibrated on windows of images.

    The windows lie at random places of each image at each of the bundle's scales. The same images, number and seed
    give the same windows.

    Args:
        bundle: The bundle whose backbone is quantised.
        files: The images, which resemble those that are to be segmented.
        reading: Options for what is read of the images: series, alpha, bands, range of values and size of a pixel.
        windows: The number of windows on which ranges are found. Agreement is measured on a quarter as many others.
        seed: The seed by which the places are drawn.

    Raises:
        UsageError: No image is given, or networks of the kind are not quantised.
        SourceError: An image cannot be read, lacks a band, or holds no data.
        WeightsError: A package is missing, or the network cannot be exported.
        OutputError: The bundle's folder cannot be written.
    """
    if not files or windows < 1:
        raise UsageError(
            "ranges are found on one window at least, of one image",
            value=f"{len(files)} images, {windows} windows",
            advice="Name an image, and look at one window or more",
        )
    refuse_quantising(bundle)
    pin_arithmetic(usable_cores())
    random = np.random.default_rng(seed)
    drawn, others = [], []
    counts = shares(windows, len(files)), shares(max(len(files), windows // OTHERS), len(files))
    facts = model_facts(bundle)
    reading = reading or SegmentOptions()
    for file, count, more in zip(files, *counts, strict=True):
        with images.reopen(inspect_bands(file, reading)) as image:
            found = patches_of(image, bundle, facts, reading, count=count + more, random=random)
        drawn += found[:count]
        others += found[count:]
    names = [images.stem(file) for file in files]
    return quantise(bundle, drawn, others, images=names, seed=seed)


def shares(total: int, parts: int) -> list[int]:
    """Return `total` split into whole numbers that differ by one at most."""
    return [total * (index + 1) // parts - total * index // parts for index in range(parts)]


def patches_of(
    image: Image,
    bundle: Bundle,
    facts: ModelFacts,
    reading: SegmentOptions | None = None,
    *,
    count: int,
    random: np.random.Generator,
) -> list[Tensor]:
    """Return normalised patches `(1, bands, h, w)` float32 of an image, its scales taking turns.

    Scales whose windows are more than twice as wide as the image are left out, except the finest one. What lies beyond
    the image is reflected.

    Args:
        image: The open image.
        bundle: The bundle that is to read it.
        facts: The facts of the bundle.
        reading: Options for what is read of the image.
        count: The number of patches.
        random: The generator that draws the places.

    Raises:
        SourceError: The image lacks a band, a size or data.
    """
    info, size, given = image.info, bundle.input.size, bundle.input
    reading = reading or SegmentOptions()
    positions, wanted, measured = check_bands(info, facts, reading.bands), reading.value_range, None
    if wanted is not None and wanted.kind == "percentiles":
        measured = images.sample_percentiles(image, positions, (float(wanted.low), float(wanted.high)))
    spans = check_values(info, facts, wanted, measured=measured)
    working = working_grid(info, facts, reading).pitch
    pitches = [
        Pitch(x=working.x * Fraction(scale.width, size.width), y=working.y * Fraction(scale.height, size.height))
        for scale in sorted(bundle.scales, key=lambda scale: scale.pixels)
    ]
    wide = [
        pitch
        for pitch in pitches[1:]
        if 2 * pitch.cover(info.size).width >= size.width and 2 * pitch.cover(info.size).height >= size.height
    ]
    found = []
    for number in range(count):
        pitch = [pitches[0], *wide][number % (1 + len(wide))]
        extent = pitch.cover(info.size)
        for _ in range(TRIES):
            box = Box(
                x=int(random.integers(0, max(0, extent.width - size.width) + 1)),
                y=int(random.integers(0, max(0, extent.height - size.height) + 1)),
                width=min(size.width, extent.width),
                height=min(size.height, extent.height),
            )
            request = images.Request(pitch=pitch, box=box, resample=given.resample, bands=positions)
            region = image.read([request])[0]
            if region.valid is None or 2 * int(region.valid.sum()) >= region.valid.size:
                break
        else:
            raise SourceError("hardly any pixel of the image holds data", file=info.path,
                advice="Calibrate with images that are full of what is to be segmented")  # fmt: skip
        pixels = np.ascontiguousarray(np.moveaxis(region.pixels, 2, 0))
        whole = Windows(picture=pixels, size=size, spans=spans, mean=given.mean, std=given.std)
        found.append(whole.patch(0, 0))
    return found
