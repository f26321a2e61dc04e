"""An HTTP server on the loopback address that serves a folder by ranges, counts, and misbehaves as it is told."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

from aiohttp import web

CHUNK = 2**14


@dataclass
class Request:
    """A request, and what was sent for it."""

    number: int
    """From 0, among all requests."""
    method: str
    path: str
    """Below the server's root, with the query."""
    begin: int = 0
    end: int = 0
    sent: int = 0
    """Bytes of the body."""
    login: str = ""
    """The header Authorization."""


@dataclass(frozen=True)
class Fault:
    """What a server does in place of what it should."""

    status: int | None = None
    """Answers with this status alone."""
    headers: dict[str, str] = field(default_factory=dict)
    cut: int | None = None
    """Sends so many bytes of the body, and closes the connection."""
    whole: bool = False
    """Sends the whole file, whatever the range."""
    stall: bool = False
    """Sends nothing, until the server is closed."""


@dataclass
class RangeServer:
    """Serves a folder, as a context manager. Folders are pages of links, with the other links that such pages have."""

    root: Path
    rate: float | None = None
    """Bytes that all answers together send in a second, at most."""
    fault: Callable[[Request], Fault | None] = lambda request: None
    """Says for each GET of a file what goes wrong."""
    heads: bool = True
    """Whether HEAD is answered, and not by 403, as signed links do."""
    folders: tuple[int, str] | None = None
    """Status and page that folders are answered with, in place of their links."""
    missing: int = 404
    """The status for what is not there."""
    requests: list[Request] = field(default_factory=list)
    most_in_flight: int = 0
    """As many GETs have been answered at a time."""

    def __enter__(self) -> RangeServer:
        self._in_flight = 0
        self._free_at = 0.0
        self._loop = asyncio.new_event_loop()
        started = threading.Event()
        self._thread = threading.Thread(target=self._serve, args=(started,), daemon=True)
        self._thread.start()
        started.wait()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._loop.call_soon_threadsafe(self._closing.set)
        self._thread.join()

    @property
    def gets(self) -> list[Request]:
        """The GETs of files."""
        return [one for one in self.requests if one.method == "GET" and not one.path.endswith("/")]

    @property
    def sent(self) -> int:
        """Bytes of files that were sent."""
        return sum(one.sent for one in self.gets)

    def forget(self) -> None:
        """Counts from zero again."""
        self.requests.clear()
        self.most_in_flight = 0

    def _serve(self, started: threading.Event) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_until_complete(self._run(started))
        self._loop.close()

    async def _run(self, started: threading.Event) -> None:
        self._closing = asyncio.Event()
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", self._answer)
        runner = web.AppRunner(app, shutdown_timeout=0.1, handler_cancellation=True)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        host, port = runner.addresses[0]
        self.url = f"http://{host}:{port}"
        started.set()
        await self._closing.wait()
        await runner.cleanup()

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        one = Request(
            len(self.requests), request.method, request.path_qs, login=request.headers.get("Authorization", "")
        )
        self.requests.append(one)
        path = self.root / request.match_info["path"]
        if path.is_dir() and self.folders:
            return web.Response(status=self.folders[0], text=self.folders[1], content_type="text/html")
        if path.is_dir():
            links = (f'<a href="{item.name}{"/" * item.is_dir()}">{item.name}</a>' for item in sorted(path.iterdir()))
            more = '<a href="?C=N;O=D">Name</a> <a href="/">Up</a> <a href="../">Up</a> <a href="#top">Top</a>'
            return web.Response(text=f"<html>{more} {' '.join(links)}</html>", content_type="text/html")
        if request.method == "HEAD" and not (self.heads and (path.is_file() or self.missing == 404)):
            return web.Response(status=403)
        fault = (self.fault(one) if request.method == "GET" else None) or Fault()
        if fault.stall:
            await self._closing.wait()
        if fault.status or not path.is_file():
            return web.Response(status=fault.status or self.missing, headers=fault.headers)
        self._in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self._in_flight)
        try:
            return await self._send(request, one, path, fault)
        finally:
            self._in_flight -= 1

    async def _send(self, request: web.Request, one: Request, path: Path, fault: Fault) -> web.StreamResponse:
        status = path.stat()
        size, etag = status.st_size, f'"{status.st_mtime_ns:x}-{status.st_size:x}"'
        asked = slice(None) if fault.whole else request.http_range
        one.begin, one.end, _ = asked.indices(size)
        headers: dict[str, str] = {"ETag": etag, "Accept-Ranges": "bytes"}
        if asked.start is not None and asked.start >= size:
            return web.Response(status=416, headers={"Content-Range": f"bytes */{size}"})
        is_part = asked.start is not None
        if is_part:
            headers["Content-Range"] = f"bytes {one.begin}-{one.end - 1}/{size}"
        response = web.StreamResponse(status=206 if is_part else 200, headers=headers)
        response.content_length = one.end - one.begin
        await response.prepare(request)
        if request.method == "GET":
            await self._send_body(request, response, one, path, fault.cut)
        return response

    async def _send_body(self, request: web.Request, response: Any, one: Request, path: Path, cut: int | None) -> None:
        with path.open("rb") as file:
            file.seek(one.begin)
            while one.sent < one.end - one.begin:
                if cut is not None and one.sent >= cut:
                    assert request.transport
                    request.transport.close()
                    return
                most = min(CHUNK, one.end - one.begin - one.sent, CHUNK if cut is None else cut - one.sent)
                data = file.read(most)
                await self._wait(len(data))
                one.sent += len(data)  # before it is written: who has read all of it may count at once
                await response.write(data)

    async def _wait(self, count: int) -> None:
        """Waits as a line would that all answers share."""
        if self.rate:
            self._free_at = max(self._free_at, time.monotonic()) + count / self.rate
            await asyncio.sleep(self._free_at - time.monotonic())
