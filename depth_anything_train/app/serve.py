"""`depth-anything app`: the web page, served from this machine."""

from __future__ import annotations

import os
import signal
import socket
import tempfile
import threading
from pathlib import Path

from omegaconf import DictConfig

from depth_anything_train.app.models import Models, find_models
from depth_anything_train.app.offline import Offline
from depth_anything_train.command import command
from depth_anything_train.runtime import UserError, console, import_extra

LARGEST_UPLOAD = "2gb"
MOST_VISITORS = 32
"""Visitors whose last photograph stays in memory; the one who came longest ago is dropped for another."""


@command("app")
def main(cfg: DictConfig) -> None:
    """Serve the page until Ctrl+C or a request to terminate; uploads and results go with it."""
    with tempfile.TemporaryDirectory(prefix="depth-anything-") as cache:
        os.environ["GRADIO_TEMP_DIR"] = cache  # gradio looks when it is imported, and again later
        own = os.environ.get("no_proxy") or os.environ.get("NO_PROXY", "")
        os.environ["no_proxy"] = f"{cfg.host},localhost,{own}"  # gradio asks its own server whether it is up
        import_extra("gradio", extra="app")
        from starlette.middleware import Middleware

        from depth_anything_train.app.actions import Actions
        from depth_anything_train.app.page import STYLE, THEME, build_page

        port = free_port(cfg.host, cfg.port)
        models = Models(find_models(cfg.model), device=cfg.device)
        _ = models[models.names[0]]  # loaded now: a wrong path is told here, and the first photograph need not wait
        closing = threading.Event()
        page = build_page(Actions(models, Path(cache), closing))
        _, address, public = page.launch(
            server_name=cfg.host,
            server_port=port,
            share=cfg.share,
            inbrowser=cfg.open,
            prevent_thread_lock=True,
            quiet=True,
            theme=THEME,
            css=STYLE,
            footer_links=[],
            run_history=False,
            max_file_size=LARGEST_UPLOAD,
            state_session_capacity=MOST_VISITORS,
            app_kwargs={"middleware": [Middleware(Offline)]},
        )
        console.print(f"The page is at {public or address} and stops with Ctrl+C.", soft_wrap=True)
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: closing.set())
        closing.wait()
        page.close(verbose=False)


def free_port(host: str, port: int) -> int:
    """`port` if it can be had on `host`; any free one for 0.

    Raises:
        UserError: the port is taken, or not ours to take.
    """
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except (OSError, OverflowError) as error:
            reason = getattr(error, "strerror", None) or error
            raise UserError(
                f"Expected a free address, but {host} port {port} cannot be used: {reason}; choose another with port=."
            ) from None
        return int(probe.getsockname()[1])
