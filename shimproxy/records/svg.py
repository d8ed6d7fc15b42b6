"""SVG as text: one element that needs nothing else, to be looked at on its own or to stand in a page.

1. No script, no link, no name that could clash with a page's: styles hold for what is in the element only.
2. Every text is escaped, and printable ASCII: XML 1.0 forbids most control characters, however written.
3. It follows the reader's dark or light preference.
4. A picture is laid out for WIDTH pixels, as a phone has, and grows with its place up to SHOWN_WIDTH.

It does not know what is drawn.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final
from xml.sax.saxutils import escape

if TYPE_CHECKING:
    from collections.abc import Iterable

# All in pixels, as on a phone.
WIDTH: Final = 440
SHOWN_WIDTH: Final = 680
"""How wide it is where there is room."""
MARGIN: Final = 8
FONT: Final = 11.0
SMALL_FONT: Final = 10.0
CHARACTER_PER_FONT: Final = 0.61
"""How wide a character of a monospaced font is: 0.60 with most, 0.61 with some."""

_STYLE: Final = """
.NAME { --ink: #1b1f24; --faint: #5c646d; --paper: #ffffff; --accent: #a8430a; --bar: #c3c9d0; color-scheme: light dark;
 display: block; max-width: 100%; height: auto; margin: 0 auto;
 font-family: ui-monospace, "DejaVu Sans Mono", Menlo, Consolas, monospace }
@media (prefers-color-scheme: dark) {
 .NAME { --ink: #e6edf3; --faint: #949da7; --paper: #12161c; --accent: #ffa657; --bar: #4a525c } }
.NAME .paper { fill: var(--paper) }
.NAME text { fill: var(--ink); white-space: pre }
.NAME .faint { fill: var(--faint) }
.NAME .title { font-weight: bold }
"""


def style(name: str, rules: str) -> str:
    """The style of all pictures of this class, and these rules; NAME in them is the class."""
    return (_STYLE + rules.lstrip()).replace("NAME", name)


def picture(name: str, title: str, styles: str, height: float, body: Iterable[str]) -> str:
    """The `<svg>` element of this class, in several lines that end in a newline."""
    lines = "\n".join(body)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" class="{name}" role="img" '
        f'width="{SHOWN_WIDTH}" height="{height * SHOWN_WIDTH / WIDTH:.0f}" '
        f'viewBox="0 0 {WIDTH} {height:.0f}" font-size="{FONT:g}">\n'
        f"<title>{escaped_text(title)}</title>\n<style>{styles}</style>\n"
        f'<rect class="paper" width="{WIDTH}" height="{height:.0f}"/>\n{lines}\n</svg>\n'
    )


def line_of_text(x: float, y: float, text: str, css: str = "", *, anchor: str = "start", size: float = FONT) -> str:
    """A line of text; `anchor` says which end of it is at x."""
    attributes = f' class="{css}"' if css else ""
    if anchor != "start":
        attributes += f' text-anchor="{anchor}"'
    if size != FONT:
        attributes += f' font-size="{size:g}"'
    return f'<text x="{x:.1f}" y="{y:.1f}"{attributes}>{escaped_text(text)}</text>'


def columns_in(pixels: float, size: float = FONT) -> int:
    """How many characters fit into so many pixels."""
    return int(pixels / (size * CHARACTER_PER_FONT))


def escaped_text(text: str) -> str:
    """The text as it may stand in an element."""
    return escape("".join(each if " " <= each <= "~" else each.encode("unicode_escape").decode() for each in text))
