"""The page of `leaks`: each training image beside the test image that it is a copy of."""

from __future__ import annotations

from collections import Counter

from data_engine.leaks.search import Leak, LeakReport, open_images
from depth_anything_train.data.images import decode_image
from depth_anything_train.pages.html import card, document, picture_row, table
from depth_anything_train.pages.pictures import Picture, PictureRow, encode


def render(report: LeakReport, num_pairs: int) -> str:
    """The HTML of the page, with pictures of the `num_pairs` pairs that are most alike."""
    skipped = sum(report.skipped.values())
    cards = [
        card("copies", f"{len(report.leaks):,}", "pairs", f"of {report.near:,} that are near by their hashes"),
        card("training images", f"{report.train_images:,}"),
        card("test images", f"{report.test_images:,}"),
        card("not compared", f"{skipped:,}", "images", _reasons(report)),
    ]
    parts = ["<h1>Test images among training images</h1>", f'<div class="cards">{"".join(cards)}</div>']
    if report.leaks:
        counts = Counter((leak.train, leak.test) for leak in report.leaks)
        rows = [[train, test, f"{count:,}"] for (train, test), count in counts.items()]
        shown = report.leaks[:num_pairs]
        pairs = "\n".join(picture_row(_pair(leak)) for leak in shown)
        parts += [
            "<h2>Where</h2>",
            table(["training folder", "test folder", "copies"], rows),
            "<h2>Pairs</h2>",
            f'<p class="soft">The {len(shown)} most alike of {len(report.leaks):,}; all of them are in leaks.csv. '
            "Correlation is that of aligned detail, distance the number of 64 bits in which their hashes differ."
            f'</p>\n<div class="pairs">\n{pairs}\n</div>',
        ]
    return document("Test images among training images", "\n".join(parts))


def _reasons(report: LeakReport) -> str:
    return ", ".join(f"{count} × {reason}" for reason, count in sorted(report.skipped.items())) or "all were read"


def _pair(leak: Leak) -> PictureRow:
    how = f"correlation {leak.correlation:.2f}, distance {leak.distance}{', mirrored' if leak.mirrored else ''}"
    sides = (
        ("training", leak.train, leak.train_shard, leak.train_number, leak.train_key),
        ("test", leak.test, leak.test_shard, leak.test_number, leak.test_key),
    )
    pictures = []
    for title, name, shard, number, key in sides:
        folder = open_images(name)
        position = next(n for n, path in enumerate(folder.shards) if path.name == shard)
        image = encode(decode_image(folder.shard(position).read(number).image))
        caption = f"{shard} {key}" + (f": {how}" if title == "test" else "")
        pictures.append(Picture(title, caption, f"{title} image {key}, {how}", image))
    return PictureRow("", leak.train_key, pictures)
