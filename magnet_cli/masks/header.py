"""The header of a journal: hashes, mask and fields of its run, which are compared before the run is resumed."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, Any, Self

from magnet_cli.errors import OutputError
from magnet_cli.geometry import Pitch, Size
from magnet_cli.images.protocol import Resolution
from magnet_cli.masks.spec import FieldSpec, MaskClass, MaskSpec

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

SCHEMA = 1

RESUME_ADVICE = "Use the options of the interrupted run, or start anew with --overwrite or --no-resume."


@dataclass(frozen=True, kw_only=True)
class JournalHeader:
    """Everything that must be equal for a run to go on where another stopped."""

    hashes: Mapping[str, str]
    """The hashes by name, for instance `input`, `bundle` and `options`."""
    spec: MaskSpec
    fields: tuple[FieldSpec, ...] = ()

    @classmethod
    def parse(cls, stored: bytes, *, file: Path) -> Self:
        """Return a stored header. The tags of its mask's place are left out, because only their digest is stored.

        Raises:
            OutputError: This program cannot read the header.
        """
        try:
            found = json.loads(stored)
            if found["schema"] != SCHEMA:
                message = f"schema {found['schema']}, and this program reads {SCHEMA}"
                raise ValueError(message)  # noqa: TRY301 - the other ways in which a header can be wrong end alike
            return cls(
                hashes={str(name): str(value) for name, value in found["hashes"].items()},
                spec=_parsed_spec(found["mask"]),
                fields=tuple(_parsed_field(entry) for entry in found["fields"]),
            )
        except (ValueError, TypeError, KeyError, AttributeError, ZeroDivisionError, RecursionError) as exc:
            raise OutputError(
                "the header of this journal is not one that this program reads",
                value=str(exc),
                file=file,
                advice="Use the version of magnet that computes the mask",
            ) from exc

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
        """Check that a stored header is this one.

        Raises:
            OutputError: The headers differ. The message names what differs.
        """
        if stored == self.encode():
            return
        found, wanted = json.loads(stored), json.loads(self.encode())
        differing = _differing(found.get("hashes", {}), wanted["hashes"])
        differing += [key for key in ("schema", "mask", "fields") if found.get(key) != wanted[key]]
        raise _of_another_run(differing, file)


def check_hashes(found: Mapping[str, str], wanted: Mapping[str, str], *, file: Path) -> None:
    """Check that the hashes of a journal are those of a run.

    Raises:
        OutputError: They differ. The message names those that do.
    """
    differing = _differing(found, wanted)
    if differing:
        raise _of_another_run(differing, file)


def _differing(found: Mapping[str, object], wanted: Mapping[str, object]) -> list[str]:
    # An engine's version is a hash that runs of PyTorch have not, so that either side may lack a key.
    return [name for name in dict.fromkeys([*wanted, *found]) if found.get(name) != wanted.get(name)]


def _of_another_run(differing: Sequence[str], file: Path) -> OutputError:
    return OutputError(
        "an interrupted run with other inputs or options left its journal here",
        value=f"different {', '.join(differing) or 'hashes'}",
        file=file,
        advice=RESUME_ADVICE,
    )


def digest_of(values: Mapping[str, object]) -> str:
    """Return the SHA-256 of JSON values, which does not depend on the order of their keys. Options are hashed by it."""
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def _field(entry: FieldSpec) -> list[object]:
    found = [entry.name, entry.bands, _size(entry.size), _exact(entry.pitch.x), _exact(entry.pitch.y), entry.dtype]
    return found if entry.join == "later" else [*found, entry.join]


def _parsed_spec(found: Any) -> MaskSpec:
    resolution = found["resolution"]
    return MaskSpec(
        size=_parsed_size(found["size"]),
        classes=tuple(MaskClass(name=str(name), color=str(color)) for name, color in found["classes"]),
        tile=int(found["tile"]),
        compression=str(found["compression"]),
        resolution=None
        if resolution is None
        else Resolution(x=Fraction(resolution[0]), y=Fraction(resolution[1]), unit=str(resolution[2])),
    )


def _parsed_field(found: Any) -> FieldSpec:
    name, bands, size, across, down, dtype, *join = found
    return FieldSpec(
        name=str(name),
        bands=int(bands),
        size=_parsed_size(size),
        pitch=Pitch(x=Fraction(across), y=Fraction(down)),
        dtype=str(dtype),
        join="largest" if join == ["largest"] else "later",
    )


def _parsed_size(found: Any) -> Size:
    return Size(width=int(found["width"]), height=int(found["height"]))


def _size(size: Size) -> dict[str, int]:
    return {"width": size.width, "height": size.height}


def _exact(value: Fraction) -> str:
    return str(value)
