"""Answers of servers, which are read up to a number of bytes and no longer than a slow network takes."""

from __future__ import annotations

import asyncio
import os
import re
import time
from typing import TYPE_CHECKING

import aiohttp
from typing_extensions import override

from magnet_cli.errors import SourceError
from magnet_cli.system.closing import undone_on_failure
from magnet_cli.system.memory import format_bytes, parse_bytes

if TYPE_CHECKING:
    from aiohttp.connector import Connection

CONNECT_SECONDS = 10.0
READ_SECONDS = 30.0
"""Seconds without any data after which a server has failed."""
TOTAL_SECONDS = 1800.0
"""Longest time of one request, from its first byte to the last of the answer. Headers that come byte by byte end so."""
PATIENCE_SECONDS = 60.0
"""Seconds for which a server may send slowly, beyond those that the answer takes at `LEAST_SPEED`."""
LEAST_SPEED = 16 << 10
"""Bytes a second that a server has to send."""

MOST_BYTES = 512 << 20
"""Largest answer to a request for a whole file, such as a chunk of a zarr image or its metadata."""
UNDECLARED_BYTES = 32 << 20
"""Largest answer of that kind without a stated length. Such an answer may have no end."""
VARIABLE = "MAGNET_DOWNLOAD_LIMIT"
"""Environment variable with another largest answer, whether its length is declared or not."""


class BoundedResponse(aiohttp.ClientResponse):
    """An answer that is read up to what was asked for, and not for longer than a slow network takes."""

    @override
    async def start(self, connection: Connection) -> aiohttp.ClientResponse:
        """Wait for the status and the headers.

        Raises:
            TimeoutError: Status and headers do not come. After a preliminary status, such as 100, the client itself
                would wait as long as for a whole answer.
        """
        return await asyncio.wait_for(super().start(connection), PATIENCE_SECONDS)

    @override
    async def read(self) -> bytes:
        """Return the body.

        Raises:
            SourceError: The server sends more than was asked for, or too slowly.
        """
        if self._body is None:
            # After a failure the rest of the answer is still on the connection, which must not be reused.
            with undone_on_failure(self.close):
                self._body = await self._bounded()
        return self._body

    async def _bounded(self) -> bytes:
        asked, start = _asked(self.request_info.headers.get("Range", "")), time.monotonic()
        most = whole_limit(declared=self.content_length is not None) if asked is None else asked
        if (self.content_length or 0) > most:
            raise self._too_much(f"{self.content_length:,} bytes", most, asked)
        found = bytearray()
        async for part in self.content.iter_any():
            found += part
            if len(found) > most:
                raise self._too_much(f"over {most:,} bytes", most, asked)
            seconds = time.monotonic() - start
            if seconds > PATIENCE_SECONDS + len(found) / LEAST_SPEED:
                raise SourceError(
                    "the server sends too slowly",
                    value=f"{len(found):,} bytes in {seconds:.0f} s",
                    file=str(self.url),
                    advice=f"Download the file, or use a connection of {LEAST_SPEED >> 10} KiB a second or more",
                )
        return bytes(found)

    def _too_much(self, value: str, most: int, asked: int | None) -> SourceError:
        if asked is not None:
            rule, advice = "the server sends more than was asked for", f"At most {most:,} bytes are read here"
        elif self.content_length is None:
            rule = "the server sends an answer without a stated length that does not end"
            advice = f"At most {format_bytes(most)} are read of such an answer; set {VARIABLE}, to 2GiB for example"
        else:
            rule = "the file is too large to be read whole"
            advice = f"At most {format_bytes(most)} are read; set {VARIABLE}, to 2GiB for example"
        return SourceError(rule, value=value, file=str(self.url), advice=f"{advice}, or download the file")


def whole_limit(*, declared: bool) -> int:
    """Return how many bytes are read of a whole file at most.

    Args:
        declared: Whether the server says how long the file is.

    Raises:
        UsageError: The environment variable is not a size.
    """
    given = os.environ.get(VARIABLE, "")
    if given:
        return parse_bytes(given, option=VARIABLE)
    return MOST_BYTES if declared else UNDECLARED_BYTES


def _asked(range_header: str) -> int | None:
    """Return how many bytes a request asks for; None where it asks for a whole file."""
    found = re.fullmatch(r"bytes=(?:(\d+)-(\d+)|-(\d+))", range_header)
    if found is None:
        return None
    return int(found[3]) if found[3] else int(found[2]) - int(found[1]) + 1
