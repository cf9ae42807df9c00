"""A reply read into an opinion, tolerantly: whatever comes, nothing crashes and nobody is credited by accident."""
from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import json_repair

from .verdict import Opinion

PLACES = {"first": 0, "image 1": 0, "1": 0, "a": 0, "image a": 0, "first image": 0,
          "second": 1, "image 2": 1, "2": 1, "b": 1, "image b": 1, "second image": 1}
TIES = {"tie", "none", "neither", "both", "equal", "undecided", "draw"}
LONGEST = 50_000  # characters from a reply's end that are read: the verdict comes last

# The verdict in JSON that is not whole. Its value has both quotes, or neither and something after it: a value that was
# cut off, or that goes on ("first" or "second", as in the form itself), is none.
_LOOSE = re.compile(r"""(["']?)preferred\1\s*:\s*(?:(["'])([\w ]+)\2\s*(?=[,}\]]|\Z)|(\w+(?: +\w+)*)\s*[,}\]\n])""")

_OBJECT = re.compile(r"""\{\s*["']?\w+["']?\s*:""")  # the beginning of an object, as a brace in prose is not


def read_reply(reply: str | None) -> Opinion:
    """The opinion in a reply: our JSON form, fenced or after a preamble or cut short, or the reference's rank list.

    A rank list [1, 2] puts the first image first and [2, 1] the second; every other list decides nothing. It must stand
    alone or be the last line, since prose may hold lists of other things. Of several forms the last one counts.
    """
    reply = reply or ""
    answer = reply.rpartition("</think>")[2].strip()[-LONGEST:]
    if not answer:
        return Opinion(None, failure="an empty reply", reply=reply)
    if "<think>" in answer:
        return Opinion(None, failure="a reply that was cut off in its thoughts", reply=reply)
    form = _form(answer)
    if form is not None:
        return _from_form(form, reply)
    ranks = _rank_list(answer)
    if ranks is not None:
        preferred = {(1, 2): 0, (2, 1): 1}.get(_plain(ranks))
        failure = "" if preferred is not None else f"the ranks {json.dumps(ranks)[:60]} name no better image"
        return Opinion(preferred, failure=failure, reply=reply)
    place = PLACES.get(answer.strip(" .\"'*`").lower())
    return Opinion(place, failure="" if place is not None else "a reply without a verdict", reply=reply)


def _from_form(content: dict[str, Any], reply: str) -> Opinion:
    preferred = str(content["preferred"]).strip().lower()
    reason = str(content.get("reason", ""))
    findings = tuple(
        (str(item.get("criterion", "")), f"first: {item.get('first', '')}; second: {item.get('second', '')}")
        for item in content.get("findings") or () if isinstance(item, dict)
    ) if isinstance(content.get("findings"), list) else ()
    if preferred in PLACES:
        return Opinion(PLACES[preferred], reason, findings, reply=reply)
    if preferred in TIES:
        return Opinion(None, reason or "a tie", findings, reply=reply)
    return Opinion(None, reason, findings, failure="a reply without a verdict", reply=reply)


def _form(answer: str) -> dict[str, Any] | None:
    """The last JSON object with a verdict; else what can be repaired, if its verdict stands there whole."""
    for text in [*re.findall(r"```(?:json)?\s*(\{.*?)(?:```|\Z)", answer, re.DOTALL)[-1:], answer]:
        forms = [value for value in _values(text) if "preferred" in value]
        if forms:
            return forms[-1]
        standing = {match[3] or match[4] for match in _LOOSE.finditer(text)}
        repaired = _repaired(text) if standing else None
        if isinstance(repaired, dict) and str(repaired.get("preferred")) in standing:
            return repaired
    return None


def _values(text: str) -> Iterator[dict]:
    """Every whole JSON object in a text, in order, up to one that is not whole: what lies within that is a part."""
    decoder, at = json.JSONDecoder(strict=False), 0
    while (at := text.find("{", at)) >= 0:
        try:
            value, at = decoder.raw_decode(text, at)
        except (ValueError, RecursionError):
            if _OBJECT.match(text, at):
                return
            at += 1
        else:
            yield value


def _repaired(text: str) -> Any:
    try:
        return json_repair.loads(text[text.find("{"):])
    except (ValueError, RecursionError):
        return None


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


def _plain(ranks: list) -> tuple | None:
    """Two whole numbers as a tuple: 1.0 and true are none."""
    return tuple(ranks) if [type(rank) for rank in ranks] == [int, int] else None
