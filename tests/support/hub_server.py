"""A hub of made repositories on the loopback address: as much of Hugging Face's protocol as its library asks for.

with HubServer({"zh-plus/tiny-imagenet": folder}, models={"timm/resnet18.a1_in1k": other}) as hub:
    subprocess.run([sys.executable, "-m", "xmixup_fast", ...], env={**os.environ, **hub.env(tmp_path / "hf")})
    assert hub.count("/cdn/") < 10 and hub.bytes < 1_000_000

huggingface_hub reads HF_ENDPOINT when it is imported: use processes of their own, with :meth:`HubServer.env`. After the
``with`` block nothing answers any more, as without a network. As on the hub, a file that is neither text nor JSON is
sent by ``/cdn/``, to which ``/resolve/`` redirects; a repository that is not there is answered with 401;
the files of a gated one are listed, and sent to those alone who show the token.

write_tiny_imagenet(folder) makes a dataset repository like zh-plus/tiny-imagenet: 200 classes in sorted Parquet files.
"""

from __future__ import annotations

import asyncio
import hashlib
import io
import json
import threading
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pyarrow as pa
import pyarrow.parquet as pq
from aiohttp import web

_TEXT = {".json", ".md", ".txt", ".csv", ".yaml", ""}
"""How the names of files end that git keeps itself; the others are LFS files."""


class _Repository:
    """A folder as a repository with one commit."""

    def __init__(self, folder: Path) -> None:
        self.files = {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if path.is_file()}
        self.hashes = {name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in self.files.items()}
        self.commit = hashlib.sha1(json.dumps(self.hashes).encode()).hexdigest()

    def is_lfs(self, name: str) -> bool:
        return Path(name).suffix not in _TEXT

    def entry(self, name: str) -> dict[str, Any]:
        """What the hub's listings say of a file."""
        size, sha256 = self.files[name].stat().st_size, self.hashes[name]
        lfs = {"lfs": {"oid": sha256, "size": size, "pointerSize": 134}} if self.is_lfs(name) else {}
        return {"type": "file", "path": name, "size": size, "oid": sha256[:40], **lfs}

    def listing(self, folder: str, recursive: bool) -> list[dict[str, Any]] | None:
        """What is in a folder, "" for the topmost; None where there is no such folder."""
        start = f"{folder}/" if folder else ""
        below = [name for name in self.files if name.startswith(start)]
        parts = [name.removeprefix(start).split("/") for name in below]
        folders = dict.fromkeys(start + "/".join(p[:n]) for p in parts for n in range(1, len(p)) if recursive or n == 1)
        found = [{"type": "directory", "path": path, "size": 0, "oid": "0" * 40} for path in folders]
        shown = [name for name, p in zip(below, parts, strict=True) if recursive or len(p) == 1]
        return [*found, *map(self.entry, shown)] if below else None


class HubServer:
    """A hub in a thread, for the time of a ``with`` block.

    Args:
        datasets: the folder of each dataset repository, by its id. Files are read when the server is made.
        models: the folders of model repositories, such as config.json and model.safetensors for timm.
        gated: the token that opens a gated repository, by its id.
        fail: gets each request's method and path, and returns a status to answer with in place of the answer, or None.

    ``url`` is what HF_ENDPOINT should be, ``requests`` the method and path of each request so far, in order, such as
    ``"GET /cdn/datasets/ID/FILE"``, and ``bytes`` how many bytes of files were sent.
    """

    def __init__(
        self,
        datasets: Mapping[str, Path] | None = None,
        *,
        models: Mapping[str, Path] | None = None,
        gated: Mapping[str, str] | None = None,
        fail: Callable[[str, str], int | None] = lambda method, path: None,
    ) -> None:
        self._repositories = {
            **{f"datasets/{name}": _Repository(folder) for name, folder in (datasets or {}).items()},
            **{f"models/{name}": _Repository(folder) for name, folder in (models or {}).items()},
        }
        self._gated = dict(gated or {})
        self._fail = fail
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self.url = ""
        self.requests: list[str] = []
        self.bytes = 0

    def __enter__(self) -> HubServer:
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self._start(), self._loop).result(30)
        return self

    def __exit__(self, *raised: object) -> None:
        asyncio.run_coroutine_threadsafe(self._runner.cleanup(), self._loop).result(30)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def env(self, home: Path) -> dict[str, str]:
        """Variables for a process that asks this hub, with the library's files and its cache in ``home``."""
        quiet = {"HF_HUB_DISABLE_TELEMETRY": "1", "HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
        return {"HF_ENDPOINT": self.url, "HF_HOME": str(home), "HF_TOKEN": "", **quiet}

    def address(self, dataset: str, path: str) -> str:
        """Where plain HTTP gets a file of a dataset repository, with ranges."""
        return f"{self.url}/cdn/datasets/{dataset}/{self._repositories[f'datasets/{dataset}'].commit}/{path}"

    def count(self, part: str) -> int:
        """How many requests so far have this text in their method and path."""
        return sum(part in request for request in self.requests)

    async def _start(self) -> None:
        app = web.Application(middlewares=[self._counted])
        app.on_response_prepare.append(self._sent)
        for kind, prefix in (("datasets", "/datasets"), ("models", "")):
            api = f"/api/{kind}/{{id:[^/]+/[^/]+}}"
            resolve = f"{prefix}/{{id:[^/]+/[^/]+}}/resolve/{{revision}}/{{path:.+}}"
            app.router.add_get(api, self._info(kind))
            app.router.add_get(f"{api}/revision/{{revision}}", self._info(kind))
            app.router.add_get(f"{api}/tree/{{revision}}", self._tree(kind))
            app.router.add_get(f"{api}/tree/{{revision}}/{{path:.*}}", self._tree(kind))
            app.router.add_post(f"{api}/paths-info/{{revision}}", self._paths(kind))
            app.router.add_get(f"/cdn/{kind}/{{id:[^/]+/[^/]+}}/{{revision}}/{{path:.+}}", self._content(kind))
            app.router.add_get(resolve, self._resolve(kind))
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        host, port = self._runner.addresses[0][:2]
        self.url = f"http://{host}:{port}"

    @web.middleware
    async def _counted(self, request: web.Request, handler: Any) -> web.StreamResponse:
        self.requests.append(f"{request.method} {request.path}")
        status = self._fail(request.method, request.path)
        return web.Response(status=status) if status else await handler(request)

    async def _sent(self, request: web.Request, response: web.StreamResponse) -> None:
        if request.method == "GET" and not request.path.startswith("/api/"):
            self.bytes += response.content_length or 0

    def _found(self, kind: str, request: web.Request) -> _Repository:
        """The repository that a request asks for. Raises the hub's answer where there is none, or no such commit."""
        repository = self._repositories.get(f"{kind}/{request.match_info['id']}")
        if repository is None:
            raise _refusal(web.HTTPUnauthorized, "RepoNotFound")
        if request.match_info.get("revision", "main") not in ("main", repository.commit):
            raise _refusal(web.HTTPNotFound, "RevisionNotFound")
        return repository

    def _info(self, kind: str) -> Any:
        async def answer(request: web.Request) -> web.Response:
            repository, name = self._found(kind, request), request.match_info["id"]
            siblings = [{"rfilename": file} for file in repository.files]
            gated = "manual" if name in self._gated else False
            shown = {"id": name, "sha": repository.commit, "private": False, "gated": gated, "siblings": siblings}
            return web.json_response({**shown, "tags": [], "downloads": 0, "likes": 0})

        return answer

    def _tree(self, kind: str) -> Any:
        async def answer(request: web.Request) -> web.Response:
            is_recursive = request.query.get("recursive", "").lower() == "true"
            entries = self._found(kind, request).listing(request.match_info.get("path", ""), is_recursive)
            if entries is None:
                raise _refusal(web.HTTPNotFound, "EntryNotFound")
            return web.json_response(entries)

        return answer

    def _paths(self, kind: str) -> Any:
        async def answer(request: web.Request) -> web.Response:
            repository = self._found(kind, request)
            entries = {entry["path"]: entry for entry in repository.listing("", True) or []}
            asked = (await request.post()).getall("paths", [])
            return web.json_response([entries[path] for path in map(str, asked) if path in entries])

        return answer

    def _resolve(self, kind: str) -> Any:
        async def answer(request: web.Request) -> web.StreamResponse:
            repository, name = self._found(kind, request), request.match_info["id"]
            path, token = request.match_info["path"], request.headers.get("Authorization", "").removeprefix("Bearer ")
            if name in self._gated and token != self._gated[name]:
                raise _refusal(web.HTTPForbidden if token else web.HTTPUnauthorized, "GatedRepo")
            if path not in repository.files:
                raise _refusal(web.HTTPNotFound, "EntryNotFound", repository.commit)
            if not repository.is_lfs(path):
                return self._file(repository, path)
            headers = _headers(repository, path)
            location = f"/cdn/{kind}/{name}/{repository.commit}/{path}"
            return web.Response(status=302, headers={**headers, "Location": location})

        return answer

    def _content(self, kind: str) -> Any:
        async def answer(request: web.Request) -> web.StreamResponse:
            return self._file(self._found(kind, request), request.match_info["path"])

        return answer

    def _file(self, repository: _Repository, path: str) -> web.StreamResponse:
        """The bytes of a file, or the range that is asked for."""
        return web.FileResponse(repository.files[path], headers=_headers(repository, path))


def _headers(repository: _Repository, path: str) -> dict[str, str]:
    size, digest = repository.files[path].stat().st_size, repository.hashes[path]
    etag = digest if repository.is_lfs(path) else digest[:40]
    return {"X-Repo-Commit": repository.commit, "X-Linked-Size": str(size), "X-Linked-ETag": f'"{etag}"'}


def _refusal(kind: type[web.HTTPException], code: str, commit: str | None = None) -> web.HTTPException:
    return kind(headers={"X-Error-Code": code, **({"X-Repo-Commit": commit} if commit else {})})


@cache
def wordnet_ids(count: int = 200) -> list[str]:
    """Sorted WordNet ids of ``count`` of ImageNet's classes, as evenly spread as they can be."""
    from timm.data import ImageNetInfo

    names = sorted(ImageNetInfo().label_names())
    return [names[i * len(names) // count] for i in range(count)]


def jpeg(seed: int, side: int = 64, colour: Sequence[int] = (128, 128, 128)) -> bytes:
    """A noisy square JPEG, of some 4 kB with a side of 64, 16 kB with 128."""
    noise = np.random.default_rng(seed).integers(-70, 71, (side, side, 3))
    file = io.BytesIO()
    PIL.Image.fromarray((noise + colour).clip(0, 255).astype(np.uint8)).save(file, "JPEG", quality=95)
    return file.getvalue()


def write_parquet(
    path: Path,
    images: Sequence[bytes | None],
    labels: Sequence[int | str | None],
    *,
    names: Sequence[str] | None = None,
    group: int = 20,
) -> Path:
    """Writes a Parquet file with the columns image and label as the datasets library does, in row groups.

    Args:
        path: the file; its folder is made.
        images: encoded images.
        labels: class labels or names.
        names: of the classes, for the metadata.
        group: rows in each row group.
    """
    structs = [{"bytes": image, "path": f"{row}.jpg"} for row, image in enumerate(images)]
    label = pa.array(labels)
    image = pa.array(structs, pa.struct([("bytes", pa.binary()), ("path", pa.string())]))
    table = pa.table({"image": image, "label": label})
    if names is not None:
        features = {"image": {"_type": "Image"}, "label": {"names": list(names), "_type": "ClassLabel"}}
        table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    path.parent.mkdir(parents=True, exist_ok=True)
    # Neither images that are in a file several times, as no photos are, nor small ones in statistics make it smaller or
    # larger than a file of photos.
    label_alone = {"use_dictionary": ["label"], "write_statistics": ["label"]}
    pq.write_table(table, path, row_group_size=group, compression="none", **label_alone)
    return path


def write_tiny_imagenet(folder: Path, *, count: int = 20, side: int = 64, classes: int = 200, group: int = 20) -> Path:
    """Makes a repository like zh-plus/tiny-imagenet: README.md, and data/ with a train and a valid Parquet file.

    Args:
        folder: of the repository.
        count: training images of each class; two more are in valid.
        side: of the images, in pixels.
        classes: how many of ImageNet's classes, whose names are WordNet ids.
        group: rows in each row group.

    Returns the folder. Images of one class have one colour, with noise; at most eight images are drawn for each class.
    """
    names = wordnet_ids(classes)
    colours = np.random.default_rng(0).integers(40, 216, (classes, 3))
    drawn_each = min(max(count, 2), 8)
    drawn = [
        [jpeg(8 * label + i, side, colours[label].tolist()) for i in range(drawn_each)] for label in range(classes)
    ]
    for split, rows in (("train", count), ("valid", 2)):
        images = [drawn[label][row % drawn_each] for label in range(classes) for row in range(rows)]
        labels = [label for label in range(classes) for _ in range(rows)]
        path = folder / "data" / f"{split}-00000-of-00001-1359597a978bc4fa.parquet"
        write_parquet(path, images, labels, names=names, group=group)
    (folder / "README.md").write_text("---\ntask_categories:\n- image-classification\n---\n", encoding="utf-8")
    return folder
