"""Model bundles: finding and opening them. Nothing here needs torch."""

from __future__ import annotations

from pathlib import Path

from magnet_cli.errors import WeightsError
from magnet_cli.models.description import DESCRIPTION, parse_bundle
from magnet_cli.models.network_spec import (
    Bundle,
    CascadeBundle,
    ClassSpec,
    InputSpec,
    MagnetDefaults,
    NetworkSpec,
    PixelSize,
    PixelSpec,
    RefinerSpec,
    Temperature,
)
from magnet_cli.models.schema import LARGEST, parse_object
from magnet_cli.system import regular_files

__all__ = [
    "Bundle",
    "CascadeBundle",
    "ClassSpec",
    "InputSpec",
    "MagnetDefaults",
    "NetworkSpec",
    "PixelSize",
    "PixelSpec",
    "RefinerSpec",
    "Temperature",
    "load_bundle",
    "load_cascade_bundle",
    "load_description",
    "shipped_bundles",
]


def roots() -> list[Path]:
    """Return the folders that hold shipped bundles: inside an installed package, or beside it in a checkout."""
    package = Path(__file__).parents[1]
    places = [package / "weights"]
    if (package.parent / "pyproject.toml").is_file():
        places.append(package.parent / "weights")
    return [place for place in places if place.is_dir()]


def shipped_bundles() -> dict[str, Path]:
    """Return the names and folders of the bundles that come with the program, sorted by name."""
    # The order is reversed, so that a bundle inside the package wins over one of the same name beside it.
    found = {path.parent.name: path.parent for root in reversed(roots()) for path in root.glob(f"*/{DESCRIPTION}")}
    return dict(sorted(found.items()))


def bundle_files(name_or_path: str | Path | None) -> list[Path]:
    """Return the files of a bundle that exist, without reading its description; empty where none is named."""
    if name_or_path is None:
        return []
    folder = shipped_bundles().get(str(name_or_path)) or Path(name_or_path)
    return [path for path in folder.iterdir() if path.is_file()] if folder.is_dir() else [folder]


def load_bundle(name_or_path: str | Path) -> Bundle:
    """Read and check the description of a bundle that predicts classes.

    Args:
        name_or_path: A shipped bundle's name, or a folder.

    Raises:
        WeightsError: There is no such bundle, its description is wrong, or it sharpens masks; the message says where.
    """
    found = load_description(name_or_path)
    if isinstance(found, Bundle):
        return found
    raise _of_other_kind(found, "sharpens masks: it predicts no classes", command="refine", shown="with classes")


def load_cascade_bundle(name_or_path: str | Path) -> CascadeBundle:
    """Read and check the description of a bundle that sharpens masks, as `load_bundle` does with one that does not."""
    found = load_description(name_or_path)
    if isinstance(found, CascadeBundle):
        return found
    raise _of_other_kind(found, "predicts classes: it cannot sharpen a mask", command="segment", shown="as a cascade")


def _of_other_kind(found: Bundle | CascadeBundle, rule: str, *, command: str, shown: str) -> WeightsError:
    advice = f"Give it to 'magnet {command}', or take a bundle that 'magnet weights list' shows {shown}"
    return WeightsError(f"bundle {found.name} {rule}", file=found.folder / DESCRIPTION, advice=advice)


def load_description(name_or_path: str | Path) -> Bundle | CascadeBundle:
    """Read and check the description of a bundle of either kind.

    Args:
        name_or_path: A shipped bundle's name, or a folder.

    Raises:
        WeightsError: There is no such bundle, or its description is wrong; the message says where.
    """
    shipped = shipped_bundles()
    folder = shipped.get(str(name_or_path), Path(name_or_path))
    file = folder / DESCRIPTION
    if not file.is_file():
        raise WeightsError(
            "neither a shipped bundle nor a folder with a bundle.json",
            value=name_or_path,
            # The file of a network is what its owner names first.
            advice=f"Name a bundle that magnet has ({', '.join(shipped) or 'none'}), or the folder of a bundle"
            + (f", or give --network {folder} for a network of another library" if folder.is_file() else ""),
        )
    with regular_files.reading(file, WeightsError):
        # One byte more than is allowed is read, by which a file that is too large is recognised.
        data = regular_files.beginning(file, LARGEST + 1)
    is_shipped = folder.resolve() in {path.resolve() for path in shipped.values()}
    return parse_bundle(parse_object(data, file=file), file=file, data=data, is_shipped=is_shipped)
