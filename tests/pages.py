"""A reader of pages that are one HTML file."""

from __future__ import annotations

import html.parser


class Page(html.parser.HTMLParser):
    """Tags, attributes that fetch, and texts of a page; checks that elements are closed in order."""

    VOID = ("meta", "br", "path", "use", "rect")

    def __init__(self, text: str):
        super().__init__()
        self.tags: list[str] = []
        self.links: list[str] = []
        self.ids: list[str] = []
        self.texts: list[str] = []
        self.open: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.links += [value or "" for name, value in attrs if name in ("src", "href", "xlink:href")]
        self.ids += [value or "" for name, value in attrs if name == "id"]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in self.VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        if tag not in self.VOID:
            assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append(data)

    @property
    def shown(self) -> str:
        return "".join(self.texts)

    def fetches_nothing(self) -> bool:
        """Whether the page runs no script, and links, images and style sheets stay inside of it."""
        styles = "".join(self.texts)
        inside = all(link.startswith("#") for link in self.links)
        return inside and "script" not in self.tags and "@import" not in styles and "url(http" not in styles
