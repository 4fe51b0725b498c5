"""Comparison of the kind of image that a bundle was trained on with the kind that it is given.

An image's kind follows from statements in its file, never from its pixels: a network for aerial photographs
finds buildings on a microscope's slide, and the mask looks like any other.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from magnet_cli.errors import WeightsError

if TYPE_CHECKING:
    from magnet_cli.images.protocol import ImageInfo

DOMAINS = {
    "slide": ("histology", "pathology", "cytology", "microscopy", "fluorescence"),
    "map": ("aerial", "satellite"),
}
"""Domains of bundles that fit a kind of image."""
NAMES = {"slide": "a microscope's slide", "map": "an image of the ground (it is georeferenced)"}


def check_domain(
    info: ImageInfo, bundle: str, trained: str, *, insisted: str | None, is_default: bool = False
) -> tuple[str, ...]:
    """Compare the domain of a bundle with the kind of an image.

    Args:
        info: Facts about the image.
        bundle: The bundle's name.
        trained: Domain that the bundle was trained for, empty where it does not say.
        insisted: Domain of the image by `--domain`; None where the option is missing, so that the file decides.
        is_default: Whether the bundle is the default because the user named none.

    Returns:
        A note for the user where one of the two is not known.

    Raises:
        WeightsError: The bundle's domain and the image's domain differ.
    """
    if insisted is not None:
        if trained and trained not in _alike(insisted):
            raise WeightsError(
                f"bundle {bundle} was trained on images of the domain {trained}",
                value=f"--domain {insisted}",
                file=info.path,
                advice=f"Name another bundle with --weights, or insist with --domain {trained}",
            )
        return ()
    kind = info.kind
    # A network that a Python program hands in has no bundle's name either, and no domain.
    if kind == "slide" and is_default and trained:
        raise WeightsError(
            f"there is no default bundle for a microscope's slide, and {bundle} was trained on {trained} images",
            file=info.path,
            advice=f"Name a bundle with --weights, or insist on {bundle} with --domain {trained}",
        )
    if kind is not None and trained and trained not in DOMAINS[kind]:
        raise WeightsError(
            f"bundle {bundle} was trained on images of the domain {trained}, and this is {NAMES[kind]}",
            file=info.path,
            advice=f"Name another bundle with --weights (domain {' or '.join(DOMAINS[kind])}), or insist with "
            f"--domain {trained}",
        )
    if kind is not None and not trained:
        return (f"bundle {bundle} does not say for which domain it was trained, and this is {NAMES[kind]}",)
    if kind is None and trained:
        return (f"bundle {bundle} was trained on images of the domain {trained}; the file does not say what it shows",)
    return ()


def _alike(domain: str) -> tuple[str, ...]:
    return next((names for names in DOMAINS.values() if domain in names), (domain,))
