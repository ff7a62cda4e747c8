"""Parts that every page of ours is made of: one HTML file with everything inline, nothing loaded from anywhere."""

from __future__ import annotations

from html import escape
from importlib.resources import files

import matplotlib
from matplotlib.colors import to_hex

from depth_anything_train.pages.pictures import Picture, PictureRow


def document(title: str, body: str) -> str:
    """A whole page around the HTML of its body."""
    style = (files("depth_anything_train.pages") / "style.css").read_text()
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>\n{style}</style>\n</head>\n<body>\n<main>\n{body}\n</main>\n"
        "</body>\n</html>\n"
    )


def image(picture: Picture) -> str:
    """The picture alone."""
    return f'<img src="{picture.data}" alt="{escape(picture.alt)}">'


def picture_row(row: PictureRow) -> str:
    """Pictures side by side, each with its title and caption."""
    figures = (
        f"<figure>{image(p)}<figcaption><b>{escape(spoken(p.title))}</b> {escape(p.caption)}</figcaption></figure>"
        for p in row.pictures
    )
    return f'<div class="row">{"".join(figures)}</div>'


def gradient(colormap: str) -> str:
    """A small bar with the colours of a map, from its first to its last."""
    colors = ", ".join(to_hex(matplotlib.colormaps[colormap](k / 8)) for k in range(9))
    return f'<span class="scale" style="background: linear-gradient(to right, {colors})"></span>'


def cell(tag: str, text: str, *, edge: bool = False, best: bool = False) -> str:
    """A cell of a table; `edge` draws a line to its left, `best` marks it."""
    classes = " ".join(name for name, wanted in (("edge", edge), ("best", best)) if wanted)
    attribute = f' class="{classes}"' if classes else ""
    return f"<{tag}{attribute}>{escape(text)}</{tag}>"


def card(name: str, figure: str, unit: str = "", note: str = "") -> str:
    """One large number in a box: its name above, its unit beside and a note below."""
    small = f" <small>{escape(unit)}</small>" if unit else ""
    return (
        f'<div class="card"><div class="name">{escape(name)}</div><div class="figure">{escape(figure)}{small}</div>'
        f'<div class="soft">{escape(note)}</div></div>'
    )


def table(head: list[str], rows: list[list[str]]) -> str:
    """A table of texts; the first cell of each row names it."""
    top = "".join(cell("th", text) for text in head)
    body = "\n".join(f"<tr>{cell('th', row[0])}{''.join(cell('td', text) for text in row[1:])}</tr>" for row in rows)
    return f'<div class="scroll"><table>\n<thead><tr>{top}</tr></thead>\n<tbody>\n{body}\n</tbody>\n</table></div>'


def spoken(name: str) -> str:
    """`mean_map` -> `mean map`."""
    return name.replace("_", " ")
