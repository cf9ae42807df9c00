"""A page as a reader gets it: its elements and its text."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path

ACTIVE = {"script", "iframe", "object", "link", "base", "form"}
VOID = {"meta", "img", "input", "br", "link"}
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


class Page(HTMLParser):
    """``html``: the page. ``tags``: (tag, attributes) in order. ``text``: what is shown, spaces folded.

    Fails on tags that do not close in order.
    """

    def __init__(self, path: Path):
        super().__init__()
        self.html = path.read_text(encoding="utf-8")
        self.tags, self.open, self.words = [], [], []
        self.feed(self.html)
        assert self.open == []
        self.text = re.sub(r"\s+", " ", " ".join(self.words))

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if not {"style", "title"} & set(self.open):
            self.words.append(data)

    def all(self, tag: str) -> list[dict]:
        """The attributes of every element of this kind."""
        return [attributes for name, attributes in self.tags if name == tag]

    def assert_inert(self) -> None:
        """The page can load nothing and run nothing."""
        for tag, attributes in self.tags:
            assert tag not in ACTIVE
            assert not [name for name in attributes if name.startswith("on")]
        assert all(image["src"].startswith("data:image/") for image in self.all("img"))
        assert all(link["href"].startswith("#") for link in self.all("a"))
        assert POLICY in [meta.get("content") for meta in self.all("meta")]
