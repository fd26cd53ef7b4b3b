"""HTML of report pages: elements whose texts are escaped, tables that scroll in their own box, the page around them."""

from __future__ import annotations

import html
import json
from collections.abc import Iterable, Mapping
from typing import Any

from jaxrl_llm.report.style import STYLE


def element(tag: str, text: object, **attributes: str) -> str:
    """An element whose text and attributes are escaped; ``class_`` is the attribute class."""
    return f"<{tag}{_listed(attributes)}>{html.escape(str(text))}</{tag}>"


def wrap(tag: str, *parts: str, **attributes: str) -> str:
    """An element around ``parts``, which are HTML already; attributes are escaped."""
    return f"<{tag}{_listed(attributes)}>{''.join(parts)}</{tag}>"


def _listed(attributes: Mapping[str, str]) -> str:
    return "".join(
        f' {name.rstrip("_").replace("_", "-")}="{html.escape(value)}"' for name, value in attributes.items()
    )


def table(rows: Iterable[tuple[str, str]]) -> str:
    """Names and values, two columns, in a box of their own that scrolls."""
    body = "".join(f"<tr>{element('th', name, scope='row')}{element('td', value)}</tr>" for name, value in rows)
    return f'<div class="scroll"><table>{body}</table></div>'


def flat(values: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, str]]:
    """(dotted path, value as JSON) of each leaf of a nested mapping."""
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from flat(value, f"{prefix}{name}.")
        else:
            yield prefix + name, json.dumps(value, ensure_ascii=False)


def document(title: str, *parts: str, style: str = "") -> str:
    """One page that fetches nothing: the shared style sheet, then ``style``, then ``parts``, which are HTML."""
    return "".join(
        (
            '<!DOCTYPE html><html lang="en"><head><meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            element("title", title),
            f"<style>{STYLE}{style}</style></head><body>",
            *parts,
            "</body></html>\n",
        )
    )
