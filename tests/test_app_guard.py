"""The page to play with, asked over HTTP for what it must not give."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import functools
import gc
import http.client
import io
import itertools
import json
import os
import signal
import socket
import struct
import threading
import types
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from PIL import Image

from common.samples.digits import held_out_digits
from common.system.files import InputError
from recipes.__main__ import main
from recipes.app import guard, serve

pytestmark = [  # of gradio's own code
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning"),
    pytest.mark.xdist_group("app"),
]

API = "/gradio_api"
SESSIONS = itertools.count()
NOTHING = [{}, None]  # is what an empty label and no picture are sent as


@pytest.mark.parametrize("port", [99999, 70000, 65536, -1])
def test_what_is_no_port(port, capsys):
    assert main(["app", "--port", str(port)]) == 2
    said = f"error: --port {port}: not a port; choose one from 1024 to 65535, or 0 for any free port\n"
    assert capsys.readouterr() == ("", said)


def test_a_port_that_is_taken_or_reserved(monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(InputError, match=f"^--port {port}: is in use; choose another"):
            serve.serve(port=port)

    def refuse(address):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(socket, "create_server", refuse)
    with pytest.raises(InputError, match="^--port 80: is reserved for root; choose another from 1024"):
        serve.serve(port=80)


def test_a_signal_that_is_ignored_stays_so():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup does
    try:
        with serve.ended_by("SIGHUP", "SIGNONE"):
            signal.raise_signal(signal.SIGHUP)
    finally:
        signal.signal(signal.SIGHUP, before)


class Page(NamedTuple):
    address: str
    port: int
    folder: Path  # of its uploads
    config: dict[str, Any]

    def ask(self, method: str, path: str, body: Any = None, headers: Any = None) -> tuple[int, dict[str, str], bytes]:
        """Return the status, headers and body of an answer, to a body that may come in pieces."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        with contextlib.closing(connection):
            connection.request(method, path, body, headers or {}, encode_chunked=not isinstance(body, bytes | None))
            answer = connection.getresponse()
            return answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read()

    def send(self, path: str, value: Any) -> tuple[int, bytes]:
        body = value if isinstance(value, bytes) else json.dumps(value).encode()
        status, _, answer = self.ask("POST", API + path, body, {"Content-Type": "application/json"})
        return status, answer

    def upload(self, *files: bytes, name: str = "mine.png", headers: Any = None) -> tuple[int, list[str]]:
        """Return the status, and where the files lie then."""
        status, _, answer = self.ask("POST", f"{API}/upload", form(*files, name=name), FORM | (headers or {}))
        return status, json.loads(answer) if status == 200 else []

    def call(self, number: int, data: list) -> dict[str, Any]:
        """Return what a function of the page answers, asked as the browser asks."""
        session = f"s{next(SESSIONS)}"
        return self.finished(session, {"data": data, "fn_index": number, "session_hash": session})

    def finished(self, session: str, value: Any) -> dict[str, Any]:
        """Send a call of a session, and return how it ended."""
        status, answer = self.send("/queue/join", value)
        assert status == 200, answer
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        with contextlib.closing(connection):
            connection.request("GET", f"{API}/queue/data?session_hash={session}")
            for line in connection.getresponse():
                if b'"process_completed"' in line:
                    return json.loads(line.removeprefix(b"data:"))
        raise AssertionError("no answer")

    def functions(self, *kinds: str) -> Iterator[tuple[int, str, list[str], list]]:
        """Yield number, name, and kinds and first values of the inputs of all functions that take one of the kinds."""
        places = {each["id"]: each for each in self.config["components"]}
        for function in self.config["dependencies"]:
            inputs = [places[number] for number in function["inputs"]]
            found = [each["type"] for each in inputs]
            if set(kinds) & set(found):
                yield function["id"], function["api_name"], found, [each["props"].get("value") for each in inputs]

    def number_of(self, name: str) -> int:
        return next(number for number, found, _, _ in self.functions("image", "imageeditor") if found == name)


FORM = {"Content-Type": "multipart/form-data; boundary=x"}


def form(*files: bytes, name: str = "mine.png") -> bytes:
    head = f'--x\r\nContent-Disposition: form-data; name="files"; filename="{name}"\r\n\r\n'.encode()
    return b"".join(head + file + b"\r\n" for file in files) + b"--x--\r\n"


def png(image: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(image).save(file, "PNG")
    return file.getvalue()


GREY = png(np.full((64, 64, 3), 128, np.uint8))


@functools.cache
def digit() -> tuple[bytes, str]:
    """Return a digit as somebody would draw it, black on white, and which it is."""
    images, labels = held_out_digits()
    image = Image.fromarray(255 - images[3, :, :, 0]).resize((140, 140))
    paper = np.pad(np.asarray(image), 70, constant_values=255)
    return png(np.stack([paper] * 3, -1)), str(labels[3])


def close_event_loops() -> None:
    """Close those that gradio leaves open, so that no later test is blamed."""
    asyncio.set_event_loop(None)
    gc.collect()


@pytest.fixture(scope="module")
def page() -> Iterator[Page]:
    pytest.importorskip("gradio", reason="gradio is not installed")
    with serve.serving(port=0) as address:
        close_event_loops()
        port = int(address.rpartition(":")[2])
        opened = Page(address, port, Path(), {})
        config = json.loads(opened.ask("GET", "/config")[2])
        (path,) = opened.upload(GREY)[1]
        yield opened._replace(config=config, folder=Path(path).parents[1])


@pytest.fixture
def secret(tmp_path) -> Path:
    path = tmp_path / "secret.png"
    path.write_bytes(png(np.random.default_rng(0).integers(0, 256, (64, 64, 3)).astype(np.uint8)))
    return path


@pytest.fixture
def link(page, secret) -> Iterator[Path]:
    path = page.folder / "link.png"
    path.symlink_to(secret)
    yield path
    path.unlink()


@pytest.mark.slow
def test_no_function_takes_a_file_that_was_not_uploaded_here(page, secret, link):
    meta = {"meta": {"_type": "gradio.FileData"}}
    around = f"{page.folder}/{os.path.relpath(secret, page.folder)}"
    bad: list[Any] = [
        {"path": path} | more
        for path in (str(secret), around, str(link), "/etc/passwd", "http://127.0.0.1:9/x.png", "https://hf.co/x.png")
        for more in ({}, meta)
    ]
    bad += [{"path": str(page.folder)[:-1] + "/x.png"}, {"path": "secret.png"}, {"path": "a\0b"}, {"path": 3}]
    bad += [{"url": "http://127.0.0.1:9/x.png"} | meta, {"url": "data:image/png;base64,AAAA"}, {"path": None} | meta]
    seen = set()
    for number, name, kinds, values in page.functions("image", "imageeditor"):
        for place, kind in enumerate(kinds):
            if kind not in ("image", "imageeditor"):
                continue
            seen.add((name, place))
            for file in bad:
                forms = [file]
                if kind == "imageeditor":
                    empty = {"background": None, "layers": [], "composite": None}
                    forms = [empty | {"composite": file}, empty | {"background": file}, empty | {"layers": [file]}]
                for value in forms:
                    data = [*values[:place], value, *values[place + 1 :]]
                    body = {"data": data, "fn_index": number, "session_hash": "s"}
                    assert page.send("/queue/join", body)[0] == 403, (name, value)
                    assert page.send(f"/call/{name}", body)[0] == 403, (name, value)
                    assert page.send(f"/run/{name}", body)[0] in (403, 404), (name, value)
    assert len(seen) >= 12


@pytest.mark.slow
def test_of_a_path_that_is_there_twice_the_one_that_is_checked_is_opened(page, secret):
    secret.write_bytes(b"no picture")
    (mine,) = page.upload(GREY)[1]
    number = page.number_of("check_upload")
    body = f'{{"data": [{{"path": "%s", "path": "%s"}}], "fn_index": {number}, "session_hash": "t"}}'
    assert page.send("/queue/join", (body % (mine, secret)).encode())[0] == 403
    assert page.finished("t", (body % (secret, mine)).encode())["success"]


@pytest.mark.slow
def test_a_path_alone_is_no_picture(page, secret):
    for number, name, kinds, values in page.functions("image", "imageeditor"):
        for place, kind in enumerate(kinds):
            if kind in ("image", "imageeditor"):
                answer = page.call(number, [*values[:place], str(secret), *values[place + 1 :]])
                assert not answer["success"] and "data" not in answer["output"], (name, place)


@pytest.mark.slow
def test_uploads_and_the_pictures_that_the_page_begins_with_are_taken(page):
    (mine,) = page.upload(digit()[0], name="a digit.png")[1]
    checks = [(number, values[0]) for number, name, _, values in page.functions("image") if "check_upload" in name]
    assert len(checks) == 3
    urls = ("", "http://127.0.0.1:9/x.png", "https://hf.co/x.png", "data:image/png;base64,AAAA")
    for number, first in checks:
        for value in (first, None, *({"path": mine, "url": url} for url in urls)):
            assert page.call(number, [value])["success"]
    number = page.number_of("classify")
    first = next(values[0] for found, _, _, values in page.functions("imageeditor") if found == number)
    assert page.call(number, [first])["output"]["data"] == NOTHING  # white
    drawn = {"background": None, "layers": [], "composite": {"path": mine, "url": urls[1]}}
    label, seen = page.call(number, [drawn])["output"]["data"]
    assert label["label"] == digit()[1]
    assert page.ask("GET", f"{API}/file={seen['path']}")[0] == 200


@pytest.mark.slow
def test_no_file_but_the_page_s_own_is_served(page, secret, link):
    (mine,) = page.upload(GREY)[1]
    status, _, body = page.ask("GET", f"{API}/file={mine}")
    assert status == 200 and body == GREY
    for path in (secret, link, f"{page.folder}/../..{secret}", "http://127.0.0.1:9/x.png", "setup.cfg", "/etc/passwd"):
        for asked in (f"{API}/file={path}", f"{API}/file=%2F{path}", f"{API}/file/{path}"):
            status, _, body = page.ask("GET", asked)
            assert status in (403, 404) and secret.read_bytes() not in body, asked


HEADERS = [
    {"Host": "evil.example"},
    {"Host": "evil.example:PORT"},
    {"Host": "127.0.0.1:1"},
    {"Host": "127.0.0.1"},
    {"Host": "127.0.0.1.evil.example:PORT"},
    {"Host": "localhost.:PORT"},
    {"Host": "0.0.0.0:PORT"},
    {"Host": "evil.example:PORT", "Origin": "http://evil.example:PORT"},
    {"Origin": "http://evil.example"},
    {"Origin": "http://127.0.0.1:1"},
    {"Origin": "https://127.0.0.1:PORT"},
    {"Origin": "http://127.0.0.1:PORT@evil.example"},
    {"Origin": "null"},
    {"Origin": ""},
    {"Origin": "file://"},
]
ROUTES = [
    ("GET", "/"),
    ("HEAD", "/"),
    ("GET", "/config"),
    ("GET", f"{API}/info"),
    ("GET", f"{API}/heartbeat/s"),
    ("GET", f"{API}/queue/data?session_hash=s"),
    ("GET", f"{API}/upload_progress?upload_id=u"),
    ("GET", f"{API}/file=/etc/passwd"),
    ("POST", f"{API}/upload"),
    ("POST", f"{API}/queue/join"),
    ("POST", f"{API}/call/classify"),
    ("POST", f"{API}/component_server"),
    ("OPTIONS", f"{API}/upload"),
    ("GET", "/nothing"),
]


@pytest.mark.slow
@pytest.mark.parametrize("headers", HEADERS, ids=str)
def test_other_hosts_and_other_web_pages_are_refused(page, headers):
    headers = {name: value.replace("PORT", str(page.port)) for name, value in headers.items()}
    before = sum(1 for _ in page.folder.rglob("*"))
    for method, path in ROUTES:
        body = form(b"new" + str(headers).encode()) if method == "POST" else None
        ask_for = {"Access-Control-Request-Method": "POST"} if method == "OPTIONS" else {}
        status, found, answer = page.ask(method, path, body, FORM | headers | ask_for)
        assert status == 403 and not any(name.startswith("access-control") for name in found), (method, path)
        assert len(answer) < 100
    assert sum(1 for _ in page.folder.rglob("*")) == before


@pytest.mark.slow
def test_this_machine_is_answered_by_each_of_its_names(page):
    for name in ("127.0.0.1", "localhost", "[::1]", "LOCALHOST"):
        host = f"{name}:{page.port}"
        assert page.ask("GET", "/", headers={"Host": host})[0] == 200
        assert page.upload(GREY, headers={"Host": host, "Origin": f"http://{host}"})[0] == 200
    forwarded = {"X-Forwarded-Host": "evil.example", "X-Forwarded-Proto": "https"}
    for path in ("/", "/config"):
        assert b"evil.example" not in page.ask("GET", path, headers=forwarded)[2]


@pytest.mark.slow
def test_two_hosts_or_none(page):
    for lines in ("", f"Host: 127.0.0.1:{page.port}\r\nHost: evil.example\r\n"):
        with socket.create_connection(("127.0.0.1", page.port), 30) as connection:
            connection.sendall(f"GET /config HTTP/1.0\r\n{lines}\r\n".encode())
            assert connection.makefile("rb").readline().split()[1] in (b"403", b"400")


@pytest.mark.slow
def test_there_is_no_websocket_and_nothing_that_the_page_does_not_need(page):
    upgrade = {"Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Version": "13"}
    for path in ("/", f"{API}/queue/join"):
        key = {"Sec-WebSocket-Key": "AAAAAAAAAAAAAAAAAAAAAA=="}
        assert page.ask("GET", path, headers=upgrade | key)[0] != 101
    names = ["/monitoring", "/monitoring/summary", "/monitoring/x", "/docs", "/openapi.json", "/login", "/pwa_icon"]
    more = """/deep_link?session_hash=s /proxy=http://127.0.0.1:9/ /run-history/buckets /runs /dev/reload /stream/s
        /process_recording /vibe-edit /vibe-code /run/classify /api/classify /profiling/traces /file/etc/passwd
        /custom_component/a/client/b/c"""
    names += [API + name for name in more.split()]
    for name in names:
        assert page.ask("GET", name)[0] == 404, name
        assert page.ask("POST", name, b"{}", {"Content-Type": "application/json"})[0] == 404, name
    assert page.ask("PUT", "/")[0] == page.ask("DELETE", f"{API}/upload")[0] == 404
    assert page.config["analytics_enabled"] is False


def pieces(size: int, count: int) -> Iterator[bytes]:
    yield form(b"")[:-9]
    for _ in range(count):
        yield bytes(size)


@pytest.mark.slow
def test_a_request_is_bounded_as_a_whole(page):
    held = lambda: sum(path.lstat().st_size for path in page.folder.rglob("*") if path.is_file())  # noqa: E731
    before = held()
    assert page.upload(*[bytes(15_000_000)] * 2)[0] == 413
    assert page.upload(*[bytes(15_000_000)] * 8)[0] == 413
    assert page.upload(bytes(guard.LARGEST_UPLOAD + 1))[0] == 413
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # the page need not wait for the rest
        chunked = {"Transfer-Encoding": "chunked"}
        assert page.ask("POST", f"{API}/upload", pieces(1_000_000, 30), FORM | chunked)[0] == 413
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        assert page.send("/queue/join", b'{"data": [' + b"0, " * 10_000_000 + b"0]}")[0] == 413
    assert page.send("/queue/join", b"[" * 100_000)[0] == 400
    assert held() == before
    assert page.upload(bytes(guard.LARGEST_UPLOAD))[0] == 200  # and it goes on


@pytest.mark.slow
def test_a_request_that_is_cut_short_leaves_no_file(page):
    before = sorted(page.folder.rglob("*"))
    with socket.create_connection(("127.0.0.1", page.port), 30) as connection:
        head = f"POST {API}/upload HTTP/1.1\r\nHost: 127.0.0.1:{page.port}\r\nContent-Length: 100000\r\n"
        connection.sendall(f"{head}Content-Type: {FORM['Content-Type']}\r\n\r\n".encode() + form(GREY)[:200])
    assert page.ask("GET", "/config")[0] == 200
    assert sorted(page.folder.rglob("*")) == before


@pytest.mark.slow
def test_the_oldest_files_make_room_for_new_ones(page, monkeypatch):
    def held():
        return {path: path.stat().st_size for path in page.folder.rglob("*") if path.is_file()}

    first = [values[0] for _, name, _, values in page.functions("image") if "check_upload" in name]
    with monkeypatch.context() as full:
        full.setattr(guard, "LARGEST_TOTAL", 0)
        page.upload(GREY)
    monkeypatch.setattr(guard, "LARGEST_TOTAL", sum(held().values()) + 1_000_000)
    paths = [page.upload(bytes([number]) * 300_000)[1][0] for number in range(8)]
    assert sum(held().values()) <= guard.LARGEST_TOTAL
    assert not Path(paths[0]).exists() and all(Path(path).exists() for path in paths[-2:])
    assert all(Path(value["path"]).exists() for value in first)
    number = page.number_of("check_upload")
    assert page.call(number, [{"path": paths[0]}])["output"]["error"].startswith("mine.png: No such file")


def unread(page: Page, content: bytes, name: str = "mine.png") -> str:
    """Return what the page says of a picture, which must be the same everywhere."""
    (path,) = page.upload(content, name=name)[1]
    said = set()
    for place in ("check_upload", "activate", "classify"):
        file = {"path": path, "orig_name": name}
        data = {"check_upload": [file], "activate": [file, "conv3_2", 0.01]}
        drawn = {"background": None, "layers": [], "composite": file}
        answer = page.call(page.number_of(place), data.get(place, [drawn]))
        assert answer["success"] is False and answer["output"]["visible"]
        said.add(answer["output"]["error"])
    assert len(said) == 1
    return said.pop()


@pytest.mark.slow
def test_a_picture_that_cannot_be_read_is_said_in_a_line(page, capfd):
    assert unread(page, b"123").startswith("mine.png: not a PNG, JPEG, BMP, GIF, WebP, TIFF, PPM or AVIF file")
    assert unread(page, b"").startswith("mine.png: an empty file")
    assert unread(page, GREY[:80]).startswith("mine.png: damaged or cut short")
    assert unread(page, b"<svg/>", "mine.svg").startswith("mine.svg: not a PNG")
    assert unread(page, b"%!PS", "mine.eps").startswith("mine.eps: not a PNG")
    black = io.BytesIO()
    Image.new("1", (20_000, 20_000)).save(black, "PNG")
    assert unread(page, black.getvalue()).startswith("mine.png: too large (20000x20000 px); at most ")
    claimed = zlib.compress(bytes(100))
    chunks = [(b"IHDR", struct.pack(">IIBBBBB", 2_000_000_000, 2_000_000_000, 8, 2, 0, 0, 0)), (b"IDAT", claimed)]
    bomb = b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in [*chunks, (b"IEND", b"")]
    )
    assert unread(page, bomb).startswith("mine.png: too large")
    said = unread(page, b"123", "<img src=x onerror=alert(1)>.png")
    assert "<" not in said and "\n" not in said
    assert str(page.folder) not in said
    assert "Traceback" not in "".join(capfd.readouterr())


@pytest.mark.slow
def test_a_canvas_keeps_only_the_newest_drawings(page):
    number = page.number_of("classify")
    place = next(function["inputs"][0] for function in page.config["dependencies"] if function["id"] == number)

    def draw(name: str, content: bytes, kind: str = "composite", index: str = "null") -> int:
        fields = {"id": name, "type": kind, "index": index, "component_id": place, "fn_name": "accept_blobs"}
        parts = "".join(
            f'--x\r\nContent-Disposition: form-data; name="{field}"\r\n\r\n{value}\r\n'
            for field, value in (fields | {"session_hash": "s"}).items()
        )
        file = form(content, name="composite.png").replace(b'name="files"', b'name="file"')
        return page.ask("POST", f"{API}/component_server", parts.encode() + file, FORM)[0]

    def read(name: str) -> Any:
        empty = {"background": None, "layers": [], "composite": None}
        return page.call(number, [empty | {"id": name}])

    for drawing in range(12):
        assert draw(f"d{drawing}", digit()[0]) == 200
    assert draw("layers", GREY, "layer", str(10**12)) == 200
    assert read("d11")["output"]["data"][0]["label"] == digit()[1]
    for name in ("d0", "d11", "layers", "none"):  # too old, seen already, no composite, never drawn
        assert read(name)["output"]["data"] == NOTHING
    draw("bad", b"123")
    assert read("bad")["output"]["error"].startswith("the drawing: not a PNG")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "status"),
    [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)],
    ids=["INT", "TERM", "HUP"],
)
def test_a_signal_ends_the_page_and_deletes_its_files(number, status, monkeypatch, capsys):
    pytest.importorskip("gradio", reason="gradio is not installed")
    folders = []
    usual = signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL
    kept = signal.signal(number, usual)  # a shell lets a job in the background ignore Ctrl-C

    def used_and_ended():
        address = capsys.readouterr().out.split()[4].rstrip("/;")
        page = Page(address, int(address.rpartition(":")[2]), Path(), {})
        (path,) = page.upload(GREY)[1]
        folders.append(Path(path).parents[1])
        assert Path(path).exists() and folders[0].stat().st_mode & 0o777 == 0o700
        signal.raise_signal(number)

    event = types.SimpleNamespace(wait=used_and_ended)
    threads = {name: getattr(threading, name) for name in ("Thread", "current_thread", "main_thread")}
    monkeypatch.setattr(serve, "threading", types.SimpleNamespace(Event=lambda: event, **threads))
    before = os.environ.get("GRADIO_TEMP_DIR")
    try:
        found = main(["app", "--port", "0"])
    except SystemExit as ended:
        found = ended.code
    close_event_loops()
    left = signal.signal(number, kept)
    assert found == status
    assert folders and not folders[0].exists()
    assert os.environ.get("GRADIO_TEMP_DIR") == before and left == usual
