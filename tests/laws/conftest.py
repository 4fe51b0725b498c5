"""Settings under which every test of a law runs."""

from __future__ import annotations

import os

import pytest


def one_core(process: int = 0) -> set[int]:
    """Replace `os.sched_getaffinity`, because threads of networks this small mostly wait for each other."""
    del process
    return {0}


@pytest.fixture(autouse=True)
def _one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", one_core, raising=False)
