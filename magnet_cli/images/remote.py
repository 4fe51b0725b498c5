"""Files behind a URL, read in parts: HTTP and S3 by fsspec, with a bounded block cache."""

from __future__ import annotations

import asyncio
import time
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import aiohttp
import fsspec
from fsspec.asyn import sync
from fsspec.caching import BlockCache
from zarr.core.sync import sync as zarr_sync

from magnet_cli.errors import SourceError
from magnet_cli.images import bounded_response as bounds
from magnet_cli.images.blob import Blob
from magnet_cli.images.failures import naming, needing
from magnet_cli.images.zarr_stores import BoundedRemoteStore

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from zarr.storage import FsspecStore

BLOCK_BYTES = 128 << 10
BLOCKS = 256
"""Blocks kept of one file: 32 MiB."""

DIRECT_BYTES = 4 * BLOCK_BYTES
"""A longer piece is fetched by one request of its own and not kept: the tiles decoded of it are."""

SIBLING_SECONDS = 5.0
"""Seconds to wait for a server's answer whether a file lies beside an image."""

ATTEMPTS = 3
PAUSE_SECONDS = 0.5
"""Seconds before the second attempt; the third waits twice as long."""

PARTIAL_CONTENT, NOT_FOUND, RANGE_NOT_SATISFIABLE, SERVER_ERROR = 206, 404, 416, 500
FORBIDDEN = (401, 403)
ABSENT = (*FORBIDDEN, NOT_FOUND, 410)
CHECK = "Check the address"


@dataclass(frozen=True, kw_only=True)
class Remote:
    """Facts that a server states about a file."""

    size: int
    version: str
    """ETag, else the time of the last change, else an empty text."""


class RemoteBlob(Blob):
    """A file behind a URL.

    Args:
        url: URL of the file.

    Raises:
        SourceError: The file does not exist, cannot be reached, or its server does not send parts of it.
    """

    resident_bytes = BLOCKS * BLOCK_BYTES

    def __init__(self, url: str) -> None:
        self._fs = filesystem(url)
        with reaching(url):
            found = probe(url, self._fs)
        super().__init__(url, found.size)
        self.version = found.version
        self._blocks = BlockCache(BLOCK_BYTES, self._fetch, found.size, BLOCKS)

    def close(self) -> None:
        """Drop the cached blocks."""
        self._blocks = BlockCache(BLOCK_BYTES, self._fetch, self.size, 1)

    def _bytes(self, offset: int, count: int) -> bytes:
        with reaching(self.name):
            # A large part would push everything else out of the cache and is not read twice.
            if count > DIRECT_BYTES:
                return self._fetch(offset, offset + count)
            # The method that fsspec's own files call: unlike them it has no position, so threads may share it.
            data: bytes = self._blocks._fetch(offset, offset + count)  # noqa: SLF001
            return data

    def _fetch(self, start: int, end: int) -> bytes:
        end = min(end, self.size)
        data: bytes = patiently(lambda: self._fs.cat_file(self.name, start=start, end=end))
        # A server may answer a range with less, for example after the file was replaced. Short data would decode to
        # garbage.
        if len(data) != end - start:
            raise SourceError(
                "the server sent another part than was asked for",
                value=f"{len(data)} bytes for {end - start}",
                file=self.name,
                advice="The file may have changed: start again",
            )
        return data


def filesystem(url: str, **options: Any) -> Any:
    """Return the fsspec file system of a URL.

    Args:
        url: Any address on it.
        options: Passed on to fsspec.

    Raises:
        SourceError: A package that it needs is not installed.
    """
    with needing("remote", url):
        scheme = url.partition("://")[0].lower()
        if scheme == "s3":
            from magnet_cli.images.s3 import BoundedS3  # noqa: PLC0415 (only of S3, and slow to import)

            return BoundedS3(**settings(url), **options)
        return fsspec.filesystem(scheme, **settings(url), **options)


def settings(url: str) -> dict[str, Any]:
    """Return what fsspec's file system of a URL is made with: timeouts, and how addresses are escaped.

    Raises:
        UsageError: The environment's limit of downloads is not a size.
    """
    bounds.whole_limit(declared=True)
    if url.lower().startswith("s3:"):
        timeouts = {"connect_timeout": bounds.CONNECT_SECONDS, "read_timeout": bounds.READ_SECONDS}
        return {"config_kwargs": {**timeouts, "retries": {"max_attempts": ATTEMPTS}}}
    client = {
        "timeout": _timeout(bounds.TOTAL_SECONDS),
        "response_class": bounds.BoundedResponse,
        # A compressed answer may unpack to any size.
        "auto_decompress": False,
        # Ranges count the file's own bytes, not those of a compressed answer.
        "headers": {"Accept-Encoding": "identity"},
        "trust_env": True,
    }
    # An address that has escapes is taken as it is: to escape a signed one again would break its signature.
    return {"client_kwargs": client, "encoded": "%" in url}


def _timeout(total: float) -> aiohttp.ClientTimeout:
    return aiohttp.ClientTimeout(total=total, sock_connect=bounds.CONNECT_SECONDS, sock_read=bounds.READ_SECONDS)


@dataclass(frozen=True, kw_only=True)
class Siblings:
    """Answers of a server about files whose names it was asked for."""

    sizes: dict[str, int]
    """Sizes in bytes of the files that are there, by name."""
    versions: dict[str, str]
    """Versions of the files that are there, as `Remote.version`, by name."""
    failures: dict[str, list[str]]
    """Names of files of which it is unknown whether they are there, by reason."""


def siblings(urls: Mapping[str, str]) -> Siblings:
    """Ask whether files are there, by one request for the first byte of each, all at once and once.

    Statuses 401, 403, 404 and 410 mean that a file is not there: stores without a right to list answer so.

    Args:
        urls: URLs of the files, all on one server, by name.
    """
    found = Siblings(sizes={}, versions={}, failures={})
    if not urls:
        return found
    fs = filesystem(next(iter(urls.values())))
    ask = _s3_states if "s3" in fs.protocol else _http_states
    for name, answer in zip(urls, sync(fs.loop, ask, fs, list(urls.values())), strict=True):
        if isinstance(answer, Remote):
            found.sizes[name], found.versions[name] = answer.size, answer.version
        elif answer is not None:
            found.failures.setdefault(_reason(answer) or type(answer).__name__, []).append(name)
    return found


async def _http_states(fs: Any, urls: Sequence[str]) -> list[Remote | Exception | None]:
    session = await fs.set_session()
    expected: tuple[type[Exception], ...] = (OSError, *failures())

    async def state(url: str) -> Remote | Exception | None:
        limit = aiohttp.ClientTimeout(total=SIBLING_SECONDS)
        try:
            # Only a request for a part of a file shows whether its server sends parts.
            async with session.get(fs.encode_url(url), headers={"Range": "bytes=0-0"}, timeout=limit) as response:
                return _http_state(response)
        except TimeoutError:
            return OSError(f"no answer within {SIBLING_SECONDS:g} s")
        except expected as error:
            return error

    return await asyncio.gather(*map(state, urls))


def _http_state(response: aiohttp.ClientResponse) -> Remote | None:
    """Return the facts about a file that an answer states; None where the file is not there."""
    if response.status in ABSENT:
        return None
    if response.status != RANGE_NOT_SATISFIABLE:
        response.raise_for_status()
    total = response.headers.get("Content-Range", "").rpartition("/")[2]
    # Servers of pages answer any address with a page.
    if response.content_type == "text/html" or (response.status == RANGE_NOT_SATISFIABLE and total in ("0", "")):
        return None
    if response.status != PARTIAL_CONTENT or not total.isdigit():
        message = "the server does not send parts of it"
        raise OSError(message)
    return Remote(size=int(total), version=_version(response.headers))


async def _s3_states(fs: Any, urls: Sequence[str]) -> list[Remote | Exception | None]:
    expected: tuple[type[Exception], ...] = (OSError, *failures())

    async def state(url: str) -> Remote | Exception | None:
        try:
            facts = await asyncio.wait_for(fs._info(url), SIBLING_SECONDS)  # noqa: SLF001 (its asynchronous method)
        except (FileNotFoundError, PermissionError):
            return None
        except TimeoutError:
            return OSError(f"no answer within {SIBLING_SECONDS:g} s")
        except expected as error:
            return error
        version = str(facts.get("ETag") or facts.get("LastModified") or "")
        return Remote(size=int(facts["size"]), version=version) if facts["type"] == "file" else None

    return await asyncio.gather(*map(state, urls))


def beginning(url: str, count: int) -> bytes:
    """Return the first bytes of a file.

    Raises:
        SourceError: The file cannot be read.
    """
    if not count:
        return b""
    fs = filesystem(url)
    with reaching(url):
        data: bytes = patiently(lambda: fs.cat_file(url, start=0, end=count))
    return data


def files_under(folder: str) -> list[str]:
    """Return the URLs of all files below a folder of a bucket, sorted.

    Args:
        folder: URL of the folder, which begins with `s3://`.

    Raises:
        SourceError: The bucket cannot be reached, or does not exist.
    """
    fs = filesystem(folder)
    with reaching(folder):
        keys: list[str] = patiently(lambda: fs.find(folder, refresh=True))
    # The listing is not kept: it would hide files that are written beside an image from now on.
    fs.invalidate_cache()
    return [f"s3://{key}" for key in sorted(keys)]


def holds_any(folder: str, names: Iterable[str]) -> bool:
    """Return whether a folder behind a URL holds one of these files."""
    fs = filesystem(folder)
    with reaching(folder):
        return any(_is_there(fs, f"{folder.rstrip('/')}/{name}") for name in names)


def _is_there(fs: Any, url: str) -> bool:
    # fsspec's own test takes a server that is down for a file that is missing. What is asked for here is small.
    try:
        patiently(lambda: fs.cat_file(url))
    except (FileNotFoundError, IsADirectoryError):
        return False
    return True


def zarr_store(url: str) -> FsspecStore:
    """Return the zarr store of a folder behind a URL; `close_session` ends its connections."""
    # zarr runs the file system on an event loop of its own; an instance from fsspec's cache would belong to another
    # loop.
    fs = filesystem(url, asynchronous=True, skip_instance_cache=True)
    return BoundedRemoteStore(fs, read_only=True, path=fs._strip_protocol(url.rstrip("/")))  # noqa: SLF001 (as zarr does)


def close_session(store: FsspecStore) -> None:
    """End the connections of a zarr store: fsspec does so by itself for synchronous file systems only."""
    session, client = getattr(store.fs, "_session", None), getattr(store.fs, "_s3creator", None)
    if isinstance(session, aiohttp.ClientSession):
        zarr_sync(session.close())
    if client is not None:
        zarr_sync(client.__aexit__(None, None, None))


def probe(url: str, fs: Any) -> Remote:
    """Return the size and version of a file, by a request for its first byte.

    Raises:
        SourceError: The file is empty, or the server does not send parts of files.
        OSError, aiohttp.ClientError: As the server or the network fails.
    """
    if "s3" in fs.protocol:
        facts = patiently(lambda: fs.info(url))
        if facts["type"] != "file":
            raise SourceError("this is a folder, not a file", file=url, advice="Name a file or a zarr image in it")
        return Remote(size=int(facts["size"]), version=str(facts.get("ETag") or facts.get("LastModified") or ""))
    status, headers = patiently(lambda: sync(fs.loop, _first_byte, fs, url))
    total = headers.get("Content-Range", "").rpartition("/")[2]
    if status == RANGE_NOT_SATISFIABLE and total in ("0", ""):
        raise SourceError("the file is empty", file=url, advice="Upload it again")
    if status != PARTIAL_CONTENT or not total.isdigit():
        raise SourceError(
            "the server does not send parts of files (HTTP range requests), so this one cannot be read by region",
            value=f"status {status}",
            file=url,
            advice="Download the file, or move it to a server that does",
        )
    return Remote(size=int(total), version=_version(headers))


def _version(headers: Mapping[str, str]) -> str:
    return headers.get("ETag") or headers.get("Last-Modified") or ""


async def _first_byte(fs: Any, url: str) -> tuple[int, Mapping[str, str]]:
    session = await fs.set_session()
    limit = _timeout(bounds.PATIENCE_SECONDS)
    async with session.get(fs.encode_url(url), headers={"Range": "bytes=0-0"}, timeout=limit) as response:
        if response.status != RANGE_NOT_SATISFIABLE:
            response.raise_for_status()
        # The body is not read: a server that ignores the range would send all of the file.
        return response.status, response.headers


def patiently(request: Callable[[], Any]) -> Any:
    """Return what a request gives, tried again where the connection broke or the server was at fault for the moment."""
    for attempt in range(ATTEMPTS - 1):
        try:
            return request()
        except aiohttp.ClientResponseError as error:
            # Errors below 500 are answers: the same request would get them again.
            if error.status < SERVER_ERROR:
                raise
        except (aiohttp.ClientPayloadError, aiohttp.ServerDisconnectedError, ConnectionResetError):
            pass
        time.sleep(PAUSE_SECONDS * 2**attempt)
    return request()


def failures() -> tuple[type[Exception], ...]:
    """Return the exception types that the network raises besides `OSError`."""
    try:
        from botocore.exceptions import BotoCoreError, ClientError  # noqa: PLC0415 (only of S3, and slow to import)
    except ImportError:
        return (aiohttp.ClientError,)
    return (aiohttp.ClientError, BotoCoreError, ClientError)


@contextmanager
def reaching(url: str) -> Iterator[None]:
    """Return one plain sentence on why a URL cannot be read.

    Raises:
        SourceError: The block failed at the network or the server.
    """
    try:
        with naming(url, "the address cannot be read", advice=CHECK, also=failures()):
            yield
    except SourceError as error:
        known = _plain(error.__cause__, url)
        if known is None:
            raise
        raise known from error


def _plain(error: BaseException | None, url: str) -> SourceError | None:
    status, kind = getattr(error, "status", None), type(error).__name__
    if isinstance(error, FileNotFoundError) or status == NOT_FOUND:
        return SourceError("there is no such file", file=url, advice=CHECK)
    if isinstance(error, PermissionError) or status in FORBIDDEN or kind == "NoCredentialsError":
        return SourceError(
            "the server does not let you read this", value=_reason(error), file=url, advice="Check your credentials"
        )
    if isinstance(error, TimeoutError):
        return SourceError("the server did not answer in time", file=url, advice="Try again later")
    if isinstance(error, aiohttp.ClientConnectorError | ConnectionError) or kind == "EndpointConnectionError":
        return SourceError("the server cannot be reached", value=_reason(error), file=url, advice=CHECK)
    if status is not None:
        return SourceError("the server failed", value=_reason(error), file=url, advice="Try again later")
    return None


def _reason(error: BaseException | None) -> str:
    status, said = getattr(error, "status", None), getattr(error, "message", None)
    return f"HTTP {status} {said}" if status is not None else " ".join(str(error).split())
