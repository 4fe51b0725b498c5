"""Values are kept as text among the counts of a group, and as chunks of fields, bytes of equal weight together."""

from __future__ import annotations

import imagecodecs
import numpy as np
import pytest

from magnet_cli.masks import codec


def test_values_come_back_in_order() -> None:
    first, second = np.array([1, 65535], "<u2"), np.array([[7, 8], [9, 256]], "<u2")
    text = codec.encode_text([first, second])
    assert codec.decode_text(text, dtype="<u2").tolist() == [1, 65535, 7, 8, 9, 256]


@pytest.mark.parametrize("dtype", ["uint8", "float16", "float32"])
@pytest.mark.parametrize("shape", [(1, 1, 1), (5, 33, 40)])
def test_a_chunk_holds_the_bytes_of_each_weight_together(dtype: str, shape: tuple[int, int, int]) -> None:
    values = (np.random.default_rng(0).random((2, *shape)) * 200).astype(dtype)
    for chunk in (values[0], values.transpose(0, 1, 3, 2)[1].transpose(0, 2, 1), values[1, :, ::-1, ::-1]):
        data = codec.encode_chunk(chunk)
        raw = b"".join(chunk.tobytes()[byte :: chunk.itemsize] for byte in range(chunk.itemsize))
        assert imagecodecs.lz4_decode(data[1:], out=len(raw)) == raw
        # Journals of version 0.2.0 hold frames of zstd.
        for stored in (data, bytes(imagecodecs.zstd_encode(raw, level=1))):
            found = codec.decode_chunk(stored, shape=shape, dtype=dtype)
            assert found.dtype == dtype
            assert np.array_equal(found, chunk)
