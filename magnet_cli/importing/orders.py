"""The order of the two inputs of a published refiner, found by trying both."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

import numpy as np

from magnet_cli import images
from magnet_cli.arithmetic.published.stages import labels_published, segment_published, settings_from_scales
from magnet_cli.errors import SourceError
from magnet_cli.evaluation.mask_scores import Confusion, mean_iou
from magnet_cli.geometry import LEVEL0, Box, Size
from magnet_cli.images.labels import open_labels
from magnet_cli.images.protocol import NODATA
from magnet_cli.models.facts import model_facts
from magnet_cli.models.networks import Networks, load_networks
from magnet_cli.options.evaluate import EvaluationOptions
from magnet_cli.options.rules import parse_points
from magnet_cli.plan import check_bands

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from magnet_cli.models.bundle import Bundle

Order = Literal["own-first", "field-first"]
ORDERS: tuple[Order, ...] = ("own-first", "field-first")
"""The first input of a refiner: the stage's own prediction, as in the published test program, or the field, as in the
published training program."""

MOST_PIXELS = 64 << 20
"""Largest number of pixels of a sample. The published arithmetic holds every class of the whole image several times."""


@dataclass(frozen=True, kw_only=True)
class OrderSample:
    """An image and its true classes."""

    image: str | Path
    label: str | Path


def order_scores(
    bundle: Bundle, sample: OrderSample, *, exclude: tuple[int, ...] = (), device: str = "cpu"
) -> dict[Order, float]:
    """Return the mean IoU on a sample for each input order of the refiners, by the published arithmetic.

    Args:
        bundle: The bundle. Its own order of inputs is not used.
        sample: The image is stretched to the bundle's coarsest scale, as the published programs do.
        exclude: Classes left out of the mean.
        device: The device of the networks, like `cpu` or `cuda`.

    Raises:
        SourceError: The sample cannot be read, is too large, or label and image do not fit each other or the bundle.
        UsageError: The image is too large for the bundle's scales.
    """
    pixels = _pixels(sample, bundle)
    truth = _truth(sample, size=Size(width=pixels.shape[1], height=pixels.shape[0]), classes=len(bundle.classes))
    networks = load_networks(bundle, device=device, precision="float32")
    options = EvaluationOptions(exclude=exclude)
    return {order: _score(with_order(networks, order), pixels, truth, options) for order in ORDERS}


def with_order(networks: Networks, order: Order) -> Networks:
    """Return the networks with this order of the refiners' inputs."""
    refiners = tuple(replace(spec, input=order) for spec in networks.bundle.refiners)
    return replace(networks, bundle=replace(networks.bundle, refiners=refiners))


def _pixels(sample: OrderSample, bundle: Bundle) -> NDArray[np.uint8]:
    with images.open_image(sample.image) as image:
        info = image.info
        if info.dtype != "uint8" or info.size.pixels > MOST_PIXELS:
            rule = f"a sample is an 8-bit image of at most {MOST_PIXELS} pixels"
            raise SourceError(
                rule, value=f"{info.size}, {info.dtype}", file=sample.image, advice="Choose another image"
            )
        bands = check_bands(info, model_facts(bundle))
        region = image.read([images.Request(pitch=LEVEL0, box=Box.whole(info.size))])[0]
    return np.ascontiguousarray(region.pixels[:, :, list(bands)])


def _truth(sample: OrderSample, *, size: Size, classes: int) -> NDArray[np.uint8]:
    with open_labels(sample.label) as label:
        if label.size != size:
            raise SourceError(
                f"the size must be that of {sample.image}, {size}",
                value=label.size,
                file=sample.label,
                advice="Choose the label map of this image",
            )
        truth = label.read(Box.whole(size))
    known = truth[truth != NODATA]
    if not known.size or known.max() >= classes:
        rule = f"labels are below {classes}, the number of classes, or {NODATA} where not known"
        raise SourceError(
            rule, value=int(truth.max()), file=sample.label, advice="Choose labels of the classes that the preset has"
        )
    return truth


def _score(
    networks: Networks, pixels: NDArray[np.uint8], truth: NDArray[np.uint8], options: EvaluationOptions
) -> float:
    bundle = networks.bundle
    size = Size(width=pixels.shape[1], height=pixels.shape[0])
    # The published arithmetic is what the weights were trained with, so it tells most about the order of their inputs.
    settings = settings_from_scales(
        bundle.scales,
        image=size,
        input=bundle.input.size,
        points=_points(bundle.magnet.points),
        median=bundle.magnet.median,
    )
    settings = replace(settings, mean=bundle.input.mean, std=bundle.input.std)
    probs = segment_published(pixels, networks, settings=settings, shifted=True, device=networks.device)
    confusion = Confusion()
    known = truth != NODATA
    confusion.add(truth[known], labels_published(probs, size=size)[known])
    return mean_iou(confusion.scores(options, names=None)) or 0.0


def _points(text: str) -> float:
    rule = parse_points(text)
    if rule.kind == "all":
        return 1.0
    return float(rule.values[0]) if rule.kind == "share" else int(rule.values[0])
