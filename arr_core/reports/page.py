"""What the project's pages share: one template with its style, charts, pictures and words. Every page is self-contained."""

from pathlib import Path
from string import Template

PAGE = Path(__file__).parent / "templates" / "page.html"


def fill(title: str, body: str) -> str:
    """The page of a title and a body, both of which are HTML already."""
    return Template(PAGE.read_text(encoding="utf-8")).substitute(title=title, body=body)
