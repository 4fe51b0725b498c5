"""The machine, the bundle and the device of a bench; without torch, so that no reader of them loads it.

A page of a library counts in parts to the processes that share it, so the process that starts the others has to do
without the libraries whose memory is measured.
"""

from __future__ import annotations

from dataclasses import dataclass

from magnet_cli import __version__


@dataclass(frozen=True, kw_only=True)
class Setting:
    """The machine, the bundle and the device of all measurements."""

    bundle: str
    digest: str
    notes: tuple[str, ...]
    device: str
    device_name: str
    engine: str
    """The library that computes the program's networks."""
    precision: str
    cores: int
    machine: dict[str, object]
    """Facts about the machine, as JSON values."""

    def describe(self) -> dict[str, object]:
        """Return the fields as JSON values."""
        return {
            "program": {"name": "magnet", "version": __version__},
            "machine": self.machine,
            "bundle": {"name": self.bundle, "digest": self.digest},
            "device": self.device,
            "device_name": self.device_name,
            "engine": self.engine,
            "precision": self.precision,
        }
