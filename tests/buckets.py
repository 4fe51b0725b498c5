"""A server of buckets on this machine, and a network to it that fails where a test wants it to."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest

from magnet_cli.system.bucket import Bucket

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

NAME = "bucket"


class KilledError(BaseException):
    """The death of the process. No request after it reaches the server."""


class Network:
    """A network that counts the requests to the server and can fail.

    Args:
        send: Function that sends a request and returns the answer.
    """

    def __init__(self, send: Callable[[Any], Any]) -> None:
        self._send = send
        self.sent: list[str] = []
        """Method and path of each request since the last `reset`."""
        self.dies_at: int | None = None
        """Number, from 0, of the request before which the process dies."""
        self.fault: Callable[[str, Callable[[], Any]], Any] | None = None
        """Function that answers a request in place of the server, given method and path and a function that sends."""
        self.largest = 0
        """Largest number of bytes in the body of a request."""

    def reset(self) -> None:
        """Count from 0 again, and remove the fault."""
        self.sent, self.dies_at, self.fault = [], None, None

    def send(self, request: Any) -> Any:
        """Send a request, unless the process dies before it or the fault answers it."""
        if self.dies_at is not None and len(self.sent) >= self.dies_at:
            raise KilledError
        what = f"{request.method} {request.url.partition(f'/{NAME}')[2]}"
        self.sent.append(what)
        body = request.body
        if hasattr(body, "seek"):
            at = body.tell()
            self.largest = max(self.largest, body.seek(0, 2))
            body.seek(at)
        if self.fault is not None:
            return self.fault(what, lambda: self._send(request))
        return self._send(request)


class Store:
    """A bucket on the server, read by a client that is independent of the program."""

    def __init__(self, client: Any, network: Network) -> None:
        self.client = client
        self.network = network

    def objects(self) -> dict[str, bytes]:
        """Return the bytes of every object by its key."""
        return {key: self.client.get_object(Bucket=NAME, Key=key)["Body"].read() for key in self.keys()}

    def keys(self) -> list[str]:
        """Return the keys of all objects."""
        return [each["Key"] for each in self.client.list_objects_v2(Bucket=NAME).get("Contents", [])]

    def uploads(self) -> list[str]:
        """Return the keys of uploads that were neither completed nor aborted."""
        return [each["Key"] for each in self.client.list_multipart_uploads(Bucket=NAME).get("Uploads", [])]

    def clear(self) -> None:
        """Remove every object and every upload."""
        for key in self.keys():
            self.client.delete_object(Bucket=NAME, Key=key)
        for each in self.client.list_multipart_uploads(Bucket=NAME).get("Uploads", []):
            self.client.abort_multipart_upload(Bucket=NAME, Key=each["Key"], UploadId=each["UploadId"])


def forget_services() -> None:
    """Drop clients with their endpoints and the buckets of moto that earlier tests have left in this process."""
    from moto.moto_api._internal.models import moto_api_backend  # noqa: PLC0415 (not installed everywhere)

    from magnet_cli.images.s3 import BoundedS3  # noqa: PLC0415 (not installed everywhere)

    BoundedS3.clear_instance_cache()
    moto_api_backend.reset()


@contextmanager
def serving_buckets(patch: pytest.MonkeyPatch) -> Iterator[Store]:
    """Serve an empty bucket, which the program's own client reaches over a network that can break."""
    pytest.importorskip("botocore")
    pytest.importorskip("moto.server")
    import botocore.session  # noqa: PLC0415 (not installed everywhere)
    from moto.server import ThreadedMotoServer  # noqa: PLC0415 (not installed everywhere)

    service = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    service.start()
    try:
        host, port = service.get_host_and_port()
        patch.setenv("NO_PROXY", "127.0.0.1")
        for name, value in (
            ("ENDPOINT_URL", f"http://{host}:{port}"),
            ("ACCESS_KEY_ID", "OPENACCESSKEY"),
            ("SECRET_ACCESS_KEY", "HIDDENSECRET"),
            ("SESSION_TOKEN", "HIDDENTOKEN"),
            ("DEFAULT_REGION", "us-east-1"),
        ):
            patch.setenv(f"AWS_{name}", value)
        forget_services()
        client = botocore.session.get_session().create_client("s3")
        client.create_bucket(Bucket=NAME)
        network = Network(lambda _: None)
        whole = Bucket.open.__func__  # type: ignore[attr-defined]  # of the class method
        made = whole(Bucket, NAME)
        session = made._client._endpoint.http_session
        network._send = session.send
        session.send = network.send
        patch.setattr(Bucket, "open", classmethod(lambda cls, name: made if name == NAME else whole(cls, name)))
        # Pauses between attempts.
        patch.setattr("botocore.retries.standard.ExponentialBackoff.delay_amount", lambda *_: 0.0)
        yield Store(client, network)
    finally:
        forget_services()
        service.stop()
