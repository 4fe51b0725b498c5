"""A bundle may state more memory than a gigabyte, and no side or count of ten digits."""

from __future__ import annotations

import pytest

from magnet_cli.models.foreign.foreign_spec import PassMemory
from magnet_cli.models.schema import RefusedTableError, checked


def test_bytes_have_more_digits_than_sides() -> None:
    assert checked(PassMemory, {"batch": 1, "bytes": 3_000_000_000}).bytes == 3_000_000_000
    with pytest.raises(RefusedTableError, match="batch must be at most 999999999"):
        checked(PassMemory, {"batch": 10**9, "bytes": 1})
