"""The parts that the report is put together from: tables, pictures as data URIs, legends. All text is escaped here."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Iterable, Sequence

import numpy as np

from lib.bootstrap import Interval
from lib.task import CLASSES


def table(header: Sequence[str], rows: Iterable[str], kind: str = "", caption: str = "") -> str:
    """A table in a box that scrolls, by keyboard too, where the page is narrow. `rows` come from `row`."""
    heads = "".join(f"<th scope=col>{html.escape(name)}</th>" if name else "<td></td>" for name in header)
    title = f"<caption>{html.escape(caption)}</caption>" if caption else ""
    label = html.escape(f"Table: {caption or ', '.join(filter(None, header))}")
    return (
        f'<div class=scroll tabindex=0 role=region aria-label="{label}"><table class="{kind}">{title}'
        f"<thead><tr>{heads}</tr></thead><tbody>{''.join(rows)}</tbody></table></div>"
    )


def row(name: str, cells: Iterable[str]) -> str:
    """A table row with its heading; `cells` come from `cell` or `bar`."""
    return f"<tr><th scope=row>{html.escape(name)}</th>{''.join(cells)}</tr>"


def cell(text: object, small: str = "", kind: str = "", share: float | None = None) -> str:
    """A table cell, with a second, smaller line and a share in 0..1 for the style sheet to shade by."""
    marks = (f' class="{kind}"' if kind else "") + (f' style="--share:{share:.3f}"' if share is not None else "")
    return f"<td{marks}>{html.escape(str(text))}{f'<small>{html.escape(small)}</small>' if small else ''}</td>"


def bar(share: float, colour: Sequence[int]) -> str:
    """A table cell with a bar of a share in 0..1."""
    return f'<td class=share><span style="--share:{share:.4f};background:{css(colour)}"></span></td>'


def spans(intervals: Sequence[Interval], zero: bool) -> list[str]:
    """Table cells that draw intervals on one axis: a line from low to high with a dot at the value.

    `zero`: whether the axis has a mark at zero. The numbers stand in cells of their own, so the drawing is hidden from
    readers that speak.
    """
    numbers = np.array([[one.low, one.value, one.high] for one in intervals])
    ends = [*numbers[np.isfinite(numbers)], *([0.0] if zero else [])]
    lowest, highest = (min(ends), max(ends)) if ends else (0.0, 1.0)
    places = (np.append(numbers, 0.0) - lowest) / (highest - lowest or 1)
    mark = f'<u style="--at:{places[-1]:.4f}"></u>' if zero else ""
    cells = []
    for low, value, high in places[:-1].reshape(-1, 3):
        known = np.isfinite([low, value, high]).all()
        line = f'<i style="--low:{low:.4f};--high:{high:.4f}"></i><b style="--at:{value:.4f}"></b>' if known else ""
        cells.append(f"<td class=range aria-hidden=true><span>{mark}{line}</span></td>")
    return cells


def panel(caption: str, alt: str, source: str, kind: str = "") -> str:
    """A captioned picture; `kind` is what the viewer finds it by."""
    mark = f' data-kind="{kind}"' if kind else ""
    return (
        f'<figure><img{mark} src="{source}" alt="{html.escape(alt)}" width=128 height=64 decoding=async>'
        f"<figcaption>{html.escape(caption)}</figcaption></figure>"
    )


def option(value: int, text: str) -> str:
    """An entry of a menu."""
    return f'<option value="{value}">{html.escape(text)}</option>'


def swatches(colours: Iterable[tuple[str, Sequence[int]]]) -> str:
    """Legend entries of (name, RGB)."""
    return "".join(f'<li><span class=swatch style="background:{css(rgb)}"></span>{name}</li>' for name, rgb in colours)


def css(colour: Sequence[int]) -> str:
    """RGB 0..255 as `#rrggbb`."""
    return "#" + bytes(int(part) for part in colour).hex()


def percent(share: float | None) -> str:
    """`43.21`, or a dash where it is not defined."""
    return "–" if share is None or np.isnan(share) else f"{100 * share:.2f}"


def value(thing: object) -> str:
    """A config value as text."""
    return ", ".join(map(str, thing)) or "none" if isinstance(thing, (tuple, list)) else str(thing)


def duration(seconds: float) -> str:
    """`1 h 5 min`, `5 min 3 s`."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {seconds} s"


def classes_in(mask: np.ndarray) -> str:
    """`soil 61%, sand 39%`: the classes of a mask, the largest first."""
    counts = np.bincount(mask.ravel(), minlength=len(CLASSES))
    shares = [f"{count / mask.size:.0%}" if count >= mask.size / 200 else "under 1%" for count in counts]
    return ", ".join(
        f"{CLASSES[label]} {shares[label]}" for label in np.argsort(-counts, kind="stable") if counts[label]
    )


def grey(pixels: np.ndarray) -> str:
    """A data URI of grey pixels (H, W) uint8."""
    from PIL import Image

    return _png(Image.fromarray(pixels))


def indexed(labels: np.ndarray, palette: np.ndarray) -> str:
    """A data URI of labels (H, W) uint8 in the colours of a palette (up to 16, 3) uint8."""
    from PIL import Image

    image = Image.fromarray(labels).convert("P")
    image.putpalette(palette.tobytes())
    return _png(image)


def _png(image) -> str:
    stream = io.BytesIO()
    image.save(stream, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(stream.getvalue()).decode()
