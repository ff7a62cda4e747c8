"""What happens when a visitor drops, chooses or moves something; given None, an action returns the initial state."""

from __future__ import annotations

import functools
import tempfile
import threading
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gradio as gr

from depth_anything_train.app.models import Models
from depth_anything_train.app.results import Result, predict
from depth_anything_train.inference.outputs import Outputs
from depth_anything_train.inference.video import predict_video
from depth_anything_train.runtime import UserError


def told(action: Callable[..., Any]) -> Callable[..., Any]:
    """Show an error in the page, which then looks as if nothing had been given; the server goes on."""

    @functools.wraps(action)
    def run(self: Actions, given: Any, *others: Any) -> Any:
        try:
            return action(self, given, *others)
        except UserError as error:
            message = str(error)
        except Exception as error:  # out of memory at a large input size, say
            traceback.print_exc()
            message = f"The server could not do it ({type(error).__name__}); its terminal says more."
        gr.Warning(message)
        return action(self, None, *others)

    return run


class Actions:
    """The handlers of the page's events.

    Args:
        models: to choose from.
        cache: folder for results, `GRADIO_TEMP_DIR` of this process.
        closing: set when the server is about to end; videos stop then.
    """

    def __init__(self, models: Models, cache: Path, closing: threading.Event) -> None:
        self.models, self.cache, self.closing = models, cache, closing

    @told
    def predict(self, photo: str | None, model: str, size: int) -> Result | None:
        """Run the network; everything else about a photograph is made of its result. `size` 0 is the model's own."""
        return predict(Path(photo), self.models[model], size=size or None, cache=self.cache) if photo else None

    def forget(self) -> list[gr.DownloadButton]:
        """Grey out all downloads: they belong to the previous result until those of the new one are ready."""
        return [download()] * 5

    @told
    def show(self, result: Result | None, palette: str) -> list[Any]:
        """Pictures for the slider, and the caption below."""
        return [None, ""] if result is None else [result.shown(palette), result.caption(palette)]

    @told
    def save_colors(self, result: Result | None, palette: str) -> gr.DownloadButton:
        """The colour picture in full size."""
        return download() if result is None else download(*result.files("color", colormap=palette))

    @told
    def save_depth(self, result: Result | None) -> list[gr.DownloadButton]:
        """Control map, 16 bits and numbers."""
        return [download()] * 3 if result is None else list(map(download, result.files("control", "16bit", "npy")))

    @told
    def look(self, result: Result | None) -> Any:
        """The field of view that the photograph states, to be read; where it states none, the slider stays."""
        return gr.skip() if result is None or result.fov_deg is None else round(result.fov_deg, 2)

    @told
    def place(self, result: Result | None, fov_deg: float) -> list[Any]:
        """Points for the viewer and for the download."""
        if result is None:
            return [None, download()]
        viewed, points = result.points(fov_deg)
        return [viewed, download(points)]

    @told
    def film(
        self,
        video: str | None,
        model: str,
        size: int,
        palette: str,
        picture: str,
        stop: threading.Event,
        progress: gr.Progress = gr.Progress(),  # noqa: B008 (gradio puts the visitor's there)
    ) -> str | None:
        """Predict a video frame by frame until `stop`."""
        if video is None:
            return None

        def on_frame(done: int, total: int | None) -> None:
            if stop.is_set() or self.closing.is_set():
                raise UserError("The video was stopped; nothing of it is kept.")
            progress((done, total), unit="frames")

        stop.clear()
        (path,) = predict_video(
            self.models[model],
            video,
            Path(tempfile.mkdtemp(dir=self.cache)) / Path(video).stem,
            outputs=Outputs((picture,), palette),
            size=size or None,
            batch_size=1,  # progress and Stop are prompt then
            on_frame=on_frame,
        )
        return str(path)


def download(path: str | None = None) -> gr.DownloadButton:
    """The new state of a download button: ready for that file, or grey."""
    return gr.DownloadButton(value=path, interactive=path is not None)
