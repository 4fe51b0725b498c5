"""The connection leads to a Dask cluster that runs already, or to workers that are started on this machine."""

from __future__ import annotations

import json
import logging
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from magnet_cli.errors import DeviceError, UsageError
from magnet_cli.options.parts import local_workers, refuse_open_address
from magnet_cli.system.threads import usable_cores

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import distributed
    from distributed import Client

CONNECTING = 15.0
"""A scheduler has to answer within this many seconds."""
LOCAL: dict[str, object] = {
    # The program plans threads and memory itself; see `worker_tasks`.
    "distributed.nanny.pre-spawn-environ": {},
    # A worker whose interpreter is busy for long is not lost.
    "distributed.scheduler.worker-ttl": None,
}
"""Workers that this program starts have these settings of Dask."""


@contextmanager
def connected(cluster: str | Path) -> Iterator[tuple[Client, Callable[[], None]]]:
    """Connect to the workers of a cluster, or start workers on this machine.

    Args:
        cluster: `local:N`, the address of a scheduler, or the file in which a scheduler has left its address.

    Yields:
        The client, and a function that ends the workers if they were started here.

    Raises:
        UsageError: Dask is not installed, or the scheduler can be reached by anybody.
        DeviceError: No scheduler answers.
    """
    try:
        import distributed  # noqa: PLC0415 - an extra
    except ImportError as exc:
        raise UsageError(
            "a cluster needs Dask's package distributed, which is not installed",
            advice="pip install 'magnet-cli[dask]'",
        ) from exc
    count = local_workers(str(cluster))
    _silence()
    with ExitStack() as stack:
        if count is not None:
            workers = stack.enter_context(_local(count))
            client = stack.enter_context(distributed.Client(workers, set_as_default=False))
            yield client, workers.close
            return
        address = _address(cluster)
        if address.startswith("tls:"):
            _check_certificates(address)
        try:
            client = stack.enter_context(distributed.Client(address, set_as_default=False, timeout=CONNECTING))
        # Dask raises RuntimeError where its configuration requires encryption and the address has none.
        except (OSError, ValueError, RuntimeError) as exc:
            raise DeviceError(
                "no Dask scheduler answers under this address",
                value=f"{address}: {exc}",
                advice="Start one with dask scheduler, and workers with dask worker",
            ) from exc
        # A scheduler that listens everywhere answers on loopback, too.
        refuse_open_address(str(client.scheduler_info()["address"]), "--cluster")
        yield client, lambda: None


def _silence() -> None:
    """Keep Dask from logging every worker that comes or goes. The run itself reports lost workers and schedulers."""
    names = [name for name in logging.root.manager.loggerDict if name.startswith("distributed.")]
    # Dask's configuration gives some of its modules levels of their own.
    for name in ("distributed", *names):
        logging.getLogger(name).setLevel(logging.CRITICAL)


@contextmanager
def _local(count: int) -> Iterator[distributed.LocalCluster]:
    import dask  # noqa: PLC0415 - an extra
    import distributed  # noqa: PLC0415 - an extra

    own = "127.0.0.1:0"
    with dask.config.set(LOCAL):
        try:
            cluster = distributed.LocalCluster(
                n_workers=count,
                threads_per_worker=max(1, usable_cores() // count),
                processes=True,
                host="127.0.0.1",
                dashboard_address=own,
                worker_dashboard_address=own,
                memory_limit=0,
                silence_logs=logging.CRITICAL,
            )
        except (OSError, RuntimeError) as exc:
            raise DeviceError(
                f"the {count} workers of this machine could not be started",
                value=str(exc),
                advice="Check its memory, or start fewer; the same command goes on from what is finished",
            ) from exc
        with cluster:
            yield cluster


def _check_certificates(address: str) -> None:
    """Check that Dask's configuration names certificates that can be read.

    Raises:
        UsageError: The configuration names none, or they cannot be read.
    """
    import distributed  # noqa: PLC0415 - an extra

    reason = "none is configured"
    try:
        found = distributed.Security().get_connection_args("client")["ssl_context"]
    except OSError as exc:
        found, reason = None, str(exc)
    if found is None:
        raise UsageError(
            f"a scheduler with TLS needs a certificate of its client: {reason}",
            value=address,
            advice="Name ca-file, client.cert and client.key below distributed.comm.tls in Dask's configuration",
        )


def _address(cluster: str | Path) -> str:
    """Return the address of a scheduler.

    Raises:
        UsageError: The file is missing or holds no address, or anybody can reach the address.
    """
    if not isinstance(cluster, Path):
        refuse_open_address(cluster, "--cluster")
        return cluster
    try:
        address = str(json.loads(cluster.read_bytes())["address"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as exc:
        raise UsageError(
            "the file holds no address of a Dask scheduler",
            file=cluster,
            advice="Name the file that dask scheduler --scheduler-file has written",
        ) from exc
    refuse_open_address(address, "--scheduler-file")
    return address
