"""A page as a reader gets it: its elements and its text."""

from __future__ import annotations

import re
from html.parser import HTMLParser

ACTIVE = {"script", "iframe", "object", "link", "base", "form"}
VOID = {"meta", "img", "input", "br", "link"}
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


class Page(HTMLParser):
    """``tags``: (tag, attributes) in order. ``text``: what is shown, spaces folded. Fails on tags that do not close in order."""

    def __init__(self, page: str):
        super().__init__()
        self.tags, self.open, self.words = [], [], []
        self.feed(page)
        self.close()
        assert self.open == []
        self.text = re.sub(r"\s+", " ", " ".join(self.words))

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

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
        assert ACTIVE.isdisjoint(tag for tag, _ in self.tags)
        names = [name for _, attributes in self.tags for name in attributes]
        assert not [name for name in names if name.startswith("on")]
        assert all(image["src"].startswith("data:image/") for image in self.all("img"))
        assert all(link["href"].startswith("#") for link in self.all("a"))
        assert POLICY in [meta.get("content") for meta in self.all("meta")]
