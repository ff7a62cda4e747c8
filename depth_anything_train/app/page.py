"""The layout of the page, and which action belongs to which event."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import gradio as gr

from depth_anything_train.app.actions import Actions
from depth_anything_train.inference.pointcloud import DEFAULT_FOV_DEG

TITLE = "Depth Anything Train"
SIZES = [("as trained", 0), *((f"{size} pixels", size) for size in (252, 364, 518, 700, 1036))]
PALETTES = ["Spectral_r", "inferno", "magma", "viridis", "turbo", "gray"]
PICTURES = [("Colours", "color"), ("Side by side", "side_by_side"), ("Control map", "control")]
FOV_DEG = (1, 170)
"""From the longest lenses of photographers to the widest; gradio refuses what lies outside."""
KEPT_SECONDS = 3600
"""Uploads and results are deleted after this time."""

THEME = gr.themes.Default(font=gr.themes.LocalFont("Source Sans Pro", weights=(400, 700)))
STYLE = (Path(__file__).parent / "style.css").read_text()


def build_page(actions: Actions) -> gr.Blocks:
    """The page; `THEME` and `STYLE` go with it."""
    with gr.Blocks(title=TITLE, analytics_enabled=False, delete_cache=(KEPT_SECONDS // 4, KEPT_SECONDS)) as page:
        gr.Markdown(f"# {TITLE}")
        with gr.Row():
            model = gr.Dropdown(actions.models.names, label="Model")
            size = gr.Dropdown(SIZES, value=0, label="Input size, shorter side")
            palette = gr.Dropdown(PALETTES, label="Palette")
        with gr.Tab("Image"), gr.Row():
            _image_tab(actions, model, size, palette)
        with gr.Tab("Video"), gr.Row():
            _video_tab(actions, model, size, palette)
    return page


def _image_tab(actions: Actions, model: gr.Dropdown, size: gr.Dropdown, palette: gr.Dropdown) -> None:
    result = gr.State(time_to_live=KEPT_SECONDS)
    with gr.Column(scale=2, min_width=280):
        photo = gr.Image(label="Photograph", sources=["upload", "clipboard", "webcam"])
        photo.preprocess = _as_it_came  # type: ignore
    with gr.Column(scale=5, min_width=320):
        with gr.Tab("Disparity"):
            slider = gr.ImageSlider(show_label=False, interactive=False, max_height=540)
            caption = gr.HTML()
        with gr.Tab("3-D") as space:
            viewer = gr.Model3D(show_label=False, interactive=False, height=540)
            label = "Field of view, degrees across the longer side"
            fov = gr.Slider(*FOV_DEG, DEFAULT_FOV_DEG, step=0.1, label=label)
        with gr.Row(elem_classes="downloads"):
            color = gr.DownloadButton("Colours (PNG)", interactive=False)
            labels = ("Control map (PNG)", "16 bits (PNG)", "Numbers (npy)")
            depth = [gr.DownloadButton(label, interactive=False) for label in labels]
            points = gr.DownloadButton("Points (PLY)", interactive=False)

    predicted = gr.on(
        [photo.input, model.input, size.input],
        actions.predict,
        [photo, model, size],
        result,
        show_progress_on=slider,
        trigger_mode="always_last",
    )
    emptied = predicted.then(actions.forget, None, [color, *depth, points])
    shown = emptied.then(actions.show, [result, palette], [slider, caption])
    shown.then(actions.save_colors, [result, palette], color).then(actions.save_depth, result, depth)
    shown.then(actions.look, result, fov).then(actions.place, [result, fov], [viewer, points])
    recolored = palette.input(actions.show, [result, palette], [slider, caption], trigger_mode="always_last")
    recolored.then(actions.save_colors, [result, palette], color)
    # The viewer never shows what it was given before its tab was open, so it is given it then.
    gr.on([space.select, fov.input], actions.place, [result, fov], [viewer, points], trigger_mode="always_last")


def _as_it_came(photo: Any) -> str | None:
    """The uploaded file for our own decoder, which knows best what is wrong with it."""
    return photo and photo.path


def _video_tab(actions: Actions, model: gr.Dropdown, size: gr.Dropdown, palette: gr.Dropdown) -> None:
    stop = gr.State(threading.Event)
    with gr.Column(scale=2, min_width=280):
        video = gr.Video(label="Video", sources=["upload", "webcam"])
        picture = gr.Radio(PICTURES, value="color", label="Result")
        with gr.Row():
            start_button = gr.Button("Predict", variant="primary")
            stop_button = gr.Button("Stop")
    with gr.Column(scale=5, min_width=320):
        film = gr.Video(show_label=False, interactive=False)

    start_button.click(actions.film, [video, model, size, palette, picture, stop], film)
    stop_button.click(threading.Event.set, stop, queue=False)
