"""The page of a segmenter: its mIoU beside the papers', its classes from best to worst, some images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from depth_anything_train.data.schema import BadSample
from depth_anything_train.data.test_sets import EvenlySpread
from depth_anything_train.evaluation.segmentation import read
from depth_anything_train.inference.segmentation import SlidingWindow
from depth_anything_train.models.segmenter import Segmenter
from depth_anything_train.ops.colormaps import color_classes
from depth_anything_train.pages.html import document, picture_row, table
from depth_anything_train.pages.pictures import Picture, PictureRow, encode


def pictures(
    model: Segmenter, data: Mapping[str, EvenlySpread], window: SlidingWindow, number: int
) -> list[PictureRow]:
    """Photograph, labels and prediction of some images of each folder, evenly spread."""
    rows = []
    for name, records in data.items():
        chosen = EvenlySpread(records, number)
        for record in (chosen[index] for index in range(len(chosen))):
            try:
                image, truth = read(record, model.config.num_classes)
            except BadSample:  # counted already
                continue
            found = window.classes(model, image, truth.shape)
            shown = {"photograph": image, "classes": color_classes(truth), "prediction": color_classes(found)}
            row = [Picture(title, "", f"{title} of {record.key}", encode(x)) for title, x in shown.items()]
            rows.append(PictureRow(name, record.key, row))
    return rows


def segmentation_page(results: Mapping[str, Any], rows: Sequence[PictureRow]) -> str:
    """The page: ours beside the papers', the classes from best to worst, pictures."""
    window, ours = results["window"], results["miou"]
    looks = f"shorter side {window['size']}" if window["size"] else "images of their own size"
    scales = f", {len(window['scales'])} scales" if len(window["scales"]) > 1 else ""
    about = (
        f"{results['images']} images; {looks}, windows of {window['crop']} every {window['stride']} pixels{scales}"
        f"{', mirrored too' if window['flip'] else ''}; pixels without class do not count."
    )
    others = {"a map of the commonest class": results["best_constant_miou"], **results["paper_miou"]}
    compared = [[results["model"]["name"], f"{100 * ours:.1f}", ""]]
    compared += [[title, f"{100 * value:.1f}", f"{100 * (ours - value):+.1f}"] for title, value in others.items()]
    shown = sorted((one for one in results["classes"] if one["iou"] is not None), key=lambda one: -one["iou"])
    parts = [
        f"<h1>{escape(results['model']['name'])} on {escape(results['benchmark'])}</h1>",
        f'<p class="soft">{escape(about)}</p>',
        table(["", "mIoU (%)", "ours minus this"], compared),
        f'<p class="soft">Accuracy of all pixels: {100 * results["accuracy"]:.1f} %.</p>',
        "<h2>Images</h2>",
        '<p class="soft">One colour a class, some of them twice; grey has none.</p>',
        *(f"<h3>{escape(row.key)}</h3>{picture_row(row)}" for row in rows),
        "<h2>Classes</h2>",
        table(["", "IoU (%)", "pixels"], [[x["name"], f"{100 * x['iou']:.1f}", f"{x['pixels']:,}"] for x in shown]),
    ]
    return document(f"{results['model']['name']}: {results['benchmark']}", "\n".join(parts))
