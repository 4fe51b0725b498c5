"""What every test of a law runs under."""

from __future__ import annotations

import os

import pytest


def one_core(process: int = 0) -> set[int]:
    """In place of `os.sched_getaffinity`: patches this small only wait for each other on several cores."""
    del process
    return {0}


@pytest.fixture(autouse=True)
def _one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", one_core, raising=False)
