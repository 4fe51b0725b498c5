"""The two classical refinements that the papers compare with, as their libraries do them.

Guided filter: He, Sun and Tang, ECCV 2010, through OpenCV. Dense CRF: Krähenbühl and Koltun, NeurIPS 2011, through
pydensecrf, with the settings that MagNet's supplement names. Both take probabilities and the image they belong to.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np

from magnet_cli.errors import UsageError

if TYPE_CHECKING:
    from types import ModuleType

    from numpy.typing import NDArray

Classical = Literal["guided", "crf"]
FAINTEST = 1e-5
"""Least probability: its logarithm is the CRF's unary energy."""
COLOURS = ("red", "green", "blue")
VALUES = (0.0, 255.0)


class Tool(Protocol):
    """A classical refinement with its settings."""

    @property
    def title(self) -> str:
        """The name of the tool in messages."""

    @property
    def bands(self) -> tuple[str, ...]:
        """The names of the image's bands that the tool reads."""

    @property
    def value_range(self) -> tuple[float, float]:
        """The values of black and of white."""

    @property
    def reach(self) -> int:
        """Pixels beyond its own that a value depends on."""

    @property
    def needs_doubt(self) -> bool:
        """Whether the tool changes nothing where all labels are equally sure."""

    def apply(self, probs: NDArray[np.float32], image: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return probabilities that follow the edges of an image.

        Args:
            probs: `(classes, height, width)` in [0, 1].
            image: `(height, width, 3)`.

        Returns:
            The same shape, in [0, 1], summing to 1 over the classes.

        Raises:
            UsageError: The extra of the tool is not installed.
        """

    def bytes_a_pixel(self, classes: int) -> int:
        """Return the host memory that a pixel takes while so many classes are refined."""

    def describe(self) -> dict[str, object]:
        """Return the tool's name and settings as JSON values."""


@dataclass(frozen=True, kw_only=True)
class GuidedFilter:
    """Settings of the guided filter."""

    radius: int = 16
    """The radius of the windows, in pixels."""
    epsilon: float = 0.01
    """Variance of the image, whose values are 0..1, below which a window counts as flat."""
    title: str = "the guided filter"
    needs_doubt: bool = False
    bands: tuple[str, ...] = COLOURS
    value_range: tuple[float, float] = VALUES

    @property
    def reach(self) -> int:
        """Pixels beyond its own that a value depends on: those of two box filters."""
        return 2 * self.radius

    def bytes_a_pixel(self, classes: int) -> int:
        """Count the image in float32, its means and covariances, and three copies of the probabilities."""
        return 130 + 12 * classes

    def describe(self) -> dict[str, object]:
        """Return the tool's name and settings as JSON values."""
        return {"method": "guided", "radius": self.radius, "epsilon": self.epsilon}

    def apply(self, probs: NDArray[np.float32], image: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return probabilities that follow the image's edges."""
        # `epsilon` is a variance of values from 0 to 1, as in the paper.
        guide = _opencv().createGuidedFilter(image.astype(np.float32) / 255, self.radius, self.epsilon)
        smooth = np.stack([guide.filter(values) for values in probs]).clip(0, 1)
        # The linear models of the filter can leave 0..1. Where the cut leaves nothing of any class, the pixel keeps its
        # own probabilities.
        total = smooth.sum(axis=0)
        return np.where(total > 0, smooth / np.where(total > 0, total, 1), probs).astype(np.float32)


@dataclass(frozen=True, kw_only=True)
class DenseCrf:
    """Settings of the dense CRF, with a bilateral term alone (MagNet, supplement, section 1)."""

    steps: int = 50
    """The number of steps of mean-field inference."""
    position: float = 256
    """Standard deviation of the bilateral term over places, in pixels."""
    colour: float = 13
    """The same over colours, whose values are 0..255."""
    compatibility: float = 1
    """Weight of the term (Potts)."""
    title: str = "the dense CRF"
    needs_doubt: bool = True
    """The CRF needs probabilities.

    Without them all labels are equally certain and stay: with a weight of 1 all neighbours together change the odds of
    a label less than its own probability does.
    """
    bands: tuple[str, ...] = COLOURS
    value_range: tuple[float, float] = VALUES

    @property
    def reach(self) -> int:
        """Pixels beyond its own that a value is computed from: two deviations, though it depends a little on all."""
        return int(2 * self.position)

    def bytes_a_pixel(self, classes: int) -> int:
        """Count the lattice, which has six corners a pixel, energies, messages and two copies of the probabilities."""
        return 160 + 24 * classes

    def describe(self) -> dict[str, object]:
        """Return the tool's name and settings as JSON values."""
        return {
            "method": "crf",
            "steps": self.steps,
            "position": float(self.position),
            "colour": float(self.colour),
            "compatibility": float(self.compatibility),
        }

    def apply(self, probs: NDArray[np.float32], image: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return the probabilities after mean-field inference."""
        classes, height, width = probs.shape
        field = _crf().DenseCRF2D(width, height, classes)
        energy = -np.log(probs.clip(FAINTEST, 1)).astype(np.float32)
        field.setUnaryEnergy(np.ascontiguousarray(energy.reshape(classes, -1)))
        # The Cython interface accepts contiguous arrays only.
        field.addPairwiseBilateral(
            sxy=self.position, srgb=self.colour, rgbim=np.ascontiguousarray(image), compat=self.compatibility
        )
        found: NDArray[np.float32] = np.asarray(field.inference(self.steps), np.float32)
        return found.reshape(classes, height, width)


def classical(name: Classical) -> Tool:
    """Return a refinement with its default settings.

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
