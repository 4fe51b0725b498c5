"""Model bundles: finding and opening them. Nothing here needs torch."""

from __future__ import annotations

from pathlib import Path

from magnet_cli.errors import WeightsError
from magnet_cli.models.description import DESCRIPTION, parsed
from magnet_cli.models.spec import (
    Bundle,
    ClassSpec,
    InputSpec,
    MagnetDefaults,
    NetworkSpec,
    PixelSize,
    RefinerSpec,
    Temperature,
)
from magnet_cli.models.strict import parse_object

__all__ = [
    "Bundle",
    "ClassSpec",
    "InputSpec",
    "MagnetDefaults",
    "NetworkSpec",
    "PixelSize",
    "RefinerSpec",
    "Temperature",
    "load_bundle",
    "shipped_bundles",
]


def roots() -> list[Path]:
    """Folders that hold shipped bundles: inside an installed package, or beside it in a checkout."""
    package = Path(__file__).parents[1]
    places = [package / "weights"]
    if (package.parent / "pyproject.toml").is_file():
        places.append(package.parent / "weights")
    return [place for place in places if place.is_dir()]


def shipped_bundles() -> dict[str, Path]:
    """Names and folders of the bundles that come with the program, sorted by name."""
    found = {path.parent.name: path.parent for root in reversed(roots()) for path in root.glob(f"*/{DESCRIPTION}")}
    return dict(sorted(found.items()))


def load_bundle(name_or_path: str) -> Bundle:
    """Read and check a bundle's description.

    Args:
        name_or_path: A shipped bundle's name, or a folder.

    Raises:
        WeightsError: There is no such bundle, or its description is wrong; the message says where.
    """
    shipped = shipped_bundles()
    folder = shipped.get(name_or_path, Path(name_or_path))
    file = folder / DESCRIPTION
    if not file.is_file():
        raise WeightsError(
            "neither a shipped bundle nor a folder with a bundle.json",
            value=name_or_path,
            advice=f"Shipped: {', '.join(shipped) or 'none'}",
        )
    try:
        data = file.read_bytes()
    except OSError as exc:
        raise WeightsError(f"cannot be read: {exc}", file=file) from exc
    is_shipped = folder.resolve() in {path.resolve() for path in shipped.values()}
    return parsed(parse_object(data, file=file), data=data, is_shipped=is_shipped)
