"""Files of a network from elsewhere: found inside their folder, read as data, and hashed."""

from __future__ import annotations

import zipfile
from typing import TYPE_CHECKING, Any

from magnet_cli.errors import WeightsError
from magnet_cli.models.schema import LARGEST, parse_object
from magnet_cli.system import regular_files

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path


def checked_file(root: Path, name: str) -> Path:
    """Return the path of a file that lies inside a folder.

    Raises:
        WeightsError: It is missing, or leads outside of the folder, as by a symbolic link.
    """
    path = root / name
    try:
        # Paths are resolved, because a link inside the folder may lead to any file that the user can read.
        inside = path.resolve(strict=True).is_relative_to(root.resolve(strict=True))
    except OSError as exc:
        raise WeightsError(
            "a file of the network is missing",
            value=name,
            file=root,
            advice="Copy the network again, with all of its files",
        ) from exc
    if not inside:
        raise WeightsError(
            "a file of the network lies outside of its folder",
            value=f"{name} leads to {path.resolve()}",
            file=root,
            advice="Copy the file itself into the folder",
        )
    if not path.is_file():
        raise WeightsError(
            "a file of the network is no plain file",
            value=name,
            file=root,
            advice="Copy the network again, with all of its files",
        )
    return path


def read_json(root: Path, name: str) -> dict[str, Any]:
    """Return the JSON object in a file of a network.

    Raises:
        WeightsError: It is missing, leads outside, or is no JSON object.
    """
    path = checked_file(root, name)
    return parse_object(regular_files.beginning(path, LARGEST + 1), file=path)


def read_yaml(file: Path) -> dict[str, Any]:
    """Return the YAML mapping in a file; tags that would build objects are refused.

    Raises:
        WeightsError: The file cannot be read, is longer than a description, or is no mapping.
    """
    try:
        import yaml  # noqa: PLC0415 - an extra
    except ImportError as exc:
        raise WeightsError("a description in YAML needs the Python package yaml, which cannot be imported here",
            file=file, advice="pip install 'magnet-cli[bioimageio]'") from exc  # fmt: skip
    with regular_files.reading(file, WeightsError):
        data = regular_files.beginning(file, LARGEST + 1)
    if len(data) > LARGEST:
        raise WeightsError(
            f"a description has at most {LARGEST} bytes",
            file=file,
            advice="Name the description that the network's library has written",
        )
    try:
        table = yaml.safe_load(data)
    except (yaml.YAMLError, RecursionError, ValueError) as exc:
        raise WeightsError(
            f"the file cannot be read as YAML: {str(exc).splitlines()[0][:200]}",
            file=file,
            advice="Correct the YAML, or export the network again",
        ) from exc
    if not isinstance(table, dict):
        raise WeightsError(
            "a description is a mapping of names to values",
            value=type(table).__name__,
            file=file,
            advice="Name the description that the network's library has written",
        )
    return table


def digest_of_file(path: Path) -> str:
    """Return the SHA-256 of a file, read in parts: a network may have many gigabytes."""
    with regular_files.reading(path, WeightsError):
        return regular_files.sha256_of(path)


def digests(root: Path, names: Iterable[str]) -> dict[str, str]:
    """Return the SHA-256 of each file by its name."""
    return {name: digest_of_file(checked_file(root, name)) for name in sorted(names)}


def check_digests(root: Path, files: Mapping[str, str]) -> None:
    """Check that every file is the one whose hash is given.

    Raises:
        WeightsError: A file is missing or has changed.
    """
    for name, wanted in files.items():
        path = checked_file(root, name)
        found = digest_of_file(path)
        if found != wanted:
            raise WeightsError(
                f"the content is not what the description says: sha256 {wanted} expected",
                value=found,
                file=path,
                advice="Import the network again: magnet weights import --network PATH -o BUNDLE",
            )


def archive_names(path: Path) -> tuple[str, ...]:
    """Return the entries of a zip archive without its outermost folder; empty where the file is no archive."""
    try:
        if not zipfile.is_zipfile(path):
            return ()
        with zipfile.ZipFile(path) as archive:
            return tuple(name.partition("/")[2] for name in archive.namelist())
    except (OSError, zipfile.BadZipFile, ValueError, NotImplementedError):
        return ()
