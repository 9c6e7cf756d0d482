"""Download a file on request, with a checksum, retries and an atomic write."""

from __future__ import annotations

import hashlib
import socket
import time
from collections.abc import Generator
from contextlib import closing
from pathlib import Path

from common.system.files import InputError, replacing


class DownloadError(Exception):
    """A failed download attempt. `is_transient` is True if a retry may succeed."""

    def __init__(self, problem: str, is_transient: bool) -> None:
        """Store a description of the problem, and whether a retry may succeed."""
        super().__init__(problem)
        self.is_transient = is_transient


def download(
    url: str, path: Path, checksum: str | None, by_hand: str = "", retries: int = 2, timeout: float = 20
) -> Path:
    """Download `url` to the file `path`, unless the file exists already, and return `path`.

    If the connection is lost or times out, or if the HTTP status is 500 or more, the download is retried after a short
    pause. Other errors are final. In a terminal, a progress bar is shown.

    Args:
        url: address of the file.
        path: the file to write; missing parent folders are created.
        checksum: the expected checksum in hexadecimal: 64 digits for SHA-256, 32 for MD5. MD5, which some publishers
            use, detects damage but not tampering. None skips the check.
        by_hand: address for a manual download, shown in error messages; empty for `url`.
        retries: maximum number of retries after the first attempt.
        timeout: an attempt fails if the server sends nothing for this many seconds.

    Raises:
        InputError: the download failed, or the downloaded or existing file has the wrong checksum.
        OSError: the file cannot be written.
    """
    advice = f"download it manually from {by_hand or url} and save it as {path}"
    if path.is_file():
        if checksum and (found := _file_checksum(path, _algorithm(checksum))) != checksum.lower():
            raise InputError(f"{path}: wrong checksum: got {found}, expected {checksum}; move it away, or {advice}")
        return path
    for attempt in range(retries + 1):
        try:
            with replacing(path) as temporary:
                _fetch(url, temporary, checksum, timeout, path.name)
            return path
        except DownloadError as error:
            if attempt == retries or not error.is_transient:
                raise InputError(f"{url}: {error}; {advice}") from error
        time.sleep(0.5 * 2**attempt)
    raise ValueError(f"retries must be 0 or more, got {retries}")


def file_sha256(path: Path) -> str:
    """Return the SHA-256 checksum of a file as 64 hexadecimal digits."""
    return _file_checksum(path, "sha256")


def _file_checksum(path: Path, algorithm: str) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, algorithm).hexdigest()


def _algorithm(checksum: str) -> str:
    return {32: "md5", 64: "sha256"}[len(checksum)]


def _fetch(url: str, path: Path, checksum: str | None, timeout: float, name: str) -> None:
    """Make one attempt to download `url` to `path`. Raise DownloadError if it fails."""
    digest = hashlib.new(_algorithm(checksum) if checksum else "sha256")
    with path.open("wb") as file, closing(_chunks(url, timeout, name)) as chunks:
        for chunk in chunks:
            digest.update(chunk)
            file.write(chunk)
    if checksum and digest.hexdigest() != checksum.lower():
        raise DownloadError(f"wrong checksum: got {digest.hexdigest()}, expected {checksum}", is_transient=False)


def _chunks(url: str, timeout: float, name: str) -> Generator[bytes, None, None]:
    """Yield the content of `url` in chunks. Raise DownloadError for network errors."""
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
        raise DownloadError(
            f"the server responded with {error.code} {error.reason}", is_transient=error.code >= 500
        ) from error
    except (OSError, http.client.HTTPException, ValueError) as error:
        cause = error.reason if isinstance(error, urllib.error.URLError) else error
        if isinstance(cause, socket.gaierror):
            raise DownloadError("no network: name resolution failed", is_transient=False) from error
        if isinstance(cause, TimeoutError):
            problem = f"timed out: no data for {timeout:g} s after {received} bytes"
            raise DownloadError(problem, is_transient=True) from error
        if isinstance(cause, ConnectionRefusedError):
            raise DownloadError("connection refused", is_transient=False) from error
        if isinstance(cause, (ConnectionError, http.client.HTTPException)):
            problem = f"connection lost after {received} of {size or 'unknown'} bytes ({cause})"
            raise DownloadError(problem, is_transient=True) from error
        raise DownloadError(str(cause), is_transient=False) from error
    if size is not None and received != size:
        raise DownloadError(f"connection lost after {received} of {size} bytes", is_transient=True)
