"""TorchScript files: code and weights in one archive, which runs only where the user trusts it."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, cast

import torch

from magnet_cli.errors import WeightsError
from magnet_cli.models.foreign.network_files import archive_names, checked_file
from magnet_cli.models.foreign.network_kind import NetworkReading

if TYPE_CHECKING:
    from pathlib import Path

    from torch import nn

    from magnet_cli.models.foreign.foreign_spec import ForeignSpec
    from magnet_cli.options.foreign_network import NetworkOptions
    from magnet_cli.options.shared import EngineName


class TorchScriptFile:
    """Reads and loads networks that `torch.jit.save` wrote."""

    name = "torchscript"
    extra = ""
    packages: tuple[str, ...] = ()
    modules: tuple[str, ...] = ()
    engines: tuple[EngineName, ...] = ("torch",)

    def claims(self, path: Path) -> bool:
        """Return whether a file is an archive with the parts of TorchScript."""
        names = archive_names(path) if path.is_file() else ()
        return "constants.pkl" in names and any(name.startswith("code/") for name in names)

    def read(self, path: Path, options: NetworkOptions) -> NetworkReading:
        """Return nothing: the file states nothing that can be read without running it."""
        del options
        return NetworkReading(kind=self.name, path=path, root=path.parent, files=(path.name,), holds_code=True)

    def load(self, folder: Path, spec: ForeignSpec, engine: EngineName) -> nn.Module:
        """Load the code and the weights, the weights in float32."""
        del engine
        (name,) = spec.files
        path = checked_file(folder, name)
        if not spec.trusted:
            raise WeightsError(
                "a TorchScript file holds code, which may read and write files; it runs only where you trust it",
                file=path,
                advice="If you trust whoever made it, add --trust",
            )
        try:
            with warnings.catch_warnings():
                # PyTorch calls TorchScript deprecated, and goes on reading it.
                warnings.simplefilter("ignore")
                network = torch.jit.load(path, map_location="cpu")  # type: ignore[no-untyped-call]  # torch declares no types
        except (RuntimeError, ValueError, OSError) as exc:
            raise WeightsError(
                f"not a TorchScript file that can be read: {str(exc).splitlines()[0]}",
                file=path,
                advice="Save the network again with torch.jit.save",
            ) from exc
        # Weights in half precision refuse patches in float32, and a frozen module has no weights to convert.
        return cast("nn.Module", network.float())
