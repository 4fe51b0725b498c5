"""A worker runs one function: it takes a question as JSON text and returns the answer as JSON text.

Nothing heavy is imported before the settings of the worker's process are those that this program needs.
"""

from __future__ import annotations

import json
import os
import sys
import threading
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from magnet_cli.segmentation.cluster.carried_errors import carried
from magnet_cli.system.memory import keep_heap_steady
from magnet_cli.system.threads import wait_briefly

if TYPE_CHECKING:
    from collections.abc import MutableMapping

THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
"""Dask's nanny sets these variables, which limit the libraries of a worker to one thread."""
NO_LIMIT = 1 << 60
"""No worker reaches this limit of memory in bytes."""
_alone = threading.Lock()
"""A worker answers a question under this lock: threads and memory of a process are planned for one task at a time."""


def answer(text: str) -> str:
    """Answer a question, an object with the key `what` and the values that the named activity needs.

    Returns:
        The answer, or an object with the key `error`.
    """
    question: dict[str, Any] = json.loads(text)
    with _alone:
        _prepare_process(os.environ, apart=bool(question.get("apart")))
        from magnet_cli.segmentation.cluster.worker_session import ANSWERS  # noqa: PLC0415 - see above

        try:
            found = ANSWERS[question["what"]](question)
        except Exception as error:  # noqa: BLE001 - the exception is raised again where the run is coordinated
            found = {"error": carried(error, file=str(question.get("image", "")))}
    return json.dumps(found)


def _prepare_process(environment: MutableMapping[str, str], *, apart: bool) -> None:
    """Undo what Dask's nanny sets for arithmetic and memory, which the program plans itself."""
    if "torch" not in sys.modules:
        for name in THREADS:
            if environment.get(name) == "1":
                del environment[name]
        wait_briefly(environment)
    keep_heap_steady()
    lift_limits(_this_worker())
    if apart:
        # Ctrl-C in a terminal reaches all processes of a group, and the coordinator ends its workers itself.
        with suppress(OSError):
            os.setpgid(0, 0)


def _this_worker() -> object:
    from distributed import get_worker  # noqa: PLC0415 - an extra

    try:
        return get_worker()
    except ValueError:
        return None


def lift_limits(dask_worker: object) -> None:
    """Lift the limits of memory of a worker or a nanny of Dask, at which it would pause or be killed.

    Args:
        dask_worker: The worker or the nanny. Dask hands it in under this name where the function runs on a nanny.
    """
    manager: Any = getattr(dask_worker, "memory_manager", None)
    if manager is None or not manager.memory_limit:
        return
    manager.memory_limit = NO_LIMIT
