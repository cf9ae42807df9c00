"""README and docs say what is true: links lead somewhere, commands and fields exist, tables are what was measured."""

from __future__ import annotations

import ast
import contextlib
import functools
import importlib
import io
import json
import re
import shlex
from collections import defaultdict
from pathlib import Path

import pytest
import yaml

from arr_core.config.presets import PRESETS
from arr_core.config.schema import TrainConfig
from arr_core.judging.profiles import Profile
from benchmarks import learning

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md")]
PAGES += sorted((ROOT / "docs").glob("*.md"))
FIELDS = {
    f"--{section}.{name}"
    for section, info in TrainConfig.model_fields.items()
    for name in info.annotation.model_fields
}
SUBCOMMANDS = {
    "rubric": ("pairs", "describe", "show"),
    "judge": ("evaluate", "show", "label"),
    "adapter": ("inspect", "convert"),
}

each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)


def text_of(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^ *```{language}\n(.*?)^ *```", text_of(page), re.DOTALL | re.MULTILINE)


def anchors(page: Path) -> set[str]:
    """The names that GitHub gives to the headings of a page."""
    headings = re.findall(r"^#+ (.*)", text_of(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@functools.cache
def help_of(*words: str) -> str:
    main = importlib.import_module(f"arr_core.{words[0]}").main
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), contextlib.suppress(SystemExit):
        main([*words[1:], "--help"])
    return printed.getvalue()


def test_the_readme_is_short():
    assert len(text_of(ROOT / "README.md")) <= 6000


@each_page
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", text_of(page)):
        if target.startswith("https://"):
            continue
        name, _, anchor = target.partition("#")
        file = (page.parent / name).resolve() if name else page
        assert file.exists(), target
        assert not anchor or anchor in anchors(file), target


@each_page
def test_commands_exist_with_their_flags(page):
    words_of_code = re.findall(r"`([^`\n]+)`", text_of(page)) + [
        line.partition(" #")[0]
        for block in blocks(page, "bash")
        for line in block.splitlines()
        if not line.startswith("#")
    ]
    for line in words_of_code:
        for command in re.findall(r"python -m arr_core\.(\w+ ?[^&;]*)", line):
            name, *words = shlex.split(command)
            sub = [word for word in words[:1] if word in SUBCOMMANDS.get(name, ())]
            known = help_of(name, *sub)
            for flag in (word.partition("=")[0] for word in words if word.startswith("--")):
                assert re.search(rf"{flag}\b", known) or flag == "--help", f"{command}: {flag}"
            if name == "train" and words and not words[0].startswith("-"):
                assert words[0] in PRESETS or words[0].endswith(".yaml") or words[0].isupper()
        for script in re.findall(r"python ((?:docs|benchmarks|locales|workflows)/\w+\.py)", line):
            assert (ROOT / script).is_file(), line
        for table in re.findall(r"benchmarks/learning\.py (\w+)", line):
            assert table in learning.tables()
        for field in re.findall(r"--[a-z]+\.[a-z_]+", line):
            assert field in FIELDS, line


@each_page
def test_fields_and_files_that_are_named_exist(page):
    for code in re.findall(r"`([^`\n]+)`", text_of(page)):
        if re.fullmatch(r"(arr_core|nodes|tests|tools|benchmarks|docs|locales)/[\w./-]+", code):
            assert (ROOT / code).exists(), code
        section = code.partition(".")[0]
        if page.name != "CHANGELOG.md" and re.fullmatch(r"[a-z]+\.[a-z_]+", code):
            if section in TrainConfig.model_fields:
                assert f"--{code}" in FIELDS or code.endswith((".jsonl", ".py")), code


def test_profiles_of_the_pages_are_profiles():
    profiles = [
        yaml.safe_load(block)
        for page in (ROOT / "README.md", ROOT / "docs/judges.md")
        for block in blocks(page, "yaml")
    ]
    assert len(profiles) == 2
    for fields in (fields for block in profiles for fields in block.values()):
        assert Profile.model_validate(fields).fault() == ""


def test_tables_of_trainings_are_what_was_recorded():
    runs = defaultdict(list)
    for line in (ROOT / "benchmarks/results.jsonl").read_text(encoding="utf-8").splitlines():
        run = json.loads(line)
        runs[run["label"], run["updates"]].append(run)

    def cells(row: str) -> list[str]:
        """Without the label, which may differ where tables share runs."""
        return [cell.strip() for cell in row.strip("| \n").split("|")][1:]

    recorded = [cells(learning.row(label, of_label)) for (label, _), of_label in runs.items()]
    shown = [
        cells(line)
        for line in text_of(ROOT / "docs/results.md").splitlines()
        if line.startswith("| ") and line.count("|") == 10 and "base" not in line
    ]
    assert len(shown) == 44
    assert [row for row in shown if row not in recorded] == []
    rates = {row[1].replace("%", " %") + row[2].replace("%", " %") for row in recorded}
    in_readme = re.findall(r"\| ([\d.]+ % \(.*?\)) \| \*\*(.*?)\*\*( \(.*?\))", text_of(PAGES[0]))
    assert len(in_readme) == 4
    assert all(base + after + interval in rates for base, after, interval in in_readme)


def test_the_configuration_page_is_written_from_the_code():
    import sys

    sys.path.insert(0, str(ROOT / "docs"))
    from make_configuration import page

    written = text_of(ROOT / "docs/configuration.md")
    assert written == page(), "run: python docs/make_configuration.py"


def functions(file: Path) -> set[str]:
    """The functions and classes of a module, and ``Class.method``."""
    names = set()
    for node in ast.parse(text_of(file)).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.add(node.name)
        if isinstance(node, ast.ClassDef):
            members = (member for member in node.body if hasattr(member, "name"))
            names |= {f"{node.name}.{member.name}" for member in members}
    return names


def test_the_walkthrough_names_what_exists_in_at_most_ten_hops():
    text = text_of(ROOT / "docs/walkthrough.md")
    for path, name in re.findall(r"`([\w/]+\.py):([\w.]+)`", text):
        assert name in functions(ROOT / path), f"{path}:{name}"
    sections = text.split("\n## ")[1:]
    hops = [len(re.findall(r"^\d+\. ", section, re.MULTILINE)) for section in sections]
    assert len(hops) == 4 and all(1 < count <= 10 for count in hops)
