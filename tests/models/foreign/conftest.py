"""Networks from other libraries are measured in the tests' process, because another process takes seconds to start."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from magnet_cli.models.foreign import measurement

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="session", autouse=True)
def _measured_here() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(measurement, "measured", measurement.measured_here)
        yield
