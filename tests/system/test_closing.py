"""A resource that was opened is closed or removed again where the work with it fails, and kept where it does not."""

from __future__ import annotations

import pytest

from magnet_cli.system.closing import undone_on_failure


@pytest.mark.parametrize("error", [ValueError("a bug"), KeyboardInterrupt(), MemoryError()])
def test_whatever_stops_a_block_undoes_it_once(error: BaseException) -> None:
    calls: list[str] = []
    with pytest.raises(type(error)), undone_on_failure(lambda: calls.append("undone")):
        raise error
    assert calls == ["undone"]


def test_a_block_that_ends_well_is_kept() -> None:
    calls: list[str] = []

    def returning() -> str:
        with undone_on_failure(lambda: calls.append("undone")):
            return "found"

    assert returning() == "found", "also where it returns from inside the block"
    assert calls == []
