"""The page as an ASGI application, under a secret address: it answers GET, and saves nothing but corrections."""

from __future__ import annotations

import json
import re
import secrets
from functools import partial
from importlib.resources import files
from typing import TYPE_CHECKING, Any

import anyio
from anyio import to_thread
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.routing import Route

from magnet_cli.errors import MagnetError, SourceError
from magnet_cli.report.viewer.label_tiles import FORMS, LabelStyle
from magnet_cli.report.viewer.mask_corrections import ChangedElsewhereError

if TYPE_CHECKING:
    from collections.abc import Callable

    from starlette.requests import Request
    from starlette.types import ASGIApp, Receive, Scope, Send

    from magnet_cli.report.viewer.exhibit import Exhibit
    from magnet_cli.report.viewer.mask_corrections import MaskCorrections
    from magnet_cli.report.viewer.pixel_tiles import EncodedTile

READERS = 4
"""Most tiles that are decoded at once, so that a fast scroll does not fill the memory."""
HOSTS = frozenset({"127.0.0.1", "localhost"})
"""Names of this machine in the header `Host`. Another name is a page elsewhere that had its own name resolve to this
machine (DNS rebinding). The port is free, because a tunnel may have another one at its near end."""
PAGE = {
    "": ("viewer.html", "text/html; charset=utf-8"),
    "viewer.css": ("viewer.css", "text/css; charset=utf-8"),
    "corrections.js": ("corrections.js", "text/javascript; charset=utf-8"),
    "viewer.js": ("viewer.js", "text/javascript; charset=utf-8"),
    "openseadragon.min.js": ("openseadragon/openseadragon.min.js", "text/javascript; charset=utf-8"),
}
"""Each address of a file of the page maps to the file in the package and its media type."""
OWN_STYLE = "sha256-9xTiqzfwFaL2SGb1rmr8gysEwVVjIvqWAgmZgqFqpEE="
"""OpenSeadragon 6.1.1 adds one CSS rule of this digest to the page, about the focus on touch screens."""
POLICY = (
    f"default-src 'none'; script-src 'self'; style-src 'self' '{OWN_STYLE}'; img-src 'self' data: blob:; "
    "connect-src 'self'; worker-src blob:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
"""The Content-Security-Policy lets the page load nothing from any other host."""
HEADERS = {
    "Content-Security-Policy": POLICY,
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
}
LONGEST_LIST = 256
LARGEST_BODY = 16 << 20
"""A request to change corrections has at most this many bytes."""
CORRECTIONS = "corrections"
NUMBER = re.compile(r"[0-9]{1,9}")


class Doorkeeper:
    """Refuses requests that name another host, lack the secret, or use another method than GET.

    POST is allowed for the addresses of corrections, and to this page alone: the browser names the origin of a request
    in a header that pages cannot change, and asks before it sends JSON to another origin.

    Args:
        application: The application that answers the others.
        secret: The first part of all addresses.
    """

    def __init__(self, application: ASGIApp, secret: str) -> None:
        self._application = application
        self._secret = secret

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        if scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
            return
        if scope["type"] != "http":
            return
        refusal = self._refusal(scope)
        await (self._application if refusal is None else refusal)(scope, receive, send)

    def _refusal(self, scope: Scope) -> Response | None:
        named = _headers(scope, b"host")
        if len(named) != 1 or host_name(named[0]) not in HOSTS:
            return _refused("This page is served to the machine that it runs on, by its own name.", 403)
        parts = str(scope["path"]).removeprefix("/").split("/")
        is_known = secrets.compare_digest(parts[0].encode(), self._secret.encode())
        is_changeable = is_known and len(parts) > 1 and parts[1] == CORRECTIONS
        if scope["method"] != "GET" and not (is_changeable and scope["method"] == "POST"):
            allowed = "GET, POST" if is_changeable else "GET"
            return PlainTextResponse("This page can only be read.", 405, {**HEADERS, "Allow": allowed})
        if not is_known:
            return _refused("There is no such page. The address is printed by magnet view.", 404)
        return _refusal_of_post(scope, named[0]) if scope["method"] == "POST" else None


def _refusal_of_post(scope: Scope, host: str) -> Response | None:
    """Return the answer to a request to change something that did not come from this page; None for one that did."""
    sites = _headers(scope, b"sec-fetch-site")
    if _headers(scope, b"origin") != [f"http://{host}"] or sites not in ([], ["same-origin"]):
        return _refused("Corrections are changed by this page alone.", 403)
    if _headers(scope, b"content-type") != ["application/json"]:
        return _refused("Corrections are sent as application/json.", 415)
    return None


def _headers(scope: Scope, wanted: bytes) -> list[str]:
    return [value.decode("latin-1") for name, value in scope["headers"] if name == wanted]


def host_name(header: str) -> str:
    """Return the name in a header `Host`, without its port."""
    name, colon, port = header.rpartition(":")
    return (name if colon and NUMBER.fullmatch(port) else header).lower()


def make_application(exhibit: Exhibit, secret: str) -> Doorkeeper:
    """Return the application that shows an exhibit.

    Args:
        exhibit: The image and masks that are shown. The caller closes it after the last request.
        secret: The first part of all addresses.
    """
    pages = _Pages(exhibit)
    routes = [
        Route(f"/{secret}", _to_folder),
        Route(f"/{secret}/state.json", pages.state),
        Route(f"/{secret}/changes.json", pages.changes),
        Route(f"/{secret}/at", pages.at),
        Route(f"/{secret}/{CORRECTIONS}/{{number:int}}", pages.corrections, methods=["GET"]),
        Route(f"/{secret}/{CORRECTIONS}/{{number:int}}", pages.correct, methods=["POST"]),
        Route(f"/{secret}/image/{{zoom:int}}/{{column:int}}/{{row:int}}", pages.image_tile),
        Route(f"/{secret}/mask/{{number:int}}/{{zoom:int}}/{{column:int}}/{{row:int}}", pages.mask_tile),
        Route(f"/{secret}/layer/{{number:int}}/{{zoom:int}}/{{column:int}}/{{row:int}}", pages.layer_tile),
        Route(f"/{secret}/{{name:path}}", _own_file),
    ]
    return Doorkeeper(Starlette(routes=routes), secret)


class _Pages:
    """Answers the requests that need the exhibit."""

    def __init__(self, exhibit: Exhibit) -> None:
        self._exhibit = exhibit
        self._readers = anyio.CapacityLimiter(READERS)

    async def state(self, request: Request) -> Response:
        """Answer with the facts about what is shown."""
        del request
        return _facts(self._exhibit.describe())

    async def changes(self, request: Request) -> Response:
        """Answer with what has changed of masks that are still being computed."""
        since = _numbers(request.query_params.get("since", ""))
        if since is None:
            return _refused("The parameter since is a list of whole numbers.", 400)
        try:
            found = await to_thread.run_sync(self._exhibit.changes, since, limiter=self._readers)
        except MagnetError as error:
            return _refused(str(error), 500)
        return _facts(found)

    async def at(self, request: Request) -> Response:
        """Answer with the labels and values of one pixel."""
        x, y = _number(request, "x"), _number(request, "y")
        if x is None or y is None:
            return _refused("A place is given by x and y, whole numbers of pixels.", 400)
        try:
            found = await to_thread.run_sync(self._exhibit.at, x, y, limiter=self._readers)
        except MagnetError as error:
            return _refused(str(error), 500)
        if found is None:
            return _refused("The place lies outside the image.", 404)
        return _facts(found)

    async def corrections(self, request: Request) -> Response:
        """Answer with the corrections of a mask."""
        return await self._corrected(request, lambda drawn: drawn.read())

    async def correct(self, request: Request) -> Response:
        """Replace the corrections of a mask, and answer with them."""
        body = bytearray()
        async for part in request.stream():
            body += part
            if len(body) > LARGEST_BODY:
                return _refused(f"Corrections have at most {LARGEST_BODY >> 20} MiB.", 413)
        try:
            asked = json.loads(body)
        except (ValueError, RecursionError):
            return _refused("The corrections are no JSON.", 400)
        return await self._corrected(request, lambda drawn: drawn.write(asked))

    async def _corrected(self, request: Request, act: Callable[[MaskCorrections], dict[str, object]]) -> Response:
        number = request.path_params["number"]
        known = self._exhibit.corrections
        drawn = known[number] if 0 <= number < len(known) else None
        if drawn is None:
            return _refused("There is no such mask, or its classes have no names.", 404)
        try:
            return _facts(await to_thread.run_sync(act, drawn, limiter=self._readers))
        except ChangedElsewhereError as error:
            return _refused(f"{error}", 409)
        except SourceError as error:
            return _refused(f"{error}", 400)
        except MagnetError as error:
            return _refused(f"{error}", 500)

    async def image_tile(self, request: Request) -> Response:
        """Answer with a tile of the image."""
        return await self._tile(partial(self._exhibit.image_tile, _place(request)))

    async def mask_tile(self, request: Request) -> Response:
        """Answer with a tile of a mask, or of the comparison of two masks."""
        style = _style(request)
        truth = _number(request, "truth")
        if style is None or ("truth" in request.query_params and truth is None):
            return _refused("The parameters are form, hidden, preview and truth.", 400)
        draw = partial(self._exhibit.mask_tile, request.path_params["number"], _place(request), style, truth=truth)
        return await self._tile(draw, is_lasting=self._is_lasting(request, truth))

    def _is_lasting(self, request: Request, truth: int | None) -> bool:
        """Return whether the address of a mask's tile will have the same labels later.

        The page names the version of each growing mask in which a tile has changed last, such as `v0=7`. A tile at an
        address without it changes while the mask grows.
        """
        involved = {request.path_params["number"], *(() if truth is None else (truth,))}
        growing = [number for number in involved if self._exhibit.is_growing(number)]
        return all(NUMBER.fullmatch(request.query_params.get(f"v{number}", "")) for number in growing)

    async def layer_tile(self, request: Request) -> Response:
        """Answer with a tile of a layer of values."""
        number = request.path_params["number"]
        is_lasting = not self._exhibit.is_growing_layer(number) or _number(request, "v") is not None
        return await self._tile(partial(self._exhibit.layer_tile, number, _place(request)), is_lasting=is_lasting)

    async def _tile(self, draw: Callable[[], EncodedTile | None], *, is_lasting: bool = True) -> Response:
        try:
            tile = await to_thread.run_sync(draw, limiter=self._readers)
        except MagnetError as error:
            return _refused(str(error), 500)
        if tile is None:
            return _refused("There is no such tile.", 404)
        # The address of a page is new for each start of the program, so lasting tiles never become outdated under it.
        kept = "private, max-age=3600" if is_lasting else "no-store"
        return Response(tile.data, media_type=tile.media, headers={**HEADERS, "Cache-Control": kept})


async def _own_file(request: Request) -> Response:
    """Answer with one of the page's own files; a name that is not listed is refused."""
    found = PAGE.get(request.path_params["name"])
    if found is None:
        return _refused("There is no such page.", 404)
    name, media = found
    data = files("magnet_cli.report.viewer").joinpath("page", *name.split("/")).read_bytes()
    return Response(data, headers={**HEADERS, "Content-Type": media, "Cache-Control": "no-cache"})


async def _to_folder(request: Request) -> Response:
    return RedirectResponse(f"{request.url.path}/", headers=HEADERS)


def _facts(values: dict[str, object]) -> Response:
    # Names of files and areas may hold lone surrogates, which JSON has escapes for and UTF-8 has not.
    headers = {**HEADERS, "Cache-Control": "no-store"}
    return Response(json.dumps(values, ensure_ascii=True), headers=headers, media_type="application/json")


def _refused(message: str, status: int) -> Response:
    return PlainTextResponse(message.encode("utf-8", "backslashreplace"), status, HEADERS)


def _place(request: Request) -> tuple[int, int, int]:
    parameters: dict[str, Any] = request.path_params
    return parameters["zoom"], parameters["column"], parameters["row"]


def _number(request: Request, name: str) -> int | None:
    text = request.query_params.get(name, "")
    return int(text) if NUMBER.fullmatch(text) else None


def _numbers(text: str) -> list[int] | None:
    """Return whole numbers between commas; None where the text is something else."""
    words = text.split(",") if text else []
    if len(words) > LONGEST_LIST or not all(NUMBER.fullmatch(word) for word in words):
        return None
    return [int(word) for word in words]


def _style(request: Request) -> LabelStyle | None:
    """Return the style that the parameters `form`, `hidden` and `preview` name; None where they are not understood."""
    form, hidden = request.query_params.get("form", "fill"), _numbers(request.query_params.get("hidden", ""))
    known = next((each for each in FORMS if each == form), None)
    preview = request.query_params.get("preview", "0")
    if known is None or hidden is None or preview not in ("0", "1"):
        return None
    return LabelStyle(form=known, hidden=frozenset(hidden), has_preview=preview == "1")
