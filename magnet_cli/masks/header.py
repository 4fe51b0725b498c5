"""The header of a journal: hashes, mask and fields of its run, which are compared before the run is resumed."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

from magnet_cli.errors import OutputError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from fractions import Fraction
    from pathlib import Path

    from magnet_cli.geometry import Size
    from magnet_cli.masks.spec import FieldSpec, MaskSpec

SCHEMA = 1

RESUME_ADVICE = "Use the options of the interrupted run, or start anew with --overwrite or --no-resume."


@dataclass(frozen=True, kw_only=True)
class JournalHeader:
    """Everything that must be equal for a run to go on where another stopped."""

    hashes: Mapping[str, str]
    """The hashes by name, for instance `input`, `bundle` and `options`."""
    spec: MaskSpec
    fields: tuple[FieldSpec, ...] = ()

    def facts(self) -> dict[str, object]:
        """Return the header as JSON values."""
        resolution = self.spec.resolution
        return {
            "schema": SCHEMA,
            "hashes": dict(self.hashes),
            "mask": {
                "size": _size(self.spec.size),
                "tile": self.spec.tile,
                "compression": self.spec.compression,
                "classes": [[entry.name, entry.color] for entry in self.spec.classes],
                "resolution": resolution and [_exact(resolution.x), _exact(resolution.y), resolution.unit],
                "geo_tags": hashlib.sha256(repr(self.spec.geo_tags).encode()).hexdigest(),
            },
            "fields": [_field(entry) for entry in self.fields],
        }

    def encode(self) -> bytes:
        """Return the header's bytes; equal headers have equal bytes."""
        return json.dumps(self.facts(), sort_keys=True, separators=(",", ":")).encode()

    def check(self, stored: bytes, *, file: Path) -> None:
        """Pass where a stored header is this one.

        Raises:
            OutputError: It is not; the message names what differs.
        """
        if stored == self.encode():
            return
        found, wanted = json.loads(stored), json.loads(self.encode())
        differing = [key for key in wanted["hashes"] if found.get("hashes", {}).get(key) != wanted["hashes"][key]]
        differing += [key for key in ("schema", "mask", "fields") if found.get(key) != wanted[key]]
        raise OutputError(
            "an interrupted run with other inputs or options left its journal here",
            value=f"different {', '.join(differing) or 'hashes'}",
            file=file,
            advice=RESUME_ADVICE,
        )


def digest_of(values: Mapping[str, object]) -> str:
    """Return the SHA-256 over JSON values, whatever the order of their keys: what hashes of options are made by."""
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def _field(entry: FieldSpec) -> list[object]:
    found = [entry.name, entry.bands, _size(entry.size), _exact(entry.pitch.x), _exact(entry.pitch.y), entry.dtype]
    return found if entry.join == "later" else [*found, entry.join]


def _size(size: Size) -> dict[str, int]:
    return {"width": size.width, "height": size.height}


def _exact(value: Fraction) -> str:
    return str(value)
