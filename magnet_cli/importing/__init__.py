"""Turning published checkpoints, and networks that other libraries saved, into bundles."""

from __future__ import annotations

from magnet_cli.importing.cascade_bundle import import_cascade
from magnet_cli.importing.magnet_bundle import Imported, ImportOptions, import_bundle
from magnet_cli.importing.network_bundle import ImportedNetwork, import_network
from magnet_cli.importing.orders import ORDERS, Order, OrderSample

__all__ = [
    "ORDERS",
    "ImportOptions",
    "Imported",
    "ImportedNetwork",
    "Order",
    "OrderSample",
    "import_bundle",
    "import_cascade",
    "import_network",
]
