"""Downloads against a server on the loopback interface that behaves badly in every known way."""

from __future__ import annotations

import hashlib
import socket
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from common.system.downloads import download, file_sha256
from common.system.files import InputError

CONTENT = bytes(range(256)) * 1000
SHA256 = hashlib.sha256(CONTENT).hexdigest()


class Server(ThreadingHTTPServer):
    """Answers each request with the next of `answers`, the last one for ever; counts requests."""

    daemon_threads = True
    answers: list[str]
    requests = 0
    over: threading.Event

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/digits.npz"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        answer = self.server.answers[min(self.server.requests, len(self.server.answers) - 1)]
        self.server.requests += 1
        if answer in ("404", "503"):
            self.send_error(int(answer))
            return
        if answer == "silent":
            self.server.over.wait(5)
            return
        self.send_response(200)
        if answer != "no length":
            self.send_header("Content-Length", str(len(CONTENT)))
        self.end_headers()
        if answer in ("ok", "no length"):
            self.wfile.write(CONTENT)
            return
        self.wfile.write(CONTENT[: len(CONTENT) // 2])
        if answer == "stalled":
            self.wfile.flush()
            self.server.over.wait(5)

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(variable, raising=False)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    pauses = time.sleep
    monkeypatch.setattr(time, "sleep", lambda seconds: pauses(seconds / 100 if seconds >= 0.5 else seconds))
    with Server(("127.0.0.1", 0), Handler) as server:
        server.over = threading.Event()
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.over.set()
        server.shutdown()
        thread.join()


def failure(url: str, folder: Path, checksum: str = SHA256, timeout: float = 5, **options: Any) -> str:
    """Return the one line with which `download` fails, having checked that it leaves nothing behind."""
    folder = folder / "data"
    with pytest.raises(InputError) as caught:
        download(url, folder / "digits.npz", checksum, timeout=timeout, **options)
    message = str(caught.value)
    assert not list(folder.iterdir())
    assert message.startswith(url) and str(folder / "digits.npz") in message and "\n" not in message
    return message


@pytest.mark.parametrize("answer", ["ok", "no length"])
@pytest.mark.parametrize("checksum", [SHA256, SHA256.upper(), None])
def test_whole_file(server: Server, tmp_path: Path, answer: str, checksum: str | None) -> None:
    server.answers = [answer]
    path = tmp_path / "new" / "digits.npz"
    assert download(server.url, path, checksum) == path
    assert path.read_bytes() == CONTENT
    assert [found.name for found in path.parent.iterdir()] == ["digits.npz"]
    download(server.url, path, checksum)
    assert server.requests == 1


@pytest.mark.parametrize("first", ["cut off", "503", "silent", "stalled"])
def test_second_attempt(server: Server, tmp_path: Path, first: str) -> None:
    server.answers = [first, "ok"]
    path = download(server.url, tmp_path / "digits.npz", SHA256, timeout=0.3 if first in ("silent", "stalled") else 5)
    assert path.read_bytes() == CONTENT
    assert server.requests == 2


@pytest.mark.parametrize(
    ("answer", "attempts", "words"),
    [
        ("cut off", 3, "connection lost after 128000 of 256000 bytes"),
        ("503", 3, "the server responded with 503"),
        ("404", 1, "the server responded with 404 Not Found"),
    ],
)
def test_failure_after_all_attempts(server: Server, tmp_path: Path, answer: str, attempts: int, words: str) -> None:
    server.answers = [answer]
    message = failure(server.url, tmp_path)
    assert words in message and f"manually from {server.url} and save it as" in message
    assert server.requests == attempts


@pytest.mark.parametrize(("answer", "received"), [("silent", 0), ("stalled", 128000)])
def test_timeout(server: Server, tmp_path: Path, answer: str, received: int) -> None:
    server.answers = [answer]
    message = failure(server.url, tmp_path, timeout=0.3, retries=1)
    assert f"timed out: no data for 0.3 s after {received} bytes" in message
    assert server.requests == 2


def test_retries_can_be_none(server: Server, tmp_path: Path) -> None:
    server.answers = ["503"]
    failure(server.url, tmp_path, retries=0, by_hand="https://example.org/page")
    assert server.requests == 1


def test_no_attempt_at_all(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="retries must be 0 or more, got -1"):
        download("http://127.0.0.1/a", tmp_path / "a", None, retries=-1)


def test_wrong_checksum(server: Server, tmp_path: Path) -> None:
    server.answers = ["ok"]
    message = failure(server.url, tmp_path, checksum="0" * 64, by_hand="https://example.org/page")
    assert f"wrong checksum: got {SHA256}, expected {'0' * 64}" in message
    assert "manually from https://example.org/page" in message
    assert server.requests == 1


def test_wrong_file_already_there(server: Server, tmp_path: Path) -> None:
    path = tmp_path / "digits.npz"
    path.write_bytes(b"mine")
    with pytest.raises(InputError, match="digits.npz: wrong checksum: got [0-9a-f]{64}, expected") as caught:
        download(server.url, path, SHA256)
    assert "\n" not in str(caught.value)
    assert server.requests == 0
    assert path.read_bytes() == b"mine"


def test_connection_refused(tmp_path: Path) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))  # bound, but not listening
        assert "connection refused" in failure(f"http://127.0.0.1:{unused.getsockname()[1]}/a", tmp_path)


def test_no_name_resolution(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unresolved(*_: object, **__: object) -> None:
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unresolved)
    assert "no network: name resolution failed" in failure("http://digits.invalid/a", tmp_path)


def test_malformed_address(tmp_path: Path) -> None:
    assert "unknown url type" in failure("digits.npz", tmp_path)


def test_full_disk_is_no_download_error(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class FullDisk:
        def __enter__(self) -> FullDisk:
            return self

        def __exit__(self, *_: object) -> None:
            pass

        def write(self, _: bytes) -> None:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "open", lambda *_: FullDisk())
    server.answers = ["ok"]
    with pytest.raises(OSError, match="no space left on the disk"):
        download(server.url, tmp_path / "digits.npz", SHA256)
    assert server.requests == 1


def test_checksum_of_a_known_text(tmp_path: Path) -> None:
    path = tmp_path / "abc"
    path.write_bytes(b"abc")  # the example of FIPS 180-2, appendix B.1
    assert file_sha256(path) == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_a_checksum_may_be_md5(server: Server, tmp_path: Path) -> None:
    server.answers = ["ok"]
    md5 = hashlib.md5(CONTENT).hexdigest()
    assert download(server.url, tmp_path / "a", md5).read_bytes() == CONTENT
    download(server.url, tmp_path / "a", md5)
    assert server.requests == 1
    assert f"got {md5}, expected {'0' * 32}" in failure(server.url, tmp_path, checksum="0" * 32)
