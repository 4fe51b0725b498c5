"""Values are kept as text among the counts of a group."""

from __future__ import annotations

import numpy as np

from magnet_cli.masks import codec


def test_values_come_back_in_order() -> None:
    first, second = np.array([1, 65535], "<u2"), np.array([[7, 8], [9, 256]], "<u2")
    text = codec.encode_text([first, second])
    assert codec.decode_text(text, dtype="<u2").tolist() == [1, 65535, 7, 8, 9, 256]
