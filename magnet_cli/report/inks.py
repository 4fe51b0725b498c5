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
"""The colours of methods, which colour-blind readers can distinguish too (Okabe and Ito)."""
INK = "#333333"
"""The colour of letters and axes."""
