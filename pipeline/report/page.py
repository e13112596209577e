"""The pieces of an HTML page, its style and its script; whatever comes from data is escaped
here."""

from __future__ import annotations

import html
import re
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from pipeline.report import pictures

if TYPE_CHECKING:
    from IPython.display import HTML
    from matplotlib.figure import Figure


def whole(title: str, parts: Iterable[str]) -> str:
    """The page: a title, and its parts, which are HTML already."""
    return _PAGE.format(title=html.escape(title), body="\n".join(parts))


def in_notebook(source: str, height: int = 800) -> HTML:
    """A whole page for the end of a notebook's cell, in a frame of its own, so that its style rules
    nothing else.

    Args:
        source: Of the page.
        height: Of the frame, in pixels; the page scrolls inside.
    """
    from IPython.display import HTML  # lazy: only notebooks have it

    style = f"width: 100%; height: {height}px; border: 0"
    return HTML(f'<div><iframe srcdoc="{html.escape(source)}" style="{style}"></iframe></div>')


def section(title: str, how_to_read: str, *content: str) -> list[str]:
    """A heading of the page, a sentence on how to read what follows, and what follows; all of it
    HTML."""
    return [
        f"<section><h2>{title}</h2>",
        f'<p class="how">{how_to_read}</p>',
        *content,
        "</section>",
    ]


def text(sentence: str) -> str:
    """A sentence as a paragraph."""
    return f"<p>{html.escape(sentence)}</p>"


def pair(*parts: str) -> str:
    """Parts beside each other, on a phone below each other; empty ones are left out."""
    return f'<div class="pair">{"".join(f"<div>{part}</div>" for part in parts if part)}</div>'


def details(title: str, *content: str) -> str:
    """What is folded until somebody asks."""
    return f"<details><summary>{title}</summary>{''.join(content)}</details>"


def picture(figure: Figure, caption: str) -> str:
    """A figure below its caption, which is unlike any other on the page."""
    return f"<figure><figcaption>{html.escape(caption)}</figcaption>{pictures.to_svg(figure, caption)}</figure>"


def table(rows: Iterable[Sequence[str]]) -> str:
    """Text cells, a heading first; verdicts are coloured."""
    first, *others = rows
    heading = "".join(f"<th>{html.escape(cell)}</th>" for cell in first)
    body = "".join("<tr>" + "".join(_cell(cell) for cell in row) + "</tr>" for row in others)
    return f'<div class="scroll"><table><thead><tr>{heading}</tr></thead><tbody>{body}</tbody></table></div>'


_GOOD, _BAD = ("BEATS", "right"), ("LOSES", "wrong", "outside")


def _cell(text: str) -> str:
    tone = ' class="good"' if text in _GOOD else ' class="bad"' if text in _BAD else ""
    return f"<td{tone}>{html.escape(minus(text))}</td>"


def minus(text: str) -> str:
    """The text with a sign that no line breaks behind, where a hyphen begins a number."""
    return re.sub(r"(?<!\S)-(?=\d)", "−", text)


_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<link rel="icon" href="data:,"><title>{title}</title><style>
:root {{ color-scheme: light dark; --paper: #ffffff; --card: #f5f6f8; --ink: #1d2327; --muted: #5f6975; --line: #d9dee4;
  --accent: #2b5c9e; --good: #1a7f5a; --bad: #b3423a; }}
@media (prefers-color-scheme: dark) {{ :root {{ --paper: #14171a; --card: #1e2328; --ink: #e4e8ec; --muted: #9aa5b1;
  --line: #343b43; --accent: #7db0f0; --good: #4fc79a; --bad: #f0857c; }} }}
* {{ box-sizing: border-box; }}
body {{ font: 16px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper); max-width: 68rem;
  margin: 0 auto; padding: 1.5rem 1rem 3rem; }}
h1 {{ font-size: 1.6rem; line-height: 1.25; margin: 0 0 .3rem; }} h1 + p {{ max-width: none; }}
h2 {{ font-size: 1.25rem; margin: 0 0 .3rem; }} h3 {{ font-size: 1rem; margin: .6rem 0 .2rem; }}
section {{ margin-top: 2.6rem; padding-top: 1.4rem; border-top: 1px solid var(--line); }}
p {{ margin: .5rem 0; max-width: 46rem; }}
.how, .note, figcaption {{ color: var(--muted); }} .note, figcaption {{ font-size: .875rem; }}
.banner {{ max-width: none; margin: 1rem 0; padding: .8rem 1rem; border-left: .4rem solid var(--muted);
  background: var(--card); border-radius: .2rem; }}
.banner p {{ margin: .2rem 0; max-width: none; }} .verdict {{ font-size: 1.2rem; font-weight: 650; }}
.banner.good {{ border-color: var(--good); }} .banner.bad {{ border-color: var(--bad); }}
td.good {{ color: var(--good); font-weight: 600; }} td.bad {{ color: var(--bad); font-weight: 600; }}
.tiles {{ display: grid; grid-template-columns: repeat(auto-fit, minmax(10.5rem, 1fr)); gap: .7rem; margin: 1rem 0 0; }}
.tiles div {{ background: var(--card); border-radius: .3rem; padding: .7rem .9rem; }}
dt, dd {{ margin: 0; font-size: .875rem; color: var(--muted); }}
dt + dd {{ font-size: 1.7rem; line-height: 1.3; color: var(--ink); font-variant-numeric: tabular-nums; }}
.pair {{ display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 26rem), 1fr)); gap: 1rem 2rem; }}
.pair > div {{ min-width: 0; }} figure {{ margin: .6rem 0; max-width: 36rem; }}
svg {{ display: block; width: 100%; height: auto; }} svg * {{ stroke-linejoin: round; }}
svg text {{ font-family: system-ui, sans-serif !important; }}
select {{ font: inherit; max-width: 100%; padding: .3rem; }}
.scroll {{ overflow-x: auto; margin: .8rem 0; }}
table {{ border-collapse: collapse; font-size: .875rem; font-variant-numeric: tabular-nums; }}
th, td {{ padding: .3rem .45rem; text-align: right; border-bottom: 1px solid var(--line); white-space: nowrap; }}
th {{ color: var(--muted); font-weight: 600; white-space: normal; vertical-align: bottom; }}
th:first-child, td:first-child {{ text-align: left; padding-left: 0; }}
details {{ margin: .6rem 0; }} summary {{ cursor: pointer; }}
@media (max-width: 34rem) {{ table {{ font-size: .8rem; }} th, td {{ white-space: normal; padding: .3rem; }} }}
</style></head><body>
{body}
<script>
for (const chooser of document.querySelectorAll(".chooser select")) {{
  chooser.hidden = false;
  chooser.onchange = () => {{
    for (const week of chooser.parentNode.querySelectorAll("div")) week.hidden = week.id !== chooser.value;
  }};
}}
</script></body></html>
"""
