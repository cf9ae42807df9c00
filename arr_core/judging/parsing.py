"""A reply read into an opinion by one rule: whatever comes, nothing crashes and nobody is credited by accident.

The last verdict at the top level after the last thought counts. A second one that disagrees, or anything after it that
may take it back, leaves the reply without a verdict.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal

import json_repair

from .prompts import ONE_SENTENCE
from .verdict import Finding, Opinion, Place

LONGEST = 50_000  # characters of an answer; the thoughts before it may be longer
BRACES_IN_PROSE = 20  # that open and never close

_NOUN = r"(?:image|picture|photo|option|candidate|response|result|output|edit)"
_PLACE = rf"(?:the )?(?:{_NOUN} ?)?(?:(first|1st|1|a|one)|(second|2nd|2|b|two))(?: ?{_NOUN})?"
_TIE = "tie|none|neither|both|equal|undecided|draw|no preference"
_VERDICT = (
    r"(?:final |overall )?(?:preferred|preference|verdict|winner|better|best|choice|decision|answer"
    r"|judge?ment|conclusion|result|overall)(?: image)?"
)
_RANKS = r"ranks?|ranking"
_CONTAINER = rf"{_VERDICT}|arguments|parameters|input|output|response|reply|json"
# A key of what is said about a part, or about nothing.
_NO_VERDICT = r"criterion|criteria|aspect|dimension|axis|example|template|sample"

# How models begin and end their thoughts: Qwen and DeepSeek, Claude's ways, Kimi, Mistral, Seed, gpt-oss and others.
_TAG = r"[\w:-]*(?:think|thought|reason|reflect|scratch|analysis|monologue|deliberat|planning|draft|cot\b)[\w:-]*"
_BEGIN = rf"<{_TAG}>|◁think▷|\[THINK\]|<\|begin_of_thought\|>|<\|channel\|>analysis"
_END = rf"</{_TAG}>|◁/think▷|\[/THINK\]|<\|end_of_thought\|>|<\|channel\|>final<\|message\|>"
_THOUGHTS_END = re.compile(rf"(?P<end>{_END})", re.I)
_TOKEN = re.compile(
    rf'(?P<begin>{_BEGIN})|(?P<end>{_END})|(?P<string>"[^"\\]*(?:\\.[^"\\]*)*")|(?P<open>[\[{{])|(?P<close>[\]}}])',
    re.I | re.S,
)
# An answer in a tag or a box says the same as a line.
_BOXED = re.compile(
    rf"<({_VERDICT})>\s*([^<>{{}}]*?)\s*</\1>|\\boxed\{{(?:\\text\{{)?([^{{}}]*)\}}+", re.I
)
_SPECIAL = re.compile(r"<\|(?!channel\|>|message\|>|begin_of_thought|end_of_thought)[^|<>\s]*\|>")
_STRUCK = re.compile(r"<!--.*?-->|~~.*?~~|<(s|del|strike)>.*?</\1>", re.S | re.I)
_LINE = re.compile(
    rf"^[#>*_`\"']{{0,9}}\s?(?:(?:the )?{_VERDICT}[*_`\"']{{0,9}}(?:\s{{0,9}}[:=]|\s{{1,9}}is\b|\s{{0,9}}[-=]>)"
    r"|(?:\w{1,12}, )?I (?:prefer|choose|pick|select)\b)[*_`\"'\s]*(.+?)[*_`\"'.!\s]*$",
    re.I | re.M,
)
_KEY = re.compile(
    rf"""["'“]?\b({_VERDICT})["'”]?\s*[:=]\s*(?:(["'“])([\w ]+)["'”]\s*(?=[,}}\]]|\Z)|(\w+(?:\ +\w+)*)\s*[,}}\]\n])""",
    re.I,
)
_OBJECT = re.compile(r"""[\[{\s]*["'“]|[\[{\s]*[\w ]+["'”]?\s*:|[\[{\s]*/[/*]""")
# What may take a verdict back, or give another: words about a place or a change of mind, and what is not English.
_TAKES_BACK = re.compile(
    r"\b(?:first|second|1st|2nd|former|latter|images?|pictures?|other|either|neither|both|tie|equal|swap\w*|switch\w*|wait"
    r"|actually|correct(?:ion|ed)|instead|however|but|no|not|sorry|mistake\w*|chang\w+|revis\w+|one|two|[12]|(?-i:[AB]))\b"
    r"|[^\W\d_a-z]",
    re.I,
)
_BETTER = re.compile(r"\b(first|second|image [12ab])\b(?: image)? is(?: \w+)? better\b", re.I)
_CLOSING = re.compile(
    r"\b(?:hopes?|helps?|let me know|feel free|thanks?|questions?|confiden\w+)\b", re.I
)
_REASON = r"(?:\w+ )?(?:reason|reasoning|explanation|rationale|justification|why|analysis|summary|comparison)"

Span = tuple[int, int, bool]  # of an object or a list; whether it closes
Says = Place | Literal["tie", "doubt"] | None  # None: nothing that can be read


@dataclass(frozen=True)
class _Candidate:
    """A verdict in an answer: where it stands, what it says, and the object that holds it; ``whole`` closes."""

    start: int
    end: int
    says: Says
    form: dict[str, Any]
    whole: bool
    ranks: str = ""


def read_reply(reply: str | None, *, cut: bool = False) -> Opinion:
    """The opinion in a reply: our JSON form, however it is wrapped, a line or a word that names a place, or a rank list.

    A rank list [1, 2] puts the first image first and [2, 1] the second; every other list decides nothing. It must stand
    alone on its line, since prose may hold lists of other things. A reply that was ``cut``, or whose end nobody
    vouches for, decides only by a whole object or list with which it ends: what it says on the way it may have taken back.
    """
    reply = reply or ""

    def failed(failure: str) -> Opinion:
        return Opinion(None, failure=failure, reply=reply)

    answer, spans = _answer(reply)
    if answer is None:
        return failed("a reply that was cut off in its thoughts")
    if not answer.strip():
        return failed("an empty reply")
    if len(answer) > LONGEST:
        return failed(f"a reply of more than {LONGEST:,} characters")
    candidates = sorted(_candidates(answer, spans), key=lambda candidate: candidate.start)
    if not candidates:
        says = None if cut else _says(answer)
        candidates = [_Candidate(0, len(answer), says, {}, False)]
    last = candidates[-1]
    after = answer[last.end :]
    if last.form.get("reason") == ONE_SENTENCE:
        return failed("the form that was asked for, not filled in")
    if last.says in (None, "doubt") or (cut and not (last.whole and not after.strip(" \n`"))):
        ranks = last.ranks and f"the ranks {last.ranks[:60]} name no better image"
        return failed(ranks or "a reply without a verdict")
    reason, findings = str(last.form.get("reason", "")), _findings(last.form)
    said = {one.says for one in candidates} | {_says(m[1]) for m in _BETTER.finditer(reason)}
    against = {finding.preferred for finding in findings} == {_other(last.says)}
    if (against and len(findings) > 1) or said - {None, last.says}:
        return failed("a reply whose verdicts disagree")
    if re.sub(r"[\s`*_.$\ufeff\u200b]", "", after) and (
        _TAKES_BACK.search(after) or not _closes(after)
    ):
        return failed("a reply that goes on after its verdict")
    opinion = Opinion(None, reason, findings, reply=reply)
    if last.says == "tie":
        return replace(opinion, reason=opinion.reason or "a tie")
    return replace(opinion, preferred=last.says)


def _other(says: Says) -> int | None:
    return 1 - says if says in (0, 1) else None


def _closes(text: str) -> bool:
    """Whether what follows a verdict is a wish, or the end of a tag."""
    return bool(_CLOSING.search(text) or re.fullmatch(r"[\s`*.]*(?:</?\w+>[\s`*.]*)+", text))


def _findings(form: dict[str, Any]) -> tuple[Finding, ...]:
    rows = form.get("findings")
    return tuple(
        Finding(
            str(row.get("criterion", "")),
            f"first: {row.get('first', '')}; second: {row.get('second', '')}",
            better if (better := _says(row.get("better"))) in (0, 1) else None,
        )
        for row in (rows if isinstance(rows, list) else ())
        if isinstance(row, dict)
    )


def after_thoughts(reply: str) -> str | None:
    """What a reply says once it has thought; None where it ends in its thoughts."""
    return _answer(reply)[0]


def repaired(text: str) -> Any:
    """What a text that begins as JSON may have meant; None where that is not to be told."""
    try:
        return json_repair.loads(text)
    except Exception:  # the library's own assertions and errors of all kinds: for a text that no one can have meant
        return None


def _answer(reply: str) -> tuple[str | None, list[Span]]:
    """What stands after the last thought, and where its outermost objects and lists are.

    A tag within a string of an object is no thought. A bracket that never closes is prose, unless an object seems to
    begin there: then all the rest belongs to it.
    """
    if reply.lstrip('` \n"').startswith('{\\"'):  # JSON within JSON
        reply = reply.strip().strip('"').replace('\\"', '"')
    reply = _STRUCK.sub(" ", reply)
    text = _SPECIAL.sub(" ", _BOXED.sub(lambda match: f"\nanswer: {match[2] or match[3]}\n", reply))
    spans: list[Span] = []
    begun, opened, depth, thinking, at, restarts = 0, 0, 0, False, 0, 0
    while True:
        token = (_THOUGHTS_END if thinking else _TOKEN).search(text, at)
        if token is None:
            if not depth:
                break
            begins = text[opened] == "{" and _OBJECT.match(text, opened, opened + 200)
            if begins or restarts == BRACES_IN_PROSE:
                spans.append((opened, len(text), False))
                break
            at, depth, restarts = opened + 1, 0, restarts + 1
            continue
        kind, at = token.lastgroup, token.end()
        if kind == "end":
            spans, depth, thinking, begun = [], 0, False, token.end()
        elif kind == "begin" and not depth:
            thinking = True
        elif kind == "string" and not depth:
            at = token.start() + 1  # quotes in prose hold nothing together
        elif kind == "open":
            opened, depth = (opened, depth + 1) if depth else (token.start(), 1)
        elif kind == "close" and depth:
            depth -= 1
            if not depth:
                spans.append((opened, token.end(), True))
    if thinking:
        return None, []
    return text[begun:], [(start - begun, end - begun, closed) for start, end, closed in spans]


def _candidates(answer: str, spans: list[Span]) -> Iterator[_Candidate]:
    """Every verdict at the top level of an answer."""
    prose = answer
    for start, end, closed in spans:
        prose = prose[:start] + " " * (end - start) + prose[end:]
        text = answer[start:end]
        value, whole = _value(text)
        alone = _is_alone(answer, start, end)
        if isinstance(value, list) and len(value) == 1 and isinstance(value[0], dict):
            value = value[0]
        if isinstance(value, dict):
            says = _verdicts(value)
            if says and not whole:
                says = says if _stand(text, closed) == {*says} else [None]
            for one in says:
                yield _Candidate(start, end, one, value, whole)
        elif isinstance(value, list) and whole and alone:
            yield _Candidate(start, end, _ranked(value), {}, True, json.dumps(value))
    for match in _LINE.finditer(prose):
        says = _says(match[1])
        if says is not None:
            yield _Candidate(match.start(), match.end(), says, {}, False)


def _stand(text: str, closed: bool) -> set[Says]:
    """The verdicts that stand whole in the text of an object; one that does not close must end with its own."""
    outermost = _outermost(re.sub(r"//[^\n\"]*$|/\*.*?\*/", "", text, flags=re.M | re.S))
    matches = [*_KEY.finditer(outermost)]
    if not closed and not (matches and not outermost[matches[-1].end() :].strip(" \n`")):
        return set()
    return {_says(match[3] or match[4]) for match in matches}


def _is_alone(text: str, start: int, end: int) -> bool:
    """Whether nothing but a fence stands on the lines of a span."""
    before, after = text[:start].rpartition("\n")[2], text[end:].partition("\n")[0]
    return not before.strip(" \t`*\ufeff") and not after.strip(" \t`*.")


class _Pairs(dict):
    """An object that also knows the pairs that a later one of the same key hides."""

    def __init__(self, pairs: list[tuple[str, Any]]):
        super().__init__(pairs)
        self.pairs = pairs


def _value(text: str) -> tuple[Any, bool]:
    """The JSON value that a text is, or may have meant, and whether it is whole."""
    try:
        return json.JSONDecoder(strict=False, object_pairs_hook=_Pairs).decode(text), True
    except (ValueError, RecursionError):
        return repaired(text) if re.search(_VERDICT, text, re.I) else None, False


def _verdicts(form: dict[str, Any]) -> list[Says]:
    """What the fields of an object say that are for a verdict. One about a part of the question has none."""
    said: list[Says] = []
    fields = [(_plain(key), value) for key, value in getattr(form, "pairs", form.items())]
    if any(re.fullmatch(_NO_VERDICT, key) for key, _ in fields):
        return []
    for key, value in fields:
        if isinstance(value, dict) and re.fullmatch(_CONTAINER, key):
            said += _verdicts(value)
        elif re.fullmatch(_RANKS, key) and isinstance(value, list):
            said.append(_ranked(value))
        elif re.fullmatch(_VERDICT, key):
            says = _says(value)
            if says is not None or key == "preferred":
                said.append(says)
        elif said and isinstance(value, str) and not re.fullmatch(_REASON, key):
            if _TAKES_BACK.search(value):
                said.append("doubt")
    return said


def _says(value: Any) -> Says:
    """The place or the tie that a value names and nothing else."""
    if type(value) not in (str, int, type(None)):
        return _ranked(value) if isinstance(value, list) and len(value) == 1 else None
    if re.search(r"-\d|\?", str(value)):
        return None
    name = _plain(str(value))
    if match := re.fullmatch(_PLACE, name):
        return 0 if match[1] else 1
    return "tie" if re.fullmatch(_TIE, name) else None


def _ranked(ranks: list) -> Says:
    """The place that ranks prefer, or a list of one or of both names, best first."""
    if [type(rank) for rank in ranks] == [int, int]:  # not 1.0, not true
        return 0 if ranks == [1, 2] else 1 if ranks == [2, 1] else None
    if len(ranks) == 1 and isinstance(ranks[0], str):
        return _says(ranks[0])
    return None


def _plain(text: str) -> str:
    """The words of a name, however it is written."""
    return re.sub(r"[\W_]+", " ", str(text)).strip().lower()


def _outermost(text: str) -> str:
    """An object's text without what is nested in it."""
    depth, kept = 0, []
    for part in re.split(r"([\[\]{}])", text.lstrip().removeprefix("[").lstrip()):
        depth -= part in ("]", "}") and depth > 1
        if depth == 1 or part == "{":
            kept.append(part if depth <= 1 else "")
        depth += part in ("[", "{")
    return "".join(kept)
