"""HTML from the templates beside this module, and the parts for a section of one's own.

Whatever comes from data is escaped, by the templates and here.
"""

from __future__ import annotations

import contextlib
import html
import math
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined, TemplateError
from markupsafe import Markup

from pipeline.bundle.metadata import shown
from pipeline.report import pictures, reading, sentences, tables

if TYPE_CHECKING:
    from IPython.display import HTML
    from matplotlib.figure import Figure

TONES = {"good": ("BEATS", "right"), "bad": ("LOSES", "wrong", "outside")}
"""class of a table's cell -> what the cell says"""


def render(template: str, **context: Any) -> str:
    """A file of `templates/`, filled in; only what is `Markup` in the context is not escaped."""
    return _HTML.get_template(template).render(context)


@contextlib.contextmanager
def of_file(where: str) -> Iterator[None]:
    """Fill in a template with what a file says, which may be a stranger's.

    Raises:
        ValueError: It lacks what every training run writes, or has it in another shape.
    """
    try:
        yield
    except (LookupError, TypeError, AttributeError, TemplateError) as error:
        raise ValueError(
            f"{where}: not what a training run writes ({type(error).__name__}: "
            f"{shown(str(error))}); copy the bundle again, or train it again"
        ) from error


def whole(title: str, parts: Iterable[str]) -> str:
    """The page: a title, and its parts, which are HTML already."""
    return render("page.html", title=title, body=Markup("\n".join(parts)))


def in_notebook(source: str, height: int = 800) -> HTML:
    """A whole page for the end of a notebook's cell, in a frame of its own.

    Args:
        source: HTML of the page; its style rules nothing outside the frame.
        height: Height of the frame, in pixels; the page scrolls inside.
    """
    from IPython.display import HTML  # lazy: only notebooks have it

    style = f"width: 100%; height: {height}px; border: 0"
    return HTML(f'<div><iframe srcdoc="{html.escape(source)}" style="{style}"></iframe></div>')


def section(title: str, how_to_read: str, *content: str) -> list[str]:
    """A heading, a sentence on how to read what follows, and what follows, which is HTML."""
    body = Markup("\n".join(content))
    return [str(_part("section")(title, how_to_read, caller=lambda: body))]


def text(sentence: str) -> str:
    """A sentence as a paragraph."""
    return f"<p>{html.escape(sentence)}</p>"


def pair(*parts: str) -> str:
    """Parts, HTML, beside each other, on a phone below each other; empty ones are left out."""
    cells = "".join(f"<div>{part}</div>" for part in parts if part)
    return f'<div class="pair">{cells}</div>'


def picture(figure: Figure, caption: str) -> Markup:
    """A figure below its caption, which is unlike any other on the page."""
    frame = Markup("<figure><figcaption>{}</figcaption>{}</figure>")
    return frame.format(caption, Markup(pictures.to_svg(figure, caption)))


def table(rows: Sequence[Sequence[str]]) -> str:
    """Text cells, a heading first; verdicts are coloured."""
    return str(_part("table")(rows))


def tiles(facts: Sequence[tuple[str, str, str]]) -> str:
    """Numbers that stand out: name, value and a note each."""
    return str(_part("tiles")(facts))


def warning(sentence: str) -> str:
    """What a reader must not miss."""
    return str(_part("warning")(sentence))


def minus(cell: object) -> str:
    """The text with a sign that no line breaks behind, where a hyphen begins a number."""
    return re.sub(r"(?<![\w−-])-(?=\d)", "−", str(cell))


def slug(title: object) -> str:
    """A title as the id of its section.

    Example:
        >>> slug("Is the confidence a probability?")
        'is-the-confidence-a-probability'
    """
    return re.sub(r"\W+", "-", str(title).lower()).strip("-")


def contents(body: Markup) -> list[tuple[str, Markup]]:
    """The sections of a page: id -> what a link to it says, as the macro `section` wrote them."""
    found = re.findall(r'<section id="(.*?)" data-name="(.*?)">', body)
    return [(name, Markup(title)) for name, title in found]


def heat(value: float | None, largest: float) -> Markup:
    """The attributes that colour a cell of a heat map by a number, up to `largest` either way."""
    if value is None or not math.isfinite(value) or value == 0 or largest == 0:
        return Markup("")
    share = round(45 * min(abs(value) / largest, 1))
    return Markup(f' class="heat {"up" if value > 0 else "down"}" style="--share: {share}%"')


def _part(name: str) -> Any:
    """A macro of the templates."""
    return getattr(_HTML.get_template("parts.html").module, name)


def _tone(cell: str) -> Markup:
    """The attribute that colours a table's cell."""
    classes = (f' class="{tone}"' for tone, words in TONES.items() if cell in words)
    return Markup(next(classes, ""))


def environment(**options: Any) -> Environment:
    """The templates beside this module, for HTML unless the options say otherwise."""
    made = Environment(
        loader=FileSystemLoader(Path(__file__).with_name("templates")),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        **{"autoescape": True} | options,
    )
    made.filters |= {"minus": minus, "tone": _tone, "slug": slug}
    made.globals |= {"reading": reading, "tables": tables, "sentences": sentences}
    made.globals |= {"show": reading.show, "span": reading.span}
    made.globals |= {"pictures": pictures, "picture": picture, "live": False}
    made.globals |= {"contents": contents, "heat": heat}
    return made


_HTML = environment()
