"""A served page with two tiny models, and a real browser that looks at it."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from networks import build

from depth_anything_train.inference.depth_anything import DepthAnything

# The command itself, in a Python that writes down every address it connects to.
WATCHED = """
import sys

hosts = open(sys.argv.pop(1), "a", buffering=1)
sys.addaudithook(
    lambda event, arguments: event == "socket.connect"
    and isinstance(arguments[1], tuple)
    and print(arguments[1][0], file=hosts)
)
from depth_anything_train.app.serve import main

main()
"""


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> Path:
    """A folder of runs: a relative model and a metric one."""
    folder = tmp_path_factory.mktemp("runs")
    for kind, network in (("relative", build()), ("with_metres", build(kind="metric", max_depth_m=20.0))):
        DepthAnything(network, size=28, device="cpu").save_pretrained(folder / kind / "model")
    return folder


@pytest.fixture(scope="module")
def server(models, tmp_path_factory):
    """The command, running: its address, its temporary folder and the file of hosts that it connected to."""
    folder = tmp_path_factory.mktemp("server")
    (folder / "tmp").mkdir()
    command = [sys.executable, "-c", WATCHED, folder / "hosts", f"model={models}", "port=0", "device=cpu"]
    log = folder / "log"
    with log.open("w") as output:
        process = subprocess.Popen(
            command, stdout=output, stderr=output, env={**os.environ, "TMPDIR": str(folder / "tmp")}
        )
    try:
        deadline = time.monotonic() + 100
        while "The page is at" not in log.read_text():
            assert process.poll() is None and time.monotonic() < deadline, log.read_text()
            time.sleep(0.1)
        address = re.search(r"http://127.0.0.1:\d+/", log.read_text())[0]
        yield SimpleNamespace(address=address, process=process, log=log, hosts=folder / "hosts", tmp=folder / "tmp")
    finally:
        process.kill()
        process.wait()


@pytest.fixture(scope="module")
def browser():
    """Chromium without a window."""
    program = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if program is None:
        pytest.skip("no Chromium on this machine")
    playwright = pytest.importorskip("playwright.sync_api")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=program, headless=True, args=["--no-sandbox"])
        yield browser.new_context(viewport={"width": 1280, "height": 900})  # one for all tests: its cache saves seconds
        browser.close()


@pytest.fixture
def page(browser, server):
    """The page, opened anew; whatever it asks for must come from its own server."""
    page = browser.new_page()
    requests = []
    page.on("request", lambda request: requests.append(request.url))
    page.goto(server.address)
    page.get_by_role("tab", name="Disparity").wait_for()
    yield page
    page.close()
    own = (server.address, f"blob:{server.address}", "data:")
    assert [url for url in requests if not url.startswith(own)] == []
    assert len(requests) > 10
