"""Turning published MagNet and CascadePSP checkpoints into bundles."""

from __future__ import annotations

from magnet_cli.importing.cascade import import_cascade
from magnet_cli.importing.making import Imported, ImportOptions, import_bundle
from magnet_cli.importing.orders import ORDERS, Order, Sample

__all__ = ["ORDERS", "ImportOptions", "Imported", "Order", "Sample", "import_bundle", "import_cascade"]
