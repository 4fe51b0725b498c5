"""The server of the page: uvicorn on loopback, on a free port, under an address with a secret."""

from __future__ import annotations

import secrets
import socket
from typing import TYPE_CHECKING

from magnet_cli.errors import OutputError, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable

    from magnet_cli.report.viewer.exhibit import Exhibit

LOOPBACK = "127.0.0.1"
SECRET_BYTES = 24


def check_packages() -> None:
    """Check that the packages which serve the page are installed.

    Raises:
        UsageError: A package is missing.
    """
    try:
        import starlette  # noqa: F401, PLC0415 - an extra
        import uvicorn  # noqa: F401, PLC0415 - an extra
    except ImportError as error:
        raise UsageError(
            "the page is served by packages that are not installed",
            value=f"no {error.name}",
            advice="Install what is missing: pip install 'magnet-cli[view]'",
        ) from error


def serve(exhibit: Exhibit, *, port: int, ready: Callable[[str], None]) -> None:
    """Serve a page until the process is interrupted.

    Args:
        exhibit: The image and the masks that the page shows.
        port: The port on loopback; 0 takes a free one.
        ready: Receives the address once it can be opened.

    Raises:
        OutputError: The port is taken, or may not be used.
        KeyboardInterrupt: The process was interrupted; no request is being answered any more.
    """
    check_packages()
    import uvicorn  # noqa: PLC0415 - an extra

    from magnet_cli.report.viewer.application import make_application  # noqa: PLC0415 - an extra

    secret = secrets.token_urlsafe(SECRET_BYTES)
    with _bound(port) as listener:
        config = uvicorn.Config(
            make_application(exhibit, secret),
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            lifespan="off",
            ws="none",
            timeout_graceful_shutdown=1,
        )
        # The socket listens already, so that a browser which opens the address at once waits instead of failing.
        listener.listen()
        ready(f"http://{LOOPBACK}:{listener.getsockname()[1]}/{secret}/")
        uvicorn.Server(config).run(sockets=[listener])


def _bound(port: int) -> socket.socket:
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    try:
        # A port whose last connections are still being closed can be used again, as after a restart.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((LOOPBACK, port))
    except OSError as error:
        listener.close()
        raise OutputError(
            "the port cannot be used",
            value=f"--port {port}: {error.strerror}",
            advice="Choose another port, or leave --port out",
        ) from error
    return listener
