"""Check every request to the page: its host, origin, URL path, files and size.

Gradio serves more URLs than this page needs, and it does not check requests. It opens any file that a request names,
fetches URLs, and answers other web pages if their host name points to this machine (DNS rebinding). All requests are
checked here first, so the tabs need no checks.
"""

from __future__ import annotations

import asyncio
import json
import re
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

LARGEST_UPLOAD = 20 * 2**20  # bytes per file
LARGEST_REQUEST = LARGEST_UPLOAD + 100_000  # bytes per request: one file and its form fields
LARGEST_TOTAL = 200_000_000  # total bytes of all uploads and results
SECONDS_TO_SEND = 60  # time limit for receiving a request body

API = "/gradio_api"
READABLE = re.compile(
    rf"/|/(assets|static|svelte)/.*|/(favicon\.ico|manifest\.json|config|theme\.css)|{API}/"
    r"(info|theme\.css|startup-events|queue/data|upload_progress|heartbeat/.*|file=.*|call/.*)",
    re.DOTALL,
)
WRITABLE = re.compile(rf"{API}/(queue/join|call/.*|cancel|reset|upload|component_server)/?")
FORMS = re.compile(rf"{API}/(upload|component_server)/?")  # these request bodies contain files; all others are JSON


class Refused(Exception):
    """A refused request, with an HTTP status and a one-line reason."""

    def __init__(self, status: int, reason: str):
        super().__init__(reason)
        self.status = status


class Guard:
    """ASGI middleware that passes only allowed requests to the page.

    Args:
        app: ASGI application of the page.
        folder: folder for uploads and results. Requests may read its files. Files that already exist are never deleted.
        port: port of the page.
    """

    def __init__(self, app: Any, folder: Path, port: int):
        self.app = app
        self.folder = folder.resolve()
        names = ("127.0.0.1", "localhost", "[::1]")
        self.hosts = {f"{name}:{port}" for name in names} | {name for name in names if port == 80}
        self.kept = set(self.folder.rglob("*"))
        self.reading = asyncio.Semaphore(4)  # limits memory use: request bodies are read into memory
        self.writing = asyncio.Lock()  # two uploads must not claim the same free space

    async def __call__(self, scope: dict, receive: Any, send: Any) -> None:
        """Answer a request, or refuse it with one line of text."""
        if scope["type"] == "lifespan":
            return await self.app(scope, receive, send)
        if scope["type"] != "http":  # the page uses no websockets
            return await send({"type": "websocket.close", "code": 1008})
        try:
            self.check_sender(scope)
            self.check_address(scope)
            # Remove proxy headers: there is no proxy, and gradio would build its URLs from them.
            headers = [(name, value) for name, value in scope["headers"] if not name.startswith(b"x-forwarded-")]
            scope = {**scope, "headers": headers}
            if scope["method"] != "POST":
                return await self.app(scope, receive, send)
            async with self.reading:
                body = await whole_body(scope, receive)
                form = FORMS.fullmatch(scope["path"])
                body = body if form else self.checked(body)
                async with self.writing:
                    self.make_room(len(body) if form else 0)
                    await self.app(scope, sent_at_once(body, receive), send)
        except Refused as refusal:
            text = str(refusal).encode()
            headers = [(b"content-type", b"text/plain; charset=utf-8"), (b"content-length", b"%d" % len(text))]
            await send({"type": "http.response.start", "status": refusal.status, "headers": headers})
            await send({"type": "http.response.body", "body": text if scope["method"] != "HEAD" else b""})

    def check_sender(self, scope: dict) -> None:
        """Raise Refused if a request names another host, or comes from another web page."""
        hosts = [value.decode("latin-1").lower() for name, value in scope["headers"] if name == b"host"]
        if len(hosts) != 1 or hosts[0] not in self.hosts:
            raise Refused(403, "wrong host: open this page at 127.0.0.1 and its own port")
        origins = {value.decode("latin-1").lower() for name, value in scope["headers"] if name == b"origin"}
        if not origins <= {f"http://{host}" for host in self.hosts}:
            raise Refused(403, "requests from other web pages are refused")

    def check_address(self, scope: dict) -> None:
        """Raise Refused if the URL path is unknown, or if it names a file outside the page's folder."""
        addresses = {"GET": READABLE, "HEAD": READABLE, "POST": WRITABLE}.get(scope["method"])
        if not addresses or not addresses.fullmatch(scope["path"]):
            raise Refused(404, "this page has no such URL path")
        _, is_file, file = scope["path"].partition(f"{API}/file=")
        if is_file:
            self.check_file(file)

    def check_file(self, path: Any) -> None:
        """Raise Refused if a path does not resolve to a location inside the page's folder."""
        try:
            inside = isinstance(path, str) and Path(path).resolve().is_relative_to(self.folder)
        except (OSError, ValueError, RuntimeError):  # path too long, null byte or symlink loop
            inside = False
        if not inside:
            raise Refused(403, "the file does not belong to this page; upload it first")

    def checked(self, body: bytes) -> bytes:
        """Check all files in a JSON body, and return a body that refers to them only by their paths."""
        try:
            value = json.loads(body)
        except (ValueError, RecursionError):
            raise Refused(400, "the request body is not valid JSON") from None
        for file in files_in(value):
            self.check_file(file.get("path"))
            file["url"] = None  # gradio would fetch or decode a URL instead of reading the path
            file["meta"] = {"_type": "gradio.FileData"}
        # Serialise the value again: if a key occurs twice, another parser might use the value that was not checked.
        return json.dumps(value).encode()

    def make_room(self, needed: int) -> None:
        """Delete the oldest files until there is space for `needed` more bytes."""
        found = []
        for path in self.folder.rglob("*"):
            try:
                status = path.lstat()
            except FileNotFoundError:
                continue
            if not stat.S_ISDIR(status.st_mode):
                found.append((status.st_mtime_ns, status.st_size, path))
        excess = sum(size for _, size, _ in found) + needed - LARGEST_TOTAL
        for _, size, path in sorted(found):
            if excess > 0 and path not in self.kept:
                path.unlink(missing_ok=True)
                excess -= size


def files_in(value: Any) -> Iterator[dict]:
    """Yield all JSON objects that the current or an older version of gradio would treat as files."""
    left = [value]
    while left:
        found = left.pop()
        if isinstance(found, dict) and ("path" in found or "url" in found):
            yield found
        left += found.values() if isinstance(found, dict) else found if isinstance(found, list) else ()


async def whole_body(scope: dict, receive: Any) -> bytes:
    """Return a request's body. Raises Refused if the declared or actual size is too large, or on a timeout."""
    too_large = Refused(413, f"request too large: send at most {LARGEST_UPLOAD >> 20} MB at a time")
    lengths = [int(value) for name, value in scope["headers"] if name == b"content-length" and value.isdigit()]
    if any(length > LARGEST_REQUEST for length in lengths):
        raise too_large
    body, more = bytearray(), True
    try:
        async with asyncio.timeout(SECONDS_TO_SEND):
            while more:
                message = await receive()
                if message["type"] != "http.request":
                    raise Refused(400, "the connection was closed before the request was complete")
                body += message.get("body", b"")
                more = message.get("more_body", False)
                if len(body) > LARGEST_REQUEST:
                    raise too_large
    except TimeoutError:
        raise Refused(408, f"the request did not arrive within {SECONDS_TO_SEND} s") from None
    return bytes(body)


def sent_at_once(body: bytes, receive: Any) -> Any:
    """Return a `receive` function that first returns `body`, then later messages, such as a disconnect."""
    messages = iter([{"type": "http.request", "body": body, "more_body": False}])

    async def next_message() -> dict:
        return next(messages, None) or await receive()

    return next_message
