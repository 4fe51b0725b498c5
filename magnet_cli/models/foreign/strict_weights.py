"""Filling a network of another library with weights: exactly its own, and all of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from magnet_cli.errors import WeightsError
from magnet_cli.models.weights_file import COUNTER, check_tensors

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from torch import Tensor, nn


def fill_strictly(network: nn.Module, state: Mapping[str, Tensor], *, file: Path) -> None:
    """Give a network its weights, exactly those and all of them.

    Raises:
        WeightsError: Weights are missing or left over, have another shape, or are not finite.
    """
    wanted = network.state_dict()
    missing = [key for key in wanted if key not in state and key.rpartition(".")[2] != COUNTER]
    extra = [key for key in state if key not in wanted]
    if missing or extra:
        raise WeightsError(
            f"the weights do not fit the network: {len(missing)} are missing, {len(extra)} are left over",
            value=", ".join([*missing, *extra][:6]),
            file=file,
            advice="Take weights of this very network: random numbers in their place give a mask without meaning",
        )
    check_tensors(state, wanted, file=file)
    network.load_state_dict({**wanted, **state})
