"""A reply read into an opinion, tolerantly: whatever comes, nothing crashes and nobody is credited by accident."""
from __future__ import annotations

import json
import re
from typing import Any

import json_repair

from .verdict import Opinion

PLACES = {"first": 0, "image 1": 0, "1": 0, "a": 0, "image a": 0, "first image": 0,
          "second": 1, "image 2": 1, "2": 1, "b": 1, "image b": 1, "second image": 1}
TIES = {"tie", "none", "neither", "both", "equal", "undecided", "draw"}


def read_reply(reply: str | None) -> Opinion:
    """The opinion in a reply: our JSON form, fenced or after a preamble or cut short, or the reference's rank list.

    A rank list [1, 2] puts the first image first and [2, 1] the second; every other list decides nothing.
    """
    reply = reply or ""
    answer = re.split(r"</think>", reply)[-1].strip()
    if not answer:
        return Opinion(None, failure="an empty reply", reply=reply)
    content = _last_json(answer)
    if isinstance(content, dict):
        return _from_form(content, reply)
    if isinstance(content, list):
        preferred = {(1, 2): 0, (2, 1): 1}.get(_ranks(content))
        if preferred is not None:
            return Opinion(preferred, reply=reply)
        return Opinion(None, failure=f"the ranks {json.dumps(content)[:60]} name no better image", reply=reply)
    place = PLACES.get(answer.strip(" .\"'").lower())
    if place is not None:
        return Opinion(place, reply=reply)
    return Opinion(None, failure="a reply without a verdict", reply=reply)


def _ranks(content: list) -> tuple | None:
    plain = len(content) == 2 and all(isinstance(rank, int) and not isinstance(rank, bool) for rank in content)
    return tuple(content) if plain else None


def _from_form(content: dict[str, Any], reply: str) -> Opinion:
    preferred = str(content.get("preferred", "")).strip().lower()
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


def _last_json(text: str) -> Any:
    """The last JSON object or list in a text, repaired if it must be; None where there is none."""
    fenced = re.findall(r"```(?:json)?\s*(.*?)(?:```|\Z)", text, re.DOTALL)
    for part in ([fenced[-1]] if fenced else []) + [text]:
        starts = [match.start() for match in re.finditer(r"[{\[]", part)]
        for start in starts:
            try:
                return json.JSONDecoder().raw_decode(part[start:])[0]
            except json.JSONDecodeError:
                continue
        if starts:
            repaired = json_repair.loads(part[starts[0]:])
            if isinstance(repaired, dict | list):
                return repaired
    return None
