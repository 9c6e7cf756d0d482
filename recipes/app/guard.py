"""What stands between the page and whoever can reach its port: who may ask, for what, and how much of it.

Gradio serves more than this page needs, and trusts what it is sent: it opens a file that a request names, fetches a
URL, and answers other web pages when a host name is pointed at this machine (DNS rebinding). All requests pass here
first, so that no tab has to check what it is given.
"""

from __future__ import annotations

import asyncio
import json
import re
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

LARGEST_UPLOAD = 20 * 2**20  # bytes of one file
LARGEST_REQUEST = LARGEST_UPLOAD + 100_000  # bytes of a whole request: one file, and the form around it
LARGEST_TOTAL = 200_000_000  # bytes of all files that the page holds, uploads and results
SECONDS_TO_SEND = 60  # for a request's body

API = "/gradio_api"
ASKED = re.compile(
    rf"/|/(assets|static|svelte)/.*|/(favicon\.ico|manifest\.json|config|theme\.css)|{API}/"
    r"(info|theme\.css|startup-events|queue/data|upload_progress|heartbeat/.*|file=.*|call/.*)",
    re.DOTALL,
)
SENT = re.compile(rf"{API}/(queue/join|call/.*|cancel|reset|upload|component_server)/?")
FORMS = re.compile(rf"{API}/(upload|component_server)/?")  # whose bodies are files; those of the others are JSON


class Refused(Exception):
    """Raised for a request that is not answered, with an HTTP status and a line that says why."""

    def __init__(self, status: int, reason: str):
        super().__init__(reason)
        self.status = status


class Guard:
    """An ASGI application that hands on to another what this page may be asked.

    Args:
        app: the page.
        folder: where uploads and results lie, and no other files; those that lie there now are never deleted.
        port: which the page is served at.
    """

    def __init__(self, app: Any, folder: Path, port: int):
        self.app = app
        self.folder = folder.resolve()
        names = ("127.0.0.1", "localhost", "[::1]")
        self.hosts = {f"{name}:{port}" for name in names} | {name for name in names if port == 80}
        self.kept = set(self.folder.rglob("*"))
        self.reading = asyncio.Semaphore(4)  # each may hold the largest request in memory
        self.writing = asyncio.Lock()  # so that two uploads do not take the same room

    async def __call__(self, scope: dict, receive: Any, send: Any) -> None:
        """Answer a request, or refuse it in one line of text."""
        if scope["type"] == "lifespan":
            return await self.app(scope, receive, send)
        if scope["type"] != "http":  # the page has no websockets
            return await send({"type": "websocket.close", "code": 1008})
        try:
            self.check_sender(scope)
            self.check_address(scope)
            # Of a proxy, and there is none; gradio would write the addresses of the page's own parts by them.
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
        """Raise Refused where a request is meant for another host, or comes from another web page."""
        hosts = [value.decode("latin-1").lower() for name, value in scope["headers"] if name == b"host"]
        if len(hosts) != 1 or hosts[0] not in self.hosts:
            raise Refused(403, "this page is on 127.0.0.1 only, at its own port")
        origins = {value.decode("latin-1").lower() for name, value in scope["headers"] if name == b"origin"}
        if not origins <= {f"http://{host}" for host in self.hosts}:
            raise Refused(403, "this page answers no other web page")

    def check_address(self, scope: dict) -> None:
        """Raise Refused where the page needs no such address, or it is a file of none of the page's."""
        addresses = {"GET": ASKED, "HEAD": ASKED, "POST": SENT}.get(scope["method"])
        if not addresses or not addresses.fullmatch(scope["path"]):
            raise Refused(404, "this page has no such address")
        _, asked, file = scope["path"].partition(f"{API}/file=")
        if asked:
            self.check_file(file)

    def check_file(self, path: Any) -> None:
        """Raise Refused where a path is not one of the page's own files, whatever links lead there."""
        try:
            inside = isinstance(path, str) and Path(path).resolve().is_relative_to(self.folder)
        except (OSError, ValueError, RuntimeError):  # too long, a zero byte, links in a circle
            inside = False
        if not inside:
            raise Refused(403, "not a file of this page; upload it first")

    def checked(self, body: bytes) -> bytes:
        """Return a body in JSON whose files are all the page's own, each said by its path alone."""
        try:
            value = json.loads(body)
        except (ValueError, RecursionError):
            raise Refused(400, "expected JSON") from None
        for file in files_in(value):
            self.check_file(file.get("path"))
            file["url"] = None  # which gradio would fetch or decode in place of the path
            file["meta"] = {"_type": "gradio.FileData"}
        # Not as it came: of a key that is there twice, another reader may take the other.
        return json.dumps(value).encode()

    def make_room(self, needed: int) -> None:
        """Delete the oldest files until there is room for so many bytes more."""
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
    """Yield all that stand for files in what was JSON, as gradio or an older one may take them."""
    left = [value]
    while left:
        found = left.pop()
        if isinstance(found, dict) and ("path" in found or "url" in found):
            yield found
        left += found.values() if isinstance(found, dict) else found if isinstance(found, list) else ()


async def whole_body(scope: dict, receive: Any) -> bytes:
    """Return a request's body. Raises Refused where it is too large, by what it says or by what comes, or too slow."""
    too_large = Refused(413, f"at most {LARGEST_UPLOAD >> 20} MB at once; send fewer or smaller files")
    lengths = [int(value) for name, value in scope["headers"] if name == b"content-length" and value.isdigit()]
    if any(length > LARGEST_REQUEST for length in lengths):
        raise too_large
    body, more = bytearray(), True
    try:
        async with asyncio.timeout(SECONDS_TO_SEND):
            while more:
                message = await receive()
                if message["type"] != "http.request":
                    raise Refused(400, "the request was cut short")
                body += message.get("body", b"")
                more = message.get("more_body", False)
                if len(body) > LARGEST_REQUEST:
                    raise too_large
    except TimeoutError:
        raise Refused(408, f"not all of the request came within {SECONDS_TO_SEND} s") from None
    return bytes(body)


def sent_at_once(body: bytes, receive: Any) -> Any:
    """Return what hands on a body that has been read, and then what else comes, such as that the client left."""
    messages = iter([{"type": "http.request", "body": body, "more_body": False}])

    async def next_message() -> dict:
        return next(messages, None) or await receive()

    return next_message
