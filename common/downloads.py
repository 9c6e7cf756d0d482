"""Fetching a file when the user asks for it: checked, retried, whole or absent."""

from __future__ import annotations

import hashlib
import socket
import time
from collections.abc import Generator
from contextlib import closing
from pathlib import Path

from common.errors import InputError
from common.files import replacing


class DownloadError(Exception):
    """One attempt failed; `may_pass` says whether another may succeed."""

    def __init__(self, problem: str, may_pass: bool) -> None:
        """Keep what went wrong, in words, and whether to try again."""
        super().__init__(problem)
        self.may_pass = may_pass


def download(
    url: str, path: Path, checksum: str | None, by_hand: str = "", retries: int = 2, timeout: float = 20
) -> Path:
    """Fetch `url` into the file `path`, unless it is there already, and return `path`.

    A connection cut off, a timeout and an HTTP status of 500 or more are tried again after a short pause;
    nothing else is. On a terminal, progress is shown.

    Args:
        url: address of the file.
        path: file to write; folders above it are made.
        checksum: of the file in hexadecimal: 64 digits are SHA-256; 32 are MD5, which some publishers give and
            which tells a damaged file but not a forged one. With None, nothing is checked.
        by_hand: where a person finds the file, if that is not `url`; used in the error message.
        retries: how many further attempts to make.
        timeout: seconds without an answer, or without another byte, after which an attempt has failed.

    Raises:
        InputError: the file could not be fetched, or the one fetched or already there has another checksum.
        OSError: the file cannot be written.
    """
    advice = f"fetch it by hand from {by_hand or url} and save it as {path}"
    if path.is_file():
        if checksum and (found := _file_checksum(path, _algorithm(checksum))) != checksum.lower():
            raise InputError(f"{path}: checksum wrong: got {found}, expected {checksum}; move it away, or {advice}")
        return path
    for attempt in range(retries + 1):
        try:
            with replacing(path) as draft:
                _fetch(url, draft, checksum, timeout, path.name)
            return path
        except DownloadError as error:
            if attempt == retries or not error.may_pass:
                raise InputError(f"{url}: {error}; {advice}") from error
        time.sleep(0.5 * 2**attempt)
    raise ValueError(f"retries is {retries}: it must be 0 or more")


def file_sha256(path: Path) -> str:
    """Return the SHA-256 checksum of a file as 64 hexadecimal digits."""
    return _file_checksum(path, "sha256")


def _file_checksum(path: Path, algorithm: str) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, algorithm).hexdigest()


def _algorithm(checksum: str) -> str:
    return {32: "md5", 64: "sha256"}[len(checksum)]


def _fetch(url: str, path: Path, checksum: str | None, timeout: float, name: str) -> None:
    """Make one attempt to write `url` to `path`; DownloadError says why it failed."""
    digest = hashlib.new(_algorithm(checksum) if checksum else "sha256")
    with path.open("wb") as file, closing(_chunks(url, timeout, name)) as chunks:
        for chunk in chunks:
            digest.update(chunk)
            file.write(chunk)
    if checksum and digest.hexdigest() != checksum.lower():
        raise DownloadError(f"checksum wrong: got {digest.hexdigest()}, expected {checksum}", may_pass=False)


def _chunks(url: str, timeout: float, name: str) -> Generator[bytes, None, None]:
    """Yield the bytes of `url`. Errors of the network become DownloadError, those of the disk do not."""
    import http.client
    import urllib.error
    import urllib.request

    from tqdm import tqdm

    received, size = 0, None
    try:
        with urllib.request.urlopen(url, timeout=timeout) as response:
            size = int(response.headers.get("Content-Length") or 0) or None
            with tqdm(total=size, desc=name, unit="B", unit_scale=True, unit_divisor=1024, disable=None) as progress:
                while chunk := response.read1(1 << 16):
                    received += len(chunk)
                    progress.update(len(chunk))
                    yield chunk
    except urllib.error.HTTPError as error:
        error.close()
        raise DownloadError(f"the server answered {error.code} {error.reason}", may_pass=error.code >= 500) from error
    except (OSError, http.client.HTTPException, ValueError) as error:
        cause = error.reason if isinstance(error, urllib.error.URLError) else error
        if isinstance(cause, socket.gaierror):
            raise DownloadError("no network: name resolution failed", may_pass=False) from error
        if isinstance(cause, TimeoutError):
            problem = f"timed out: nothing for {timeout:g} s after {received} bytes"
            raise DownloadError(problem, may_pass=True) from error
        if isinstance(cause, ConnectionRefusedError):
            raise DownloadError("connection refused", may_pass=False) from error
        if isinstance(cause, (ConnectionError, http.client.HTTPException)):
            problem = f"cut off after {received} of {size or 'unknown'} bytes ({cause})"
            raise DownloadError(problem, may_pass=True) from error
        raise DownloadError(str(cause), may_pass=False) from error
    if size is not None and received != size:
        raise DownloadError(f"cut off after {received} of {size} bytes", may_pass=True)
