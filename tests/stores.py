"""Real servers on this machine that hold shards: an S3 store, and a web server that can misbehave."""

from __future__ import annotations

import http.server
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

import pytest


class S3:
    """An S3 store on a port of its own, with one bucket."""

    def __init__(self, endpoint: str) -> None:
        import boto3

        self.client = boto3.client("s3", endpoint_url=endpoint)
        self.client.create_bucket(Bucket="bucket")

    def upload(self, folder: Path, name: str) -> str:
        """Copy a folder into the bucket and return its address."""
        for file in sorted(path for path in folder.iterdir() if path.is_file()):
            self.client.upload_file(str(file), "bucket", f"{name}/{file.name}")
        return f"s3://bucket/{name}"

    def put(self, key: str, content: bytes) -> None:
        """Replace one object."""
        self.client.put_object(Bucket="bucket", Key=key, Body=content)

    def delete(self, key: str) -> None:
        """Delete one object."""
        self.client.delete_object(Bucket="bucket", Key=key)


@contextmanager
def s3_store(environment: pytest.MonkeyPatch) -> Iterator[S3]:
    """Start a store; keys and endpoint are in the environment, where fsspec looks for them."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    endpoint = f"http://{host}:{port}"
    keys = {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_DEFAULT_REGION": "us-east-1"}
    for name, value in {**keys, "AWS_ENDPOINT_URL": endpoint}.items():
        environment.setenv(name, value)
    try:
        yield S3(endpoint)
    finally:
        server.stop()


class Web:
    """A folder behind a web server.

    Attributes:
        address: address of the folder.
        gets: how often each file was asked for.
        cut: names of files -> how often they come without their second half.
        flipped: names of files -> how often they come with a flipped bit in the middle.
        slow: names of files -> seconds that they stand still in the middle.
    """

    def __init__(self, address: str) -> None:
        self.address = address
        self.gets: Counter[str] = Counter()
        self.cut: Counter[str] = Counter()
        self.flipped: Counter[str] = Counter()
        self.slow: dict[str, float] = {}


class _Handler(http.server.SimpleHTTPRequestHandler):
    def __init__(self, *arguments, web: Web, **options) -> None:
        self.web = web
        super().__init__(*arguments, **options)

    def log_message(self, *arguments) -> None:
        pass

    def copyfile(self, source, outputfile) -> None:
        name, content = self.path.rpartition("/")[2], bytearray(source.read())
        self.web.gets[name] += 1
        with suppress(ConnectionError):  # the client may be gone
            self._send(name, content, outputfile)

    def _send(self, name: str, content: bytearray, outputfile) -> None:
        middle = len(content) // 2
        if self.web.flipped[name] > 0:
            self.web.flipped[name] -= 1
            content[middle] ^= 4
        outputfile.write(content[:middle])
        outputfile.flush()
        time.sleep(self.web.slow.get(name, 0))
        if self.web.cut[name] > 0:
            self.web.cut[name] -= 1
            self.close_connection = True
            return
        outputfile.write(content[middle:])


@contextmanager
def web_server(folder: Path) -> Iterator[Web]:
    """Serve a folder."""
    web = Web("")
    handler = partial(_Handler, directory=str(folder), web=web)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        web.address = f"http://127.0.0.1:{server.server_address[1]}"
        try:
            yield web
        finally:
            server.shutdown()
            thread.join()
