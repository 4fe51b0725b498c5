"""S3 with answers of bounded length and time."""

from __future__ import annotations

import asyncio
from typing import Any

from aiobotocore.httpsession import AIOHTTPSession
from s3fs import S3FileSystem

from magnet_cli.images import bounded_response as bounds


class BoundedSession(AIOHTTPSession):  # type: ignore[misc]  # the library has no types
    """The connections of the client of S3, whose answers are read as those of other servers are."""

    async def _get_session(self, proxy_url: str) -> Any:
        session = await super()._get_session(proxy_url)
        session._response_class = bounds.BoundedResponse  # noqa: SLF001 (the client makes the session without arguments)
        return session


class WholeBody:
    """The body of an object, read at once.

    Args:
        response: The answer.
    """

    def __init__(self, response: bounds.BoundedResponse) -> None:
        self._response = response

    async def read(self) -> bytes:
        """Return the body.

        Raises:
            SourceError: The server sends more than was asked for, or too slowly.
        """
        return await self._response.read()

    def close(self) -> None:
        """Give up the rest of the answer."""
        self._response.close()


class BoundedS3(S3FileSystem):  # type: ignore[misc]  # the library has no types
    """The file system of S3. No request takes longer than `TOTAL_SECONDS`."""

    def __init__(self, **settings: Any) -> None:
        config = {**settings.pop("config_kwargs", {}), "http_session_cls": BoundedSession}
        super().__init__(config_kwargs=config, **settings)

    async def _call_s3(self, method: str, *args: Any, **more: Any) -> Any:
        answer = await asyncio.wait_for(super()._call_s3(method, *args, **more), bounds.TOTAL_SECONDS)
        if method == "get_object":
            answer["Body"] = WholeBody(answer["Body"].raw_stream)
        return answer
