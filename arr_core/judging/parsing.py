"""A reply read into an opinion, tolerantly: whatever comes, nothing crashes and nobody is credited by accident."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import json_repair

from .verdict import Finding, Opinion, Place

PLACES: dict[str, Place] = {
    **dict.fromkeys(("first", "image 1", "1", "a", "image a", "first image"), 0),
    **dict.fromkeys(("second", "image 2", "2", "b", "image b", "second image"), 1),
}
TIES = {"tie", "none", "neither", "both", "equal", "undecided", "draw"}
LONGEST = 50_000  # characters from a reply's end that are read: the verdict comes last

# The verdict in JSON that is not whole. Its value has both quotes, or neither and something after it: a value that was
# cut off, or that goes on ("first" or "second", as in the form itself), is none.
_LOOSE = re.compile(
    r"""(["']?)preferred\1\s*:\s*(?:(["'])([\w ]+)\2\s*(?=[,}\]]|\Z)|(\w+(?: +\w+)*)\s*[,}\]\n])"""
)

# How models end and begin their thoughts: Qwen and DeepSeek, Claude's way, Kimi, Mistral, and others.
_THOUGHTS_END = re.compile(
    r"</(?:think(?:ing)?|thoughts?|reasoning)>|◁/think▷|\[/THINK\]|<\|end_of_thought\|>", re.I
)
_THOUGHTS_BEGIN = re.compile(
    r"<(?:think(?:ing)?|thoughts?|reasoning)>|◁think▷|\[THINK\]|<\|begin_of_thought\|>", re.I
)

_OBJECT = re.compile(
    r"""\{\s*["']?\w+["']?\s*:"""
)  # the beginning of an object, as a brace in prose is not


def read_reply(reply: str | None, *, cut: bool = False) -> Opinion:
    """The opinion in a reply: our JSON form, fenced or after a preamble or cut short, or the reference's rank list.

    A rank list [1, 2] puts the first image first and [2, 1] the second; every other list decides nothing. It must stand
    alone or be the last line, since prose may hold lists of other things. Of several forms the last one counts. A reply that
    was ``cut`` at a limit decides only by a form with which it ends: what it says on the way it may have taken back.
    """
    reply = reply or ""
    answer = after_thoughts(reply)
    if answer is None:
        return Opinion(None, failure="a reply that was cut off in its thoughts", reply=reply)
    answer = answer.strip()[-LONGEST:]
    if not answer:
        return Opinion(None, failure="an empty reply", reply=reply)
    nothing = Opinion(None, failure="a reply without a verdict", reply=reply)
    form = _form(answer, cut)
    if form is not None:
        return _from_form(form, nothing)
    if cut:
        return nothing
    ranks = _rank_list(answer)
    if ranks is not None:
        if {type(rank) for rank in ranks} == {int} and sorted(ranks) == [1, 2]:  # not 1.0, not true
            return Opinion(0 if ranks[0] == 1 else 1, reply=reply)
        failure = f"the ranks {json.dumps(ranks)[:60]} name no better image"
        return replace(nothing, failure=failure)
    return _naming(answer.strip(" .\"'*`").lower(), nothing)


def _from_form(content: dict[str, Any], nothing: Opinion) -> Opinion:
    """The opinion in a form; ``nothing`` is the one of a reply without a verdict."""
    rows = content.get("findings")
    findings = tuple(
        Finding(
            str(row.get("criterion", "")),
            f"first: {row.get('first', '')}; second: {row.get('second', '')}",
            PLACES.get(str(row.get("better")).strip().lower()),
        )
        for row in (rows if isinstance(rows, list) else ())
        if isinstance(row, dict)
    )
    opinion = replace(nothing, reason=str(content.get("reason", "")), findings=findings)
    preferred = str(content["preferred"]).strip().lower()
    if preferred in TIES:
        return replace(opinion, failure="", reason=opinion.reason or "a tie")
    return _naming(preferred, opinion)


def _naming(name: str, failed: Opinion) -> Opinion:
    """The opinion that prefers the image of this name; the failed one where there is no such image."""
    return replace(failed, preferred=PLACES[name], failure="") if name in PLACES else failed


def after_thoughts(reply: str) -> str | None:
    """What a reply says once it has thought; None where it ends in its thoughts."""
    answer = _THOUGHTS_END.split(reply)[-1]
    return None if _THOUGHTS_BEGIN.search(answer) else answer


def repaired(text: str) -> Any:
    """What a text that begins as JSON may have meant; None where that is not to be told."""
    try:
        return json_repair.loads(text)
    except Exception:  # the library's own assertions and errors of all kinds: for a text that no one can have meant
        return None


def _form(answer: str, cut: bool) -> dict[str, Any] | None:
    """The last JSON object with a verdict; else what can be repaired, if its verdict stands there whole."""
    fenced = [] if cut else re.findall(r"```(?:json)?\s*(\{.*?)(?:```|\Z)", answer, re.DOTALL)[-1:]
    for text in [*fenced, answer]:
        forms = [(value, end) for value, end in _values(text) if "preferred" in value]
        if forms:
            form, end = forms[-1]
            return None if cut and text[end:].strip(" \n`") else form
        standing = {match[3] or match[4] for match in _LOOSE.finditer(text)}
        meant = repaired(text[text.find("{") :]) if standing else None
        if isinstance(meant, dict) and str(meant.get("preferred")) in standing:
            return meant
    return None


def _values(text: str) -> Iterator[tuple[dict, int]]:
    """Every whole JSON object in a text, in order, and where it ends, up to one that is not whole: what lies within that is
    a part."""
    decoder, at = json.JSONDecoder(strict=False), 0
    while (at := text.find("{", at)) >= 0:
        try:
            value, at = decoder.raw_decode(text, at)
        except (ValueError, RecursionError):
            if _OBJECT.match(text, at):
                return
            at += 1
        else:
            yield value, at


def _rank_list(answer: str) -> list | None:
    """The list that the answer is, or that its last line is; fences aside."""
    answer = re.sub(r"```\w*", "", answer).strip()
    for part in (answer, answer.splitlines()[-1].strip() if answer else ""):
        try:
            value = json.loads(part)
        except (ValueError, RecursionError):
            continue
        if isinstance(value, list):
            return value
    return None
