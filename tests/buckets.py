"""A server of buckets on this machine, and a network to it that fails where a test wants it to.

The server is moto's, which imitates one. `MAGNET_TEST_S3` names the endpoint of a real service instead, for which the
environment has AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY: the tests make a bucket there and remove it again.
"""

from __future__ import annotations

import os
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

import pytest

from magnet_cli.system.bucket import Bucket

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

NAME = "magnet-tests"
ENDPOINT = os.environ.get("MAGNET_TEST_S3")


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
    """A bucket on the server, read by a client that is independent of the program.

    Args:
        client: The client of botocore.
        network: The network of the program's own client.
        connected: Returns another client of the program, with a network of its own.
    """

    def __init__(self, client: Any, network: Network, connected: Callable[[], tuple[Bucket, Network]]) -> None:
        self.client = client
        self.network = network
        self.connected = connected

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


def connect(name: str) -> tuple[Bucket, Network]:
    """Return the program's client of a bucket, and its network."""
    bucket: Bucket = OPEN(Bucket, name)
    session = bucket._client._endpoint.http_session
    send = session.send
    network = Network(send if ENDPOINT else lambda request: _sent_to_moto(bucket, request, send))
    session.send = network.send
    return bucket, network


NO_UPLOAD = "<Error><Code>NoSuchUpload</Code><Message>none</Message></Error>"
OPEN = Bucket.open.__func__  # type: ignore[attr-defined]  # of the class method


def _sent_to_moto(bucket: Bucket, request: Any, send: Callable[[Any], Any]) -> Any:
    """Answer as a service does where moto does not.

    It completes an upload whatever the object is that the upload may replace, and fails at uploads that were aborted.
    """
    version = request.headers.get("If-Match")
    if request.method == "POST" and "uploadId" in request.url and version is not None:
        client = OPEN(Bucket, bucket.name)
        stored = client.state(request.url.partition(f"/{bucket.name}/")[2].partition("?")[0])
        if stored is None or stored.version != (version.decode() if isinstance(version, bytes) else version):
            return answer(412)
    found = send(request)
    return answer(404, xml=NO_UPLOAD) if found.status_code == 500 and "uploadId" in request.url else found


def answer(status: int, *, xml: str = "") -> Any:
    """Return an answer of a server as botocore gets it."""
    from botocore.awsrequest import AWSResponse  # noqa: PLC0415 (not installed everywhere)

    body = xml.encode()
    raw = type("Raw", (), {"stream": lambda *_, **__: iter([body]), "read": lambda *_: body})()
    return AWSResponse("http://host", status, {"ETag": '"e"'}, raw)


@contextmanager
def serving_buckets(patch: pytest.MonkeyPatch) -> Iterator[Store]:
    """Serve an empty bucket, which the program's own client reaches over a network that can break."""
    pytest.importorskip("botocore")
    import botocore.session  # noqa: PLC0415 (not installed everywhere)

    with ExitStack() as stack:
        if ENDPOINT:
            patch.setenv("AWS_ENDPOINT_URL", ENDPOINT)
            patch.setenv("AWS_DEFAULT_REGION", os.environ.get("AWS_DEFAULT_REGION", "us-east-1"))
        else:
            stack.enter_context(_moto(patch))
        client = botocore.session.get_session().create_client("s3")
        client.create_bucket(Bucket=NAME)
        made, network = connect(NAME)
        patch.setattr(Bucket, "open", classmethod(lambda cls, name: made if name == NAME else OPEN(cls, name)))
        # Pauses between attempts.
        patch.setattr("botocore.retries.standard.ExponentialBackoff.delay_amount", lambda *_: 0.0)
        store = Store(client, network, lambda: connect(NAME))
        yield store
        if ENDPOINT:
            store.clear()
            client.delete_bucket(Bucket=NAME)


@contextmanager
def _moto(patch: pytest.MonkeyPatch) -> Iterator[None]:
    pytest.importorskip("moto.server")
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
        yield
    finally:
        forget_services()
        service.stop()
