"""Objects of an S3 bucket are written whole or not at all, recognised by their tags, and removed.

The client is botocore's, which comes with the readers of `s3://` addresses and finds the same credentials. Uploads are
made of its single requests, because a streamed file of fsspec is published in part where its writer fails.
"""

from __future__ import annotations

import base64
import hashlib
import re
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from magnet_cli.errors import OutputError, UsageError
from magnet_cli.system.working_files import working_file

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

WORK = Path("magnet-work")
"""Outputs for buckets are made in this folder where no other is named."""
PART_BYTES = 8 << 20
"""Parts have this many bytes where `MOST_PARTS` of them suffice. Files up to this size are written by one request."""
MOST_PARTS = 10_000
"""An object has at most this many parts (Amazon S3's limit)."""
CONNECT_SECONDS, READ_SECONDS, ATTEMPTS = 10.0, 60.0, 4
COPIED = 1 << 20
"""This many bytes of an object are copied to a file at a time."""
NAME = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")
ABSENT = ("404", "NoSuchKey", "NotFound")
NO_BUCKET = (*ABSENT, "NoSuchBucket")
HIDDEN = ("403", "AccessDenied", "501", "NotImplemented")
"""A service that answers with one of these does not say whether a bucket exists, and may still take objects."""
REFUSED_CONDITION = ("PreconditionFailed", "412", "ConditionalRequestConflict", "409")
NO_UPLOAD = "NoSuchUpload"
UNKNOWN_REQUEST = ("NotImplemented", "501", "MethodNotAllowed", "405", "AccessDenied", "403")
EXTRA = "Install what it needs: pip install 'magnet-cli[remote]'"
AGAIN = "Run the same command again: it goes on where this one stopped"


@dataclass(frozen=True, kw_only=True)
class StoredObject:
    """A stored object is described by its size and the tags of its writer."""

    size: int
    version: str
    """The text by which the service tells contents apart (ETag)."""
    tags: Mapping[str, str]
    """The texts that its writer stored with it, by name (user-defined metadata)."""


class ChangedObjectError(OutputError):
    """Another program has changed or removed an object since this program read its state to replace it."""


def unchecked() -> None:
    """Allow each object to be written: the check of a caller that has none."""


class Bucket:
    """A bucket of an S3 service. Several threads may use it at once.

    Args:
        name: The name of the bucket.
        client: The client of botocore for S3.
    """

    def __init__(self, name: str, client: Any) -> None:
        self.name = name
        self._client = client

    @classmethod
    def open(cls, name: str) -> Bucket:
        """Return a bucket, with the endpoint and the credentials that the environment and the files of AWS name.

        Raises:
            UsageError: The name is none that a bucket can have, or the packages for S3 are not installed.
            OutputError: The configuration of AWS cannot be used.
        """
        if not NAME.fullmatch(name):
            # The name is not shown, because the part before an @ may be a password.
            raise UsageError(
                "an output in a bucket is written s3://BUCKET/FOLDER/, with a bucket's name of 3 to 63 small letters, "
                "digits, dots and hyphens",
                advice="Give credentials in the environment or in the files of AWS, never in the address",
            )
        try:
            import botocore.session  # noqa: PLC0415 - an extra, and slow to import
            from botocore.config import Config  # noqa: PLC0415 - likewise
        except ImportError as error:
            raise UsageError("writing to s3:// needs packages that are not installed", advice=EXTRA) from error
        config = Config(
            connect_timeout=CONNECT_SECONDS,
            read_timeout=READ_SECONDS,
            retries={"total_max_attempts": ATTEMPTS, "mode": "standard"},
            # Checksums in trailers are unknown to many services; each request has its MD5, which all of them check.
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
        )
        with reaching(f"s3://{name}/"):
            try:
                return cls(name, botocore.session.get_session().create_client("s3", config=config))
            except ValueError:
                # The value may hold a password.
                raise OutputError(
                    "the configuration of AWS cannot be used",
                    file=f"s3://{name}/",
                    advice="Check AWS_ENDPOINT_URL, which is written http://HOST:PORT or https://HOST",
                ) from None

    def check(self) -> None:
        """Check that the bucket exists, as far as these credentials allow.

        Raises:
            OutputError: There is no such bucket, or the service fails.
        """
        with reaching(self.address("")):
            try:
                self._client.head_bucket(Bucket=self.name)
            except self._client.exceptions.ClientError as error:
                if code_of(error) in NO_BUCKET:
                    raise OutputError(
                        "there is no such bucket", file=self.address(""), advice="Check its name, and AWS_ENDPOINT_URL"
                    ) from None
                if code_of(error) not in HIDDEN:
                    raise

    def address(self, key: str) -> str:
        """Return the address of an object."""
        return f"s3://{self.name}/{key}"

    def state(self, key: str) -> StoredObject | None:
        """Return the facts about an object; None where there is none.

        Raises:
            OutputError: The service fails or refuses to answer.
        """
        with reaching(self.address(key)):
            try:
                found = self._client.head_object(Bucket=self.name, Key=key)
            except self._client.exceptions.ClientError as error:
                if code_of(error) in ABSENT:
                    return None
                raise
        return StoredObject(
            size=int(found["ContentLength"]), version=found["ETag"], tags=dict(found.get("Metadata") or {})
        )

    def keys(self, prefix: str) -> Iterator[str]:
        """Yield the keys of all objects that begin with a prefix, in order.

        Raises:
            OutputError: The service fails or refuses to answer.
        """
        yield from (key for key, _ in self.versions(prefix))

    def versions(self, prefix: str) -> Iterator[tuple[str, str]]:
        """Yield the key and the version of each object whose key begins with a prefix, in the order of keys.

        Raises:
            OutputError: The service fails or refuses to answer.
        """
        after: dict[str, str] = {}
        while True:
            with reaching(self.address(prefix)):
                page = self._client.list_objects_v2(Bucket=self.name, Prefix=prefix, **after)
            yield from ((entry["Key"], entry["ETag"]) for entry in page.get("Contents", ()))
            if not page.get("IsTruncated"):
                return
            after = {"ContinuationToken": page["NextContinuationToken"]}

    def content(self, key: str, most: int) -> bytes:
        """Return the bytes of an object.

        Args:
            key: The key of the object.
            most: The largest size in bytes that is read.

        Raises:
            OutputError: The object is larger, or cannot be read.
        """
        with reaching(self.address(key)):
            found = self._client.get_object(Bucket=self.name, Key=key)
            if found["ContentLength"] > most:
                found["Body"].close()
                raise OutputError(
                    "the object is larger than a file of this program that has its name",
                    file=self.address(key),
                    advice="Check the address: the object may belong to another program",
                )
            data: bytes = found["Body"].read()
        return data

    def fetch(self, key: str, path: Path) -> None:
        """Copy an object to a file, complete or not at all.

        Raises:
            OutputError: The object cannot be read, or the file cannot be written.
        """
        with reaching(self.address(key)), working_file(path) as file:
            body = self._client.get_object(Bucket=self.name, Key=key)["Body"]
            while data := body.read(COPIED):
                file.write(data)

    def put(
        self,
        key: str,
        path: Path,
        tags: Mapping[str, str],
        *,
        replaces: StoredObject | None,
        check: Callable[[], None] = unchecked,
    ) -> str:
        """Write a file as an object, which appears complete or not at all, and return its version.

        Args:
            key: The key of the object.
            path: The file, which does not change meanwhile.
            tags: ASCII texts that are stored with the object, by name.
            replaces: The object that may be replaced. None replaces none.
            check: Is called directly before the object appears. What it raises ends the writing.

        Raises:
            ChangedObjectError: Another program has written or removed the object meanwhile.
            OutputError: The service fails or refuses the request.
        """
        where = {"Bucket": self.name, "Key": key}
        with reaching(self.address(key)):
            size = path.stat().st_size
            if size <= PART_BYTES:
                body = path.read_bytes()
                check()
                return self.put_bytes(key, body, tags, replaces=replaces)
            self._abort_left(key)
            upload = {
                **where,
                "UploadId": self._client.create_multipart_upload(**where, Metadata=dict(tags))["UploadId"],
            }
            try:
                parts = list(self._parts(path, upload, max(PART_BYTES, -(-size // MOST_PARTS))))
                check()
                complete = {**upload, "MultipartUpload": {"Parts": parts}}
                return self._publish(self._client.complete_multipart_upload, complete, tags, replaces)
            except self._client.exceptions.ClientError as error:
                self._abort(upload)
                if code_of(error) == NO_UPLOAD:
                    # Another command has begun to write the object, and has aborted this upload as one that is left.
                    raise self._changed(key) from None
                raise
            except BaseException:  # The service charges for parts that nobody joins, also after Ctrl-C.
                self._abort(upload)
                raise

    def put_bytes(self, key: str, body: bytes, tags: Mapping[str, str], *, replaces: StoredObject | None) -> str:
        """Write bytes as an object by one request, and return its version.

        Args:
            key: The key of the object.
            body: The bytes of the object.
            tags: ASCII texts that are stored with the object, by name.
            replaces: The object that may be replaced. None replaces none.

        Raises:
            ChangedObjectError: Another program has written or removed the object meanwhile.
            OutputError: The service fails or refuses the request.
        """
        request = {"Bucket": self.name, "Key": key, "Metadata": dict(tags), "Body": body, "ContentMD5": _md5(body)}
        with reaching(self.address(key)):
            return self._publish(self._client.put_object, request, tags, replaces)

    def remove(self, objects: Mapping[str, StoredObject]) -> None:
        """Remove objects; those that are not there any more are passed over.

        Args:
            objects: The objects by key. Where the service knows conditional requests, no other version is removed.

        Raises:
            ChangedObjectError: Another program has written one of the objects meanwhile.
            OutputError: The service fails or refuses the request.
        """
        for key, found in objects.items():
            # Services other than Amazon's want other checksums of a request that removes several.
            where = {"Bucket": self.name, "Key": key}
            with reaching(self.address(key)):
                try:
                    try:
                        self._client.delete_object(**where, IfMatch=found.version)
                    except self._client.exceptions.ClientError as error:
                        if code_of(error) not in UNKNOWN_REQUEST[:2]:
                            raise
                        self._client.delete_object(**where)
                except self._client.exceptions.ClientError as error:
                    if code_of(error) in REFUSED_CONDITION:
                        raise self._changed(key) from None
                    if code_of(error) not in ABSENT:
                        raise

    def _parts(self, path: Path, upload: Mapping[str, str], step: int) -> Iterator[dict[str, object]]:
        with path.open("rb") as file:
            number = 0
            while data := file.read(step):
                number += 1
                answer = self._client.upload_part(**upload, PartNumber=number, Body=data, ContentMD5=_md5(data))
                # The name is deleted, or the next part would be read while this one is still in memory.
                del data
                yield {"PartNumber": number, "ETag": answer["ETag"]}

    def _publish(
        self,
        send: Callable[..., Any],
        request: Mapping[str, Any],
        tags: Mapping[str, str],
        replaces: StoredObject | None,
    ) -> str:
        """Make an object appear and return its version.

        Where the service supports conditional requests, it appears only if `replaces` is what it replaces.
        """
        condition = {"IfNoneMatch": "*"} if replaces is None else {"IfMatch": replaces.version}
        try:
            try:
                return str(send(**request, **condition)["ETag"])
            except self._client.exceptions.ClientError as error:
                if code_of(error) not in UNKNOWN_REQUEST[:2]:
                    raise
                return str(send(**request)["ETag"])
        except self._client.exceptions.ClientError as error:
            code = code_of(error)
            # An object that is not there any more has no version that could be the condition.
            is_gone = replaces is not None and code in ABSENT
            if code not in (*REFUSED_CONDITION, NO_UPLOAD) and not is_gone:
                raise
            # The answer to an earlier attempt may have been lost, and the object may be the one that was sent.
            found = self.state(request["Key"])
            if found is not None and found.tags == tags:
                return found.version
            if code == NO_UPLOAD:
                raise
            raise self._changed(request["Key"]) from error

    def _changed(self, key: str) -> ChangedObjectError:
        return ChangedObjectError(
            "another program has written this object since this command looked at it, so that it was not replaced",
            file=self.address(key),
            advice="Do not run two commands on one output at the same time",
        )

    def _abort_left(self, key: str) -> None:
        """Abort the uploads of an object that killed runs have left; a service may not let us list them."""
        try:
            # Uploads are sorted by key, so that those of this key come first of all that begin with it.
            page = self._client.list_multipart_uploads(Bucket=self.name, Prefix=key)
            left = [entry["UploadId"] for entry in page.get("Uploads", ()) if entry["Key"] == key]
        except self._client.exceptions.ClientError as error:
            if code_of(error) not in UNKNOWN_REQUEST:
                raise
            return
        for upload in left:
            self._abort({"Bucket": self.name, "Key": key, "UploadId": upload})

    def _abort(self, upload: Mapping[str, str]) -> None:
        from botocore.exceptions import BotoCoreError, ClientError  # noqa: PLC0415 - an extra, and slow to import

        # The earlier failure is the error to report.
        with suppress(ClientError, BotoCoreError):
            self._client.abort_multipart_upload(**upload)


def code_of(error: BaseException) -> str:
    """Return the code of an error that a service has answered with, else its status; empty for other exceptions."""
    answer = getattr(error, "response", None)
    if not isinstance(answer, dict):
        return ""
    status = answer.get("ResponseMetadata", {}).get("HTTPStatusCode", "")
    return str(answer.get("Error", {}).get("Code") or status)


def _md5(data: bytes) -> str:
    return base64.b64encode(hashlib.md5(data, usedforsecurity=False).digest()).decode()


@contextmanager
def reaching(address: str) -> Iterator[None]:
    """Turn failures of the service and of the network into one sentence.

    Raises:
        OutputError: The block failed at the service or the network.
    """
    from botocore.exceptions import BotoCoreError, ClientError  # noqa: PLC0415 - an extra, and slow to import

    try:
        yield
    except ClientError as error:
        # Only the code is shown, because the service's message may repeat the signed request.
        status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode")
        refused = code_of(error) in ("403", "AccessDenied", "InvalidAccessKeyId", "SignatureDoesNotMatch")
        raise OutputError(
            "the bucket refuses to read or write this object" if refused else "the service of the bucket failed",
            value=f"{code_of(error)}, HTTP {status}",
            file=address,
            advice="Check your credentials and the bucket's policy" if refused else AGAIN,
        ) from None
    except BotoCoreError as error:
        raise OutputError(
            "the service of the bucket cannot be used",
            value=f"{type(error).__name__}: {' '.join(str(error).split())}",
            file=address,
            advice=f"Check the endpoint and the credentials. {AGAIN}",
        ) from None
