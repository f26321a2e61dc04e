"""What went wrong with a remote file: whether another try may help, and a message that says what to do."""

from __future__ import annotations

import errno
import random
import tempfile
import time
from collections.abc import Iterator
from email.utils import parsedate_to_datetime

TRIES = 5
"""How often a request is made before its error is raised."""
LONGEST_WAIT = 30.0
"""Seconds between two tries, at most."""

# Classes of exceptions by name, since none of the packages that they come from has to be installed: of Python, aiohttp,
# httpx, requests and botocore.
_OF_CONNECTIONS = {
    *("ConnectionError", "TimeoutError", "gaierror", "ClientConnectionError", "ClientPayloadError", "TransportError"),
    *("HTTPClientError", "IncompleteReadError", "ShortAnswer", "RequestException", "TransferEncodingError"),
}
_OF_DISKS = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
"""Numbers of the errors of a disk that is full."""


class NoNetwork(OSError):
    """Nothing at all can be reached where a source is."""


class NoRanges(OSError):
    """A server sends whole files alone."""


class ShortAnswer(OSError):
    """A server sent fewer bytes than it was asked for."""


class BehindTheEnd(OSError):
    """A file has no such bytes."""

    status = 416


def status_of(error: BaseException) -> int | None:
    """The HTTP status behind an error of any filesystem; None where there is none."""
    for one in _chain(error):
        response = getattr(one, "response", None)
        if isinstance(response, dict):  # botocore
            response = response.get("ResponseMetadata", {}).get("HTTPStatusCode")
        found = getattr(one, "status", getattr(response, "status_code", response))
        if type(one).__module__.startswith("gcsfs"):  # code is 400 in aiohttp's errors on answers that were cut off
            found = getattr(one, "code", None)
        if str(found).isdecimal() and 300 <= int(str(found)) < 600:
            return int(str(found))
    return None


def is_transient(error: BaseException) -> bool:
    """Whether another try may help: for lost connections, timeouts, short answers, and the status 408, 429 and 5xx."""
    status = status_of(error)
    return is_of_connection(error) if status is None else status in (408, 429) or status >= 500


def is_of_connection(error: BaseException) -> bool:
    """Whether a connection, and not an answer, is the reason for an error."""
    names = {base.__name__ for one in _chain(error) for base in type(one).__mro__}
    return status_of(error) is None and not names.isdisjoint(_OF_CONNECTIONS) and not _is_of_certificate(error)


def seconds_to_wait(error: BaseException, tries: int) -> float:
    """How long to wait after so many tries: what the server asks for, or twice as long each time, from 0.5 s on.

    A random half keeps several clients from coming back at once; no result depends on it.
    """
    for one in _chain(error):
        response = getattr(one, "response", None)
        if isinstance(response, dict):
            headers = response.get("ResponseMetadata", {}).get("HTTPHeaders")
        else:
            headers = getattr(one, "headers", None) or getattr(response, "headers", None)
        asked = next((str(value) for key, value in dict(headers or {}).items() if key.lower() == "retry-after"), "")
        if asked:
            return min(max(_seconds_until(asked), 0), LONGEST_WAIT)
    doubled: float = 0.5 * 2 ** (tries - 1)
    return min(doubled * (1 + random.random() / 2), LONGEST_WAIT)


def explained(error: BaseException, name: str) -> OSError:
    """The error to raise for a file or folder that cannot be read, in words for the user.

    Args:
        error: what the filesystem raised.
        name: the URL, without what may be secret.
    """
    status = status_of(error)
    if isinstance(error, NoRanges | ShortAnswer):
        return error
    if isinstance(error, OSError) and error.errno in _OF_DISKS:
        folder = tempfile.gettempdir()
        return OSError(f"{name}: fetched whole into {folder}: {error.strerror}: set TMPDIR to a folder with more space")
    hub = _hub_page(name)
    restricted = {type(one).__name__ for one in _chain(error)} & {"GatedRepoError", "RepositoryNotFoundError"}
    if hub and (status in (401, 403) or restricted):
        return PermissionError(
            f"{name}: a gated or private repository, or none of this name: accept its terms on {hub}, then log in: "
            f"hf auth login{_status(status)}"
        )
    if status in (401, 403) or isinstance(error, PermissionError) or "NoCredentials" in type(error).__name__:
        return PermissionError(
            f"{name}: access refused{_status(status)}: set the credentials of fsspec's filesystem for it, or get a new "
            "link where its signature has run out; for a public bucket, set FSSPEC_S3_ANON=true"
        )
    if status == 416:
        return OSError(f"{name}: ends before the bytes asked for: it, or its index, has changed{_status(status)}")
    if _is_of_certificate(error):
        return OSError(
            f"{name}: its certificate cannot be verified: name its host as the certificate does, or set SSL_CERT_FILE "
            "to the file of its authority where that is your own"
        )
    # fsspec raises FileNotFoundError from any error of an HTTP request.
    if status in (404, 410) or (status is None and isinstance(list(_chain(error))[-1], FileNotFoundError)):
        return FileNotFoundError(f"{name}: no such file or folder{_status(status)}; look the address up")
    if is_transient(error):
        reason = f"HTTP status {status}" if status else _reason(error)
        return OSError(f"{name}: no answer in {TRIES} tries ({reason}): run it again; it goes on where it stopped")
    return OSError(f"{name}: cannot be read: {f'HTTP status {status}' if status else _reason(error)}")


def _seconds_until(asked: str) -> float:
    """The seconds that Retry-After tells, as a number or a date; 1 where it tells neither."""
    if asked.isdecimal():
        return float(asked)
    try:
        return parsedate_to_datetime(asked).timestamp() - time.time()
    except ValueError:
        return 1.0


def _is_of_certificate(error: BaseException) -> bool:
    """Whether a server's certificate is the reason for an error."""
    return any("Certificate" in type(one).__name__ or "CertVerification" in type(one).__name__ for one in _chain(error))


def _status(status: int | None) -> str:
    return f" (HTTP status {status})" if status else ""


def _hub_page(name: str) -> str | None:
    """The page of the repository that a URL hf://... names."""
    if not name.startswith("hf://"):
        return None
    from huggingface_hub.constants import ENDPOINT

    kind, *rest = name.removeprefix("hf://").split("/")
    parts = rest[:2] if kind in ("datasets", "spaces") else [kind, *rest[:1]]
    return "/".join([ENDPOINT, *([kind] if kind in ("datasets", "spaces") else []), *parts]).partition("@")[0]


def _reason(error: BaseException) -> str:
    """The classes of the first and the last error of a chain: their texts may hold URLs with signatures."""
    chain = list(_chain(error))
    text = getattr(chain[-1], "strerror", None) or type(chain[-1]).__name__
    return str(text).splitlines()[0]


def _chain(error: BaseException) -> Iterator[BaseException]:
    """An error, and what it was raised from."""
    one: BaseException | None = error
    while one is not None:
        yield one
        one = one.__cause__ or (None if one.__suppress_context__ else one.__context__)
