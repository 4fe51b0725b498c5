"""The metadata of installed packages states what the program needs and what is installed; no package is imported."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, metadata, requires, version

from packaging.requirements import Requirement

DISTRIBUTION = "magnet-cli"
"""This program has this name among installed packages."""
EVERY_RUN = ""
"""Packages that no extra names are listed under this key."""


@dataclass(frozen=True, kw_only=True)
class NeededPackage:
    """A package that this program or one of its extras needs."""

    name: str
    wanted: str
    """The versions that fit, such as `>=1.4`."""
    version: str | None
    """The installed version; None where the package is not installed."""
    fits: bool
    """Whether a version that fits is installed."""

    def __str__(self) -> str:
        if self.version is None:
            return f"no {self.name}"
        return f"{self.name} {self.version}" + ("" if self.fits else f", but {self.wanted} is needed")


def installed_version(name: str) -> str | None:
    """Return the version of an installed package, or None where it is not installed."""
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def needed_packages(distribution: str = DISTRIBUTION) -> dict[str, list[NeededPackage]] | None:
    """Return the packages that a distribution needs on this machine, by the extra that names them.

    Args:
        distribution: The name of an installed package.

    Returns:
        The packages by extra, those of every run under `EVERY_RUN`. None where the distribution is not installed, as
        in a folder of sources that is run as it is.
    """
    try:
        texts = requires(distribution) or []
    except PackageNotFoundError:
        return None
    found: dict[str, list[NeededPackage]] = {EVERY_RUN: []}
    for text in texts:
        requirement = Requirement(text)
        marker = requirement.marker
        for extra in _extras(distribution):
            if marker is None or marker.evaluate({"extra": extra}):
                always = marker is None or marker.evaluate({"extra": EVERY_RUN})
                if extra == EVERY_RUN or not always:
                    found.setdefault(extra, []).append(_checked(requirement))
    return found


def _extras(distribution: str) -> list[str]:
    return [EVERY_RUN, *(metadata(distribution).get_all("Provides-Extra") or [])]


def _checked(requirement: Requirement) -> NeededPackage:
    found = installed_version(requirement.name)
    return NeededPackage(
        name=requirement.name,
        wanted=str(requirement.specifier),
        version=found,
        fits=found is not None and requirement.specifier.contains(found, prereleases=True),
    )
