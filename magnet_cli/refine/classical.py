"""The two classical refinements that the papers compare with, as their libraries do them.

Guided filter: He, Sun and Tang, ECCV 2010, through OpenCV. Dense CRF: Krähenbühl and Koltun, NeurIPS 2011, through
pydensecrf, with the settings that MagNet's supplement names. Both take probabilities and the image they belong to.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from magnet_cli.errors import UsageError

if TYPE_CHECKING:
    from types import ModuleType

    from numpy.typing import NDArray

Classical = Literal["guided", "crf"]
FAINTEST = 1e-5
"""Least probability: its logarithm is the CRF's unary energy."""


@dataclass(frozen=True, kw_only=True)
class GuidedFilter:
    """Settings of the guided filter."""

    radius: int = 16
    """Of the windows, in pixels."""
    epsilon: float = 0.01
    """Variance of the image, whose values are 0..1, below which a window counts as flat."""

    @property
    def reach(self) -> int:
        """Pixels beyond its own that a value depends on: those of two box filters."""
        return 2 * self.radius

    def apply(self, probs: NDArray[np.float32], image: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Probabilities that follow the image's edges.

        Args:
            probs: `(classes, height, width)` in [0, 1].
            image: `(height, width, 3)`.

        Returns:
            The same shape, in [0, 1], summing to 1 over the classes.

        Raises:
            UsageError: The extra `guided` is not installed.
        """
        guide = _opencv().createGuidedFilter(image.astype(np.float32) / 255, self.radius, self.epsilon)
        smooth = np.stack([guide.filter(values) for values in probs]).clip(0, 1)
        total = smooth.sum(axis=0)
        return np.where(total > 0, smooth / np.where(total > 0, total, 1), probs).astype(np.float32)


@dataclass(frozen=True, kw_only=True)
class DenseCrf:
    """Settings of the dense CRF, with a bilateral term alone (MagNet, supplement, section 1)."""

    steps: int = 50
    """Of mean-field inference."""
    position: float = 256
    """Standard deviation of the bilateral term over places, in pixels."""
    colour: float = 13
    """The same over colours, whose values are 0..255."""
    compatibility: float = 1
    """Weight of the term (Potts)."""

    @property
    def reach(self) -> int:
        """Pixels beyond its own that a value depends on noticeably: the term is as wide as it is deviant."""
        return int(self.position)

    def apply(self, probs: NDArray[np.float32], image: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Probabilities after mean-field inference.

        Args:
            probs: `(classes, height, width)` in [0, 1].
            image: `(height, width, 3)`.

        Returns:
            The same shape, in [0, 1], summing to 1 over the classes.

        Raises:
            UsageError: The extra `crf` is not installed.
        """
        classes, height, width = probs.shape
        field = _crf().DenseCRF2D(width, height, classes)
        energy = -np.log(probs.clip(FAINTEST, 1)).astype(np.float32)
        field.setUnaryEnergy(np.ascontiguousarray(energy.reshape(classes, -1)))
        field.addPairwiseBilateral(
            sxy=self.position, srgb=self.colour, rgbim=np.ascontiguousarray(image), compat=self.compatibility
        )
        found: NDArray[np.float32] = np.asarray(field.inference(self.steps), np.float32)
        return found.reshape(classes, height, width)


def classical(name: Classical) -> GuidedFilter | DenseCrf:
    """A refinement with its default settings.

    Raises:
        UsageError: Its library is not installed.
    """
    if name == "guided":
        _opencv()
        return GuidedFilter()
    _crf()
    return DenseCrf()


def _opencv() -> Any:
    advice = "pip install 'magnet-cli[guided]'; other packages of OpenCV have to go before, they share a folder"
    return _library("cv2.ximgproc", "the guided filter needs OpenCV with its contributed modules", advice)


def _crf() -> Any:
    advice = "pip install 'magnet-cli[crf]'; it is compiled while installed"
    return _library("pydensecrf.densecrf", "the dense CRF needs pydensecrf", advice)


def _library(name: str, rule: str, advice: str) -> ModuleType:
    try:
        return import_module(name)
    except ImportError as error:
        raise UsageError(rule, advice=advice) from error
