"""Remote files: what fsspec finds for a URL, read by ranges that are retried and verified."""

from __future__ import annotations

import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar
from urllib.parse import quote, unquote, urlsplit

from ...runtime.files import readable_bytes
from ...runtime.threads import IN_FLIGHT, in_flight, within
from ...settings.values import public_url
from ..readers.tar_shards import expand_braces
from .errors import (
    TRIES,
    BehindTheEnd,
    NoNetwork,
    NoRanges,
    ShortAnswer,
    explained,
    is_of_connection,
    is_transient,
    seconds_to_wait,
)
from .ranges import Block, Range, RangeFile, blocks

__all__ = ["IN_FLIGHT", "NoNetwork", "Range", "RemoteFile", "RemoteFiles"]

CONNECT_SECONDS, IDLE_SECONDS, FIRST_SECONDS = 5.0, 30.0, 9.0
"""How long a connection may take, how long a server may send nothing, and how long the first answer may take."""
LARGEST_WHOLE = 256_000_000
"""Bytes that are fetched whole, at most, where a server has no ranges or rows are not sorted by class."""
_EXTRAS = {"s3": "s3", "s3a": "s3", "gs": "gs", "gcs": "gs"}
_VERSIONS = ("ETag", "etag", "generation", "md5Hash", "Last-Modified", "LastModified", "mtime", "blob_id")
"""Where filesystems say which version of a file is there, the best first."""
_FILES = (".tar", ".parquet", ".tgz", ".zip", ".gz", ".xz", ".bz2", ".zst", ".001")
"""How names end that are never asked whether they are folders."""
_FAULTS = (TypeError, AttributeError, NameError, AssertionError, MemoryError)
"""Errors of programs, not of files."""
T = TypeVar("T")


class RemoteFile(NamedTuple):
    """A file, as its server describes it."""

    path: str
    """As :class:`RemoteFiles` takes it; without query and password."""
    size: int
    """In bytes."""
    version: str
    """ETag, commit, or time of the last write; "" where the server tells none."""


class RemoteFiles:
    """The files at a URL of any filesystem of fsspec's, or at a local path.

    Credentials are fsspec's own. A URL's query and password go along with each request, and are in no path, message or
    attribute that is shown. Paths of the Hugging Face Hub are pinned to the commit that they have now.

    The first request is tried once and has 9 seconds, so that a missing network is known; later ones are tried five
    times. All methods raise NoNetwork where the first request reaches nothing; FileNotFoundError, PermissionError or
    another OSError, with a message that says what to do, for what cannot be read.
    """

    def __init__(self, url: str) -> None:
        """Raises ImportError, with the extra to install, where the package for the URL's protocol is missing."""
        self.protocol = url.partition("://")[0].lower() if "://" in url else "file"
        self._secret: tuple[str, str, str] = ("", "", "")
        self._is_first = True
        self._whole: dict[str, Path] = {}
        self._lock = threading.Lock()
        self.url = self._without_secrets(url)
        """The URL, without query and password."""
        self.fs, self.path = self._filesystem(url)
        """The filesystem, and the URL's path on it, which may be a pattern."""
        if self.protocol == "hf":
            self.path = self._request(self._pinned, self.url)

    def info(self, path: str | None = None) -> RemoteFile:
        """Size and version of a file; of the URL itself if not given."""
        path = self.path if path is None else path
        found = self._request(lambda: self._info(path), self.shown(path))
        if found.get("type") == "directory":
            raise IsADirectoryError(f"{self.shown(path)}: a folder, expected a file")
        if found.get("size") is None:
            raise OSError(f"{self.shown(path)}: its server does not tell how large it is: download it")
        if self.protocol == "hf":
            version = path.partition("@")[2].partition("/")[0]
        else:
            version = next((str(found[name]) for name in _VERSIONS if found.get(name) is not None), "")
        return RemoteFile(path, int(found["size"]), version.strip('"'))

    def infos(self, paths: Iterable[str]) -> list[RemoteFile]:
        """Size and version of several files, several at a time, in their order."""
        paths = list(paths)
        found = {path: self.info(path) for path in paths[:1]}  # alone, since the first request may find no network
        found |= {info.path: info for info in in_flight(self.info, dict.fromkeys(paths[1:]))}
        return [found[path] for path in paths]

    def check_unchanged(self, file: RemoteFile) -> None:
        """Raises OSError where size or version are not what they were: what was read may be of two versions."""
        if self.protocol == "hf":
            return
        self.fs.invalidate_cache()
        now = self.info(file.path)
        if now != file:
            raise OSError(
                f"{self.shown(file.path)}: changed while it was read ({file.size} bytes, version "
                f"{file.version or '?'}; now {now.size}, {now.version or '?'}): run it again"
            )

    def sha256(self, path: str) -> str | None:
        """The SHA-256 of a file, where the Hub tells it."""
        if self.protocol != "hf":
            return None
        found: str | None = getattr(
            self._request(lambda: self._info(path), self.shown(path)).get("lfs"), "sha256", None
        )
        return found

    def find(self, path: str | None = None) -> list[str]:
        """Paths of the files at the URL or another path, sorted; numbers and choices in braces stay in their order.

        The path is of a file, which need not exist, of a folder, whose files are listed without those in its folders,
        or a pattern such as ``a-{000..012}.tar`` or ``a/*.parquet``.
        """
        return [path for one in expand_braces(path or self.path) for path in self._find(one)]

    def folders(self) -> list[str]:
        """Paths of the folders in the URL's folder, sorted."""
        return sorted(path.rstrip("/") for path, kind in self._listed(self.path) if kind == "directory")

    def join(self, *names: str) -> str:
        """The path of a file below the URL's path."""
        is_http = self.protocol.startswith("http")
        return "/".join([self.path.rstrip("/"), *(quote(name) if is_http else name for name in names)])

    def name(self, path: str) -> str:
        """The last part of a path, readable."""
        last = path.rstrip("/").rpartition("/")[2]
        return unquote(last) if self.protocol.startswith("http") else last

    def shown(self, path: str) -> str:
        """A path as messages show it."""
        return path if "://" in path or self.protocol == "file" else f"{self.protocol}://{path}"

    def read(self, path: str, begin: int, end: int, ended: threading.Event | None = None) -> bytes:
        """The bytes from ``begin`` up to and without ``end``, in one request; not tried again after ``ended`` is set.

        Raises OSError where there are fewer.
        """
        if begin >= end:
            return b""
        try:
            if path not in self._whole:
                return self._request(lambda: self._verified(path, begin, end), self.shown(path), ended)
        except NoRanges:
            self._fetch_whole(path)
        with self._whole[path].open("rb") as file:
            file.seek(begin)
            return file.read(end - begin)

    def read_whole(self) -> bytes:
        """The bytes of the URL's file, in one request: for small files, also of servers that tell no size.

        Raises OSError where it cannot be read.
        """
        self._request(lambda: self._info(self.path), self.shown(self.path))  # finds soon that there is no network
        data: bytes = self._request(lambda: self.fs.cat_file(self._address(self.path)), self.shown(self.path))
        return data

    def read_ranges(
        self, ranges: Sequence[Range], on_bytes: Callable[[int], object] = lambda count: None
    ) -> Iterator[tuple[int, bytes]]:
        """Reads ranges, joined to blocks, several blocks at a time.

        Args:
            ranges: what to read. They may overlap.
            on_bytes: called in this thread with the size of each block that has come.

        Yields a range's position in ``ranges`` and its bytes, as they come. Ranges without bytes are yielded as well.
        """
        yield from ((i, b"") for i, one in enumerate(ranges) if one.begin >= one.end)
        rest: dict[int, tuple[bytearray, int]] = {}

        ended = threading.Event()

        def read(block: Block) -> tuple[Block, bytes]:
            return block, self.read(block.path, block.begin, block.end, ended)

        for block, data in in_flight(read, blocks(ranges), ended):
            on_bytes(len(data))
            for i, begin, end in block.parts:
                part = data[begin - block.begin : end - block.begin]
                size = ranges[i].end - ranges[i].begin
                if len(part) == size:
                    yield i, part
                    continue
                whole, missing = rest.pop(i, (bytearray(size), size))
                whole[begin - ranges[i].begin : end - ranges[i].begin] = part
                if missing == len(part):
                    yield i, bytes(whole)
                else:
                    rest[i] = (whole, missing - len(part))

    def file(self, path: str, read_ahead: int = 2**16) -> RangeFile:
        """A file to read and to seek in, which fetches at least ``read_ahead`` bytes at a time."""
        return RangeFile(lambda begin, end: self.read(path, begin, end), self.info(path).size, read_ahead)

    def _without_secrets(self, url: str) -> str:
        """The URL without query and password, which are kept for requests."""
        shown = public_url(url)
        if self.protocol.startswith("http"):
            parts = urlsplit(url)
            host = parts.netloc.rpartition("@")[2]
            query = f"?{parts.query}" if parts.query else ""
            self._secret = (f"{parts.scheme}://{host}", f"{parts.scheme}://{parts.netloc}", query)
        return shown

    def _address(self, path: str, is_folder: bool = False) -> str:
        """The path with what is secret in it, as the filesystem takes it. The query is for files alone."""
        shown, real, query = self._secret
        return f"{real}{path.removeprefix(shown)}{'' if is_folder else query}" if shown else path

    def _path(self, address: str) -> str:
        """The path of a file whose address a listing gave."""
        shown, real, _ = self._secret
        if not shown:
            return address
        # Pages of servers hold links that sort them, and to their tops.
        return f"{shown}{address.removeprefix(real)}".partition("?")[0].partition("#")[0]

    def _filesystem(self, url: str) -> tuple[Any, str]:
        """The filesystem of the URL, with timeouts of our own, and the path of the URL on it."""
        import fsspec

        options: dict[str, Any] = {}
        try:
            configured = fsspec.config.conf.get(self.protocol, {})
            if self.protocol.startswith("http"):
                from aiohttp import ClientTimeout

                timeout = ClientTimeout(total=None, sock_connect=CONNECT_SECONDS, sock_read=IDLE_SECONDS)
                client = {"timeout": timeout, "trust_env": True, **configured.get("client_kwargs", {})}
                # Ranges are of the bytes as they lie, not of what is packed on the way.
                headers = {**configured.get("headers", {}), "Accept-Encoding": "identity"}
                options = {"client_kwargs": client, "headers": headers}
            elif self.protocol in ("s3", "s3a"):
                limits = {"connect_timeout": CONNECT_SECONDS, "read_timeout": IDLE_SECONDS}
                tries = {"retries": {"mode": "standard", "total_max_attempts": 1}}
                options = {"config_kwargs": {**limits, **tries, **configured.get("config_kwargs", {})}}
            # The password of other protocols, such as ftp://, is for the filesystem alone.
            fs, path = fsspec.core.url_to_fs(self.url if self._secret[0] else url, **options)
        except ImportError as error:
            extra = _EXTRAS.get(self.protocol)
            advice = f"pip install 'xmixup_fast[{extra}]'" if extra else "install the package"
            raise ImportError(f"{self.url}: {self.protocol}:// needs a package ({error}): {advice}") from error
        except ValueError as error:
            raise ValueError(
                f"{self.url}: expected https://, s3://, gs://, hf://, file:// or another of fsspec's ({error})"
            ) from error
        if self.protocol in ("s3", "s3a"):
            fs.retries = 1  # we try again ourselves
        return fs, path if isinstance(path, str) else str(path)

    def _pinned(self) -> str:
        """The URL's path on the Hub at the commit that its branch has now."""
        from dataclasses import replace

        from huggingface_hub import HfApi

        found = self.fs.resolve_path(self.path)
        if not hasattr(found, "repo_id"):
            return self.path
        api = HfApi(endpoint=self.fs.endpoint, token=self.fs.token)
        commit = api.repo_info(found.repo_id, repo_type=found.repo_type, revision=found.revision).sha
        path: str = replace(found, revision=commit, _raw_revision=None).unresolve()
        return path

    def _info(self, path: str) -> dict[str, Any]:
        found: dict[str, Any] = self.fs.info(self._address(path))
        return found

    def _find(self, path: str) -> list[str]:
        """The files of a path, a folder or a pattern without braces."""
        if any(mark in path for mark in "*["):
            found = self._request(lambda: self.fs.glob(self._address(path, True)), self.shown(path))
            return sorted(self._path(str(name)) for name in found)
        if path.lower().endswith(_FILES):
            return [path]
        return sorted(name for name, kind in self._listed(path) if kind == "file" and not name.endswith("/"))

    def _listed(self, path: str) -> set[tuple[str, str]]:
        """Path and kind (file or directory) of what is in a folder."""
        items = self._request(lambda: self.fs.ls(self._address(path, True), detail=True), self.shown(path))
        return {(self._path(item["name"]), item["type"]) for item in items}

    def _verified(self, path: str, begin: int, end: int) -> bytes:
        data = self._read_once(self._address(path), begin, end)
        if not data:
            raise BehindTheEnd(f"{self.shown(path)}: has no byte {begin}")
        if len(data) != end - begin:
            raise ShortAnswer(f"{self.shown(path)}: got {len(data)} of {end - begin} bytes from {begin} on")
        return data

    def _read_once(self, address: str, begin: int, end: int) -> bytes:
        """Reads a range. Raises NoRanges where a server would send the whole file."""
        if self.protocol.startswith("http"):
            # cat_file would take a whole file into memory where the server has no ranges; a file of fsspec's checks.
            with self.fs.open(address, cache_type="none", block_size=1, size=end) as file:
                file.seek(begin)
                try:
                    data: bytes = file.read(end - begin)
                except ValueError as error:
                    raise NoRanges(str(error)) from error
            return data
        # Filesystems that are not asynchronous read 5 MiB ahead else.
        options = {} if self.fs.async_impl else {"cache_type": "none"}
        data = self.fs.cat_file(address, start=begin, end=end, **options)
        return data

    def _fetch_whole(self, path: str) -> None:
        """Fetches a file of a server without ranges into a temporary folder, from where it is read from now on."""
        with self._lock:
            if path in self._whole:
                return
            size = self.info(path).size
            if size > LARGEST_WHOLE:
                raise OSError(
                    f"{self.shown(path)}: its server has no ranges, and would send all {readable_bytes(size)}: "
                    "download it, or name a server with ranges"
                )
            if not self._whole:
                self._folder = tempfile.TemporaryDirectory(prefix="xmixup-")
            target = Path(self._folder.name) / str(len(self._whole))

            def fetch() -> None:
                self.fs.get_file(self._address(path), str(target))
                if target.stat().st_size != size:
                    raise ShortAnswer(f"{self.shown(path)}: got {target.stat().st_size} of {size} bytes")

            self._request(fetch, self.shown(path))
            self._whole[path] = target

    def _request(self, call: Callable[[], T], name: str, ended: threading.Event | None = None) -> T:
        """What ``call`` returns, tried several times, until ``ended`` is set; the first request of all only once."""
        for tries in range(1, TRIES + 1):
            is_first, self._is_first = self._is_first and self.protocol != "file", False
            try:
                return within(FIRST_SECONDS, call) if is_first else call()
            except (*_FAULTS, NoRanges, ImportError, NotImplementedError):
                raise
            except Exception as error:
                if is_first and is_of_connection(error):
                    self._is_first = True
                    raise NoNetwork(f"{name}: nothing answers there: no network, or a wrong address") from None
                if tries == TRIES or not is_transient(error) or (ended and ended.is_set()):
                    raise explained(error, name) from None
                (ended.wait if ended else time.sleep)(seconds_to_wait(error, tries))
        raise AssertionError("the last try returns or raises")
