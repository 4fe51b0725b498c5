"""Colours of pictures, so that a method looks the same in all of them."""

from __future__ import annotations

COLOURS = {
    "downsample": "#E69F00",
    "patch": "#56B4E9",
    "magnet-fast": "#009E73",
    "magnet": "#0072B2",
    "grnet": "#CC79A7",
    "grnet-local": "#D55E00",
    "cascadepsp": "#000000",
}
"""Of methods; told apart by colour-blind readers too (Okabe and Ito)."""
INK = "#333333"
"""Of letters and axes."""
