"""Descriptions and files of model bundles, as trainings and tests write them."""

from __future__ import annotations

import copy
import hashlib
import json
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import save
from torch import Tensor, nn

from magnet_cli.errors import OutputError, WeightsError
from magnet_cli.models.bundle import Bundle, CascadeBundle, load_bundle, load_cascade_bundle
from magnet_cli.models.description import DESCRIPTION, SCHEMA
from magnet_cli.system import durable, regular_files

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

CASCADE_FILE = "cascade.safetensors"
PALETTE = ("#3C1098", "#8429F6", "#6EC1E4", "#FEDD3A", "#E2A929", "#E24A33", "#348ABD", "#777777")


def palette_colors(count: int) -> list[str]:
    """Return a colour `#RRGGBB` for each of `count` classes. Colours repeat from the ninth class on."""
    return [PALETTE[index % len(PALETTE)] for index in range(count)]


def describe(
    *,
    name: str = "bundle",
    classes: int | Sequence[Mapping[str, str]] = 2,
    size: int | tuple[int, int] = 32,
    scales: Sequence[int] = (),
    bands: Sequence[str] = ("red", "green", "blue"),
    backbone: Mapping[str, Any] | None = None,
    refiners: Sequence[Mapping[str, Any]] = (),
    **other: Any,
) -> dict[str, Any]:
    """Return a description with usual values, to be changed where something else is wanted.

    Args:
        name: The name of the bundle.
        classes: Number of classes, or their names and colours.
        size: The size of the network's input: a side, or width and height.
        scales: Sides of square windows; the input's own size where none is given.
        bands: The names of the bands.
        backbone: Keys of `networks.backbone` that differ from one 1 x 1 convolution.
        refiners: Keys of each entry of `networks.refiners` that differ from one 1 x 1 convolution, own first.
        other: Top-level keys that replace the usual ones; objects are replaced key by key.
    """
    width, height = (size, size) if isinstance(size, int) else size
    if isinstance(classes, int):
        classes = [{"name": f"class{i}", "color": color} for i, color in enumerate(palette_colors(classes))]
    usual = {"options": {}, "temperature": 1.0}
    description: dict[str, Any] = {
        "schema": SCHEMA,
        "name": name,
        "domain": "",
        "classes": [dict(item) for item in classes],
        "input": {
            "size": {"width": width, "height": height},
            "bands": list(bands),
            "range": [0, 255],
            "mean": [0.0] * len(bands),
            "std": [1.0] * len(bands),
            "resample": "area",
        },
        "activation": "softmax",
        "scales": [{"width": side, "height": side} for side in scales] or [{"width": width, "height": height}],
        "resolution": None,
        "magnet": {"merge": "mean", "points": "all", "patches": "all", "median": 11, "margin": 0},
        "compat": "paper",
        "networks": {
            "backbone": {"architecture": "conv", **usual, "file": "backbone.safetensors", **(backbone or {})},
            "refiners": [
                {
                    "scale": None,
                    "architecture": "conv",
                    "input": "own-first",
                    **usual,
                    "file": f"refiner{index}.safetensors" if index else "refiner.safetensors",
                    **item,
                }
                for index, item in enumerate(refiners)
            ],
            "selector": None,
        },
        "licence": "",
        "source": "",
        "metrics": {},
    }
    return replaced(description, other)


def describe_cascade(
    *,
    name: str = "cascade",
    bands: Sequence[str] = ("red", "green", "blue"),
    network: Mapping[str, Any] | None = None,
    **other: Any,
) -> dict[str, Any]:
    """Return the description of a bundle that sharpens masks, with usual values.

    Args:
        name: The name of the bundle.
        bands: Names of the three bands that it gets.
        network: Keys of `networks.cascade` that differ from one 1 x 1 convolution.
        other: Top-level keys that replace the usual ones; objects are replaced key by key.
    """
    usual = {"architecture": "conv", "options": {}, "file": CASCADE_FILE}
    return replaced(
        {
            "schema": SCHEMA,
            "kind": "cascade",
            "name": name,
            "domain": "",
            "input": {"bands": list(bands), "range": [0, 255], "mean": [0.0] * len(bands), "std": [1.0] * len(bands)},
            "side": 900,
            "compat": "paper",
            "networks": {"cascade": {**usual, **(network or {})}},
            "licence": "",
            "source": "",
            "metrics": {},
        },
        other,
    )


def replaced(description: dict[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    """Return a description with top-level keys replaced, objects key by key."""
    for key, value in other.items():
        nested = isinstance(value, dict) and isinstance(description.get(key), dict)
        description[key] = {**description[key], **value} if nested else value
    return description


def write_bundle(
    folder: Path,
    description: Mapping[str, Any],
    networks: Mapping[str, nn.Module | Mapping[str, Tensor]],
    *,
    dtype: torch.dtype = torch.float16,
) -> Bundle:
    """Write weights and description, the description last, and read the bundle back.

    Args:
        folder: Created where it is missing; other files in it are left alone.
        description: The content of bundle.json; each network's `sha256` is computed from the file that it names.
        networks: File name to network or state dict. A file that is named but not given must be there already.
        dtype: The dtype of floating-point weights on disk.

    Raises:
        OutputError: A file cannot be written or is missing.
        WeightsError: The description is wrong.
    """
    _write(folder, description, networks, dtype=dtype)
    with _reading_back(folder):
        # A shipped bundle's name would win over a relative path.
        return load_bundle(str(folder.resolve()))


def write_cascade_bundle(
    folder: Path,
    description: Mapping[str, Any],
    network: nn.Module | Mapping[str, Tensor],
    *,
    dtype: torch.dtype = torch.float16,
) -> CascadeBundle:
    """Write the weights and description of a bundle that sharpens masks; its one file has the usual name.

    Raises:
        OutputError: A file cannot be written.
        WeightsError: The description is wrong.
    """
    _write(folder, description, {CASCADE_FILE: network}, dtype=dtype)
    with _reading_back(folder):
        return load_cascade_bundle(str(folder.resolve()))


@contextmanager
def _reading_back(folder: Path) -> Iterator[None]:
    """Tell a bundle that was removed after it was written from a bundle that is wrong.

    Raises:
        OutputError: Somebody has removed it.
    """
    try:
        yield
    except WeightsError:
        if (folder / DESCRIPTION).is_file():
            raise
        rule, advice = "the bundle was removed while it was written", "Give the same command again"
        raise OutputError(rule, file=folder, advice=advice) from None


def _write(
    folder: Path,
    description: Mapping[str, Any],
    networks: Mapping[str, nn.Module | Mapping[str, Tensor]],
    *,
    dtype: torch.dtype,
) -> None:
    # The hashes are added to a copy, because the caller may write its description more than once.
    description = copy.deepcopy(dict(description))
    entries = description["networks"]
    single = (entries.get(role) for role in ("backbone", "selector", "local", "cascade"))
    named = [*filter(None, single), *entries.get("refiners", ())]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for file, network in networks.items():
            # The description goes last: a folder without it is no bundle, whenever the writing is interrupted.
            durable.write_whole(folder / file, save(stored(network, dtype=dtype)))
        for entry in named:
            entry["sha256"] = hashlib.sha256((folder / entry["file"]).read_bytes()).hexdigest()
        text = json.dumps(description, indent=2, ensure_ascii=False) + "\n"
        # A lone surrogate becomes its escape in JSON.
        durable.write_whole(folder / DESCRIPTION, text.encode("utf-8", "backslashreplace"))
    except OSError as exc:
        raise OutputError(
            f"the bundle cannot be written: {exc}",
            file=folder,
            advice="Check the free space and the rights of the folder",
        ) from exc


def weights_digest(network: nn.Module | Mapping[str, Tensor], *, dtype: torch.dtype) -> str:
    """Return the SHA-256 of the file that `write_bundle` writes of a network."""
    return hashlib.sha256(save(stored(network, dtype=dtype))).hexdigest()


def read_description(folder: Path) -> dict[str, Any]:
    """Return the description of a bundle as it stands on disk.

    Raises:
        WeightsError: It cannot be read.
    """
    try:
        with regular_files.reading(folder / DESCRIPTION, WeightsError):
            table: Any = json.loads((folder / DESCRIPTION).read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as exc:
        raise WeightsError(
            f"the description of a bundle is JSON in UTF-8: {exc}",
            file=folder / DESCRIPTION,
            advice="Correct bundle.json, or move it away",
        ) from exc
    if not isinstance(table, dict) or not isinstance(table.get("networks"), dict):
        raise WeightsError(
            "the description of a bundle is an object with networks",
            file=folder / DESCRIPTION,
            advice="Correct bundle.json, or move it away; docs/reference/bundle.md describes its keys",
        )
    return table


def stored(network: nn.Module | Mapping[str, Tensor], *, dtype: torch.dtype) -> dict[str, Tensor]:
    """Return the tensors as they go to disk."""
    state = network.state_dict() if isinstance(network, nn.Module) else network
    return {
        key: (value.to(dtype) if value.is_floating_point() else value).detach().cpu().contiguous()
        for key, value in state.items()
    }
