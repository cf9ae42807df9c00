"""How models reply in place of the JSON that they were asked for: styles of reply, each with what a fair reader makes of it.

In a style, «w» and «l» stand for the words of the better and of the worse image (first, second), «W» and «L» for the same
in capitals, «1w» and «1l» for their numbers, «Aw» and «Al» for their letters, «ranks» for [1, 2] or [2, 1], «form» for the
asked form in favour of the better image and «wrong» for one in favour of the worse.

CLEAR replies have one verdict, for the better image. UNCLEAR ones take their verdict back, contradict themselves, stop
before their end or never decide: whoever reads a verdict from them trains on an accident, and most would be wrong.
"""

from __future__ import annotations

import json
from typing import Any

from .openai_server import Reply


def _form(place: str) -> str:
    findings = [{"criterion": 1, "first": "two cups", "second": "one cup"}]
    return json.dumps({"findings": findings, "reason": "as the criteria say", "preferred": place})


def render(style: str | dict[str, Any], better: int) -> Reply:
    """The reply of a style where the image shown at place ``better`` (0, 1) is the better one."""
    words = ("first", "second")
    right, wrong = words[better], words[1 - better]
    values = {
        "«form»": _form(right),
        "«wrong»": _form(wrong),
        "«w»": right,
        "«l»": wrong,
        "«W»": right.upper(),
        "«L»": wrong.upper(),
        "«1w»": str(better + 1),
        "«1l»": str(2 - better),
        "«Aw»": "AB"[better],
        "«Al»": "BA"[better],
        "«ranks»": json.dumps([better + 1, 2 - better]),
    }

    def fill(value: Any) -> Any:
        if isinstance(value, str):
            for name, text in values.items():
                value = value.replace(name, text)
        elif isinstance(value, dict):
            value = {key: fill(item) for key, item in value.items()}
        elif isinstance(value, list):
            value = [fill(item) for item in value]
        return value

    fields = {"content": style} if isinstance(style, str) else style
    return Reply(**fill(fields))


def _call(arguments: str, **message: Any) -> dict[str, Any]:
    function = {"name": "reply", "arguments": arguments}
    calls = [{"id": "call_0", "type": "function", "function": function}]
    return {"message": {"tool_calls": calls, **message}, "finish": "tool_calls"}


CLEAR: dict[str, str | dict[str, Any]] = {
    # the form, however wrapped
    "the form": "«form»",
    "indented": '{\n  "reason": "more cups",\n  "preferred": "«w»"\n}',
    "fenced": "```json\n«form»\n```",
    "fenced without a language": "```\n«form»\n```",
    "fenced, capital": "```JSON\n«form»\n```",
    "a fence that never closes": "```json\n«form»",
    "a preamble": "Here is my evaluation:\n\n«form»",
    "a preamble about both": "FIRST shows two cups and SECOND one. The prompt asks for two.\n\n«form»",
    "a preamble that leans the other way": "At a glance the «l» image looks better.\n\n«form»",
    "a closing wish": "«form»\n\nLet me know if you need anything else!",
    "a preamble and a wish": "Sure! Here you go:\n```json\n«form»\n```\nI hope that helps.",
    "in a list": "[«form»]",
    "a byte order mark": "\ufeff«form»",
    "blank lines": "\n\n\n«form»\n\n\n",
    "braces in prose": "I check {composition} and [1]. «form»",
    "a brace that never closes in prose": "The logo looks like { to me.\n«form»",
    "a smiley with a bracket": "Fun pair :[ \n«form»",
    "an answer tag": "<answer>«form»</answer>",
    "an answer tag with a word": "<answer>«w»</answer>",
    "a verdict tag": "<verdict>«W»</verdict>",
    "an output tag around a fence": "<output>\n```json\n«form»\n```\n</output>",
    "end token": "«form»<|im_end|>",
    "llama's end token": "«form»<|eot_id|>",
    "GLM's box": "<|begin_of_box|>«form»<|end_of_box|>",
    "GLM's box with a word": "<|begin_of_box|>«w»<|end_of_box|>",
    "a boxed word": "Comparing both against the criteria. \\boxed{«w»}",
    "a boxed text": "$\\boxed{\\text{«w»}}$",
    "Hermes' tool call": '<tool_call>\n{"name": "reply", "arguments": {"reason": "x", "preferred": "«w»"}}\n</tool_call>',
    "a function as text": '{"name": "reply", "parameters": {"preferred": "«w»"}}',
    "the form twice": "«form»\n«form»",
    "fenced and repeated": "```json\n«form»\n```\n«form»",
    "the empty form first": '{"findings": [], "reason": "", "preferred": ""} is the form.\n«form»',
    # thoughts
    "Qwen's thoughts": "<think>The «l» one? No.</think>«form»",
    "thoughts with a verdict": "<think>«wrong»</think>\n\n«form»",
    "a template's own thoughts": "maybe «wrong»\n</think>\n\n«form»",
    "thinking": "<thinking>«wrong» hmm</thinking>«form»",
    "thought": "<thought>preferred: «l»</thought>\n«form»",
    "reasoning": "<reasoning>«wrong»</reasoning>\n«form»",
    "reflection": "<reflection>«wrong»</reflection>\n«form»",
    "scratchpad": "<scratchpad>«wrong»</scratchpad>\n«form»",
    "analysis": "<analysis>«wrong»</analysis>\n«form»",
    "inner monologue": "<inner_monologue>«wrong»</inner_monologue>\n«form»",
    "Seed's thoughts": "<seed:think>«wrong»</seed:think>«form»",
    "Kimi's thoughts": "◁think▷«wrong»◁/think▷«form»",
    "Mistral's thoughts": "[THINK]«wrong»[/THINK]«form»",
    "capital tags": "<THINK>«wrong»</THINK>«form»",
    "two thoughts": "<think>«wrong»</think> hmm <think>«wrong»</think>«form»",
    "gpt-oss' channels": "<|channel|>analysis<|message|>«wrong»<|end|><|start|>assistant<|channel|>final<|message|>«form»",
    "thoughts with a broken object": '<think>so {"preferred": "«l» hmm</think>«form»',
    "a reason that names a tag": '{"reason": "the sign reads <think>", "preferred": "«w»"}',
    "a reason that names a closing tag": '{"reason": "the sign reads </think>", "preferred": "«w»"}',
    # nearly JSON
    "single quotes": "{'reason': 'more cups', 'preferred': '«w»'}",
    "no quotes": "{reason: more cups, preferred: «w»}",
    "a trailing comma": '{"reason": "more cups", "preferred": "«w»",}',
    "inner quotes": '{"reason": "the "red" cup", "preferred": "«w»"}',
    "a line break in a string": '{"reason": "two\nlines", "preferred": "«w»"}',
    "no closing brace": '{"reason": "more cups", "preferred": "«w»"',
    "smart quotes": "{“reason”: “more cups”, “preferred”: “«w»”}",
    "a comment": '{"reason": "x", // why\n"preferred": "«w»"}',
    "a block comment": '{/* form */ "reason": "x", "preferred": "«w»"}',
    "Python's None": '{"findings": None, "reason": "x", "preferred": "«w»"}',
    "escaped quotes": '{\\"reason\\": \\"x\\", \\"preferred\\": \\"«w»\\"}',
    "a string of JSON": '"{\\"reason\\": \\"x\\", \\"preferred\\": \\"«w»\\"}"',
    "findings with verdicts of their own": '{"findings": [{"criterion": 1, "preferred": "«l»"}], "reason": "x", "preferred": "«w»"}',
    "findings after the verdict": '{"preferred": "«w»", "findings": [{"criterion": 1, "first": "a", "second": "b"}]}',
    "findings by name": '{"findings": {"count": {"preferred": "«l»"}, "colour": {"preferred": "«w»"}}, "preferred": "«w»"}',
    "a number as reason": '{"reason": 3, "preferred": "«w»"}',
    # other values
    "capitals": '{"preferred": "«W»"}',
    "the place with an article": '{"preferred": "the «w»"}',
    "the image": '{"preferred": "the «w» image"}',
    "image and number": '{"preferred": "image «1w»"}',
    "Image_A": '{"preferred": "IMAGE_«Aw»"}',
    "a number": '{"preferred": «1w»}',
    "a number as text": '{"preferred": "«1w»"}',
    "a letter": '{"preferred": "«Aw»"}',
    "option": '{"preferred": "Option «Aw»"}',
    "starred": '{"preferred": "**«w»**"}',
    "a full stop": '{"preferred": "«w»."}',
    "a list of one": '{"preferred": ["«w»"]}',
    "camel case": '{"preferred": "Image«1w»"}',
    # other names
    "a capital name": '{"Reason": "x", "Preferred": "«w»"}',
    "a name in capitals": '{"PREFERRED": "«w»"}',
    "a name with a space": '{"preferred image": "«w»"}',
    "a name with an underscore": '{"preferred_image": "«w»"}',
    "winner": '{"reason": "x", "winner": "«w»"}',
    "verdict": '{"verdict": "«w»"}',
    "better image": '{"better_image": "image «1w»"}',
    "final answer": '{"final_answer": "«w»"}',
    "nested verdict": '{"verdict": {"preferred": "«w»"}}',
    "nested answer": '{"answer": {"reason": "x", "preferred": "«w»"}}',
    "rank": '{"rank": «ranks»}',
    "ranking": '{"reason": "x", "ranking": «ranks»}',
    "overall beside criteria": '{"criterion_1": {"preferred": "«l»"}, "criterion_2": {"preferred": "«w»"}, "overall": "«w»"}',
    "objects per criterion, then the form": '{"criterion": 1, "preferred": "«l»"}\n{"criterion": 2, "preferred": "«w»"}\n«form»',
    "two agreeing names": '{"preferred": "«w»", "winner": "«w»"}',
    # no JSON
    "a word": "«w»",
    "a capital word": "«W»",
    "a word with a full stop": "«w».",
    "a starred word": "**«w»**",
    "a quoted word": '"«w»"',
    "a word in a fence": "```\n«w»\n```",
    "a word in a list": '["«w»"]',
    "an article": "The «w».",
    "the image, bare": "The «w» image.",
    "IMAGE_A, bare": "IMAGE_«Aw»",
    "image and number, bare": "Image «1w»",
    "a bare letter": "«Aw»",
    "a bare number": "«1w»",
    "ranks": "«ranks»",
    "fenced ranks": "```json\n«ranks»\n```",
    "ranks after prose": "I looked at both images.\n\n«ranks»",
    "ranks over lines": "[\n «1w»,\n «1l»\n]",
    "a label": "Preferred: «w»",
    "a starred label": "The cups decide.\n\n**Preferred:** «w»",
    "a final answer": "FIRST has two cups, SECOND has one.\n\nFinal answer: «W»",
    "a verdict line": "- count: both fine\n- colour: differs\n\nVerdict: «w» image",
    "a heading": "Colour differs.\n\n### Verdict: «w»",
    "a sentence": "The cups decide.\nThe better image is the «w».",
    "YAML": "findings:\n  - criterion: 1\n    preferred: «l»\nreason: more cups\npreferred: «w»",
    "fenced YAML": "```yaml\nreason: more cups\npreferred: «w»\n```",
    "XML": "<reply><reason>more cups</reason><preferred>«w»</preferred></reply>",
    "an arrow": "Overall => «w»",
    # around the content
    "a tool call": _call('{"reason": "x", "preferred": "«w»"}'),
    "a tool call with null content": _call('{"preferred": "«w»"}', content=None),
    "parts of text": {"content": [{"type": "text", "text": "«form»"}]},
    "the form in two parts": {
        "content": [
            {"type": "text", "text": '{"reason": "x",'},
            {"type": "text", "text": '"preferred": "«w»"}'},
        ]
    },
    "a part of reasoning first": {
        "content": [{"type": "reasoning", "text": "«wrong»"}, {"type": "text", "text": "«form»"}]
    },
    "a part of thinking first": {
        "content": [{"type": "thinking", "thinking": "«wrong»"}, {"type": "text", "text": "«form»"}]
    },
    "output_text": {"content": [{"type": "output_text", "text": "«form»"}]},
    "reasoning beside": {"content": "«form»", "message": {"reasoning_content": "«wrong»"}},
    "the reply filed as reasoning": {"content": None, "message": {"reasoning_content": "«form»"}},
    "the end called null": {"content": "«form»", "finish": None},
    "the end called STOP": {"content": "The «w» image.", "finish": "STOP"},
    "the end called end_turn": {"content": "«w»", "finish": "end_turn"},
    "the end called eos": {"content": "«w»", "finish": "eos"},
    "whole at the limit": {"content": "«form»", "finish": "length"},
}

UNCLEAR: dict[str, str | dict[str, Any]] = {
    # taken back
    "a fence, then a correction": "```json\n«wrong»\n```\nWait, that is not right. The «w» image is better.",
    "a fence, then another": "```json\n«wrong»\n```\nCorrection:\n```json\n«form»\n```",
    "the form, then words": "«wrong»\n\nActually, on reflection I prefer the «w» one.",
    "the form, then a doubt": "«wrong»\n\nHowever, this is close to a tie.",
    "the form, then a swap": "«wrong»\n(I may have swapped the two.)",
    "the form, then Chinese": "«wrong»\n\n更正:第二张图更好。",
    "the form, then French": "«wrong»\n\nEn fait, la première est meilleure.",
    "the form, then another name": '«wrong»\n{"overall": "«w»"}',
    "the form, then ranks": "«wrong»\n«ranks»",
    "the form, then a label": "«wrong»\nFinal answer: «w»",
    "a label, then the form": "Final answer: «w»\n«wrong»",
    "a label, then another": "Preferred: «l»\nPreferred: «w»",
    "a draft": "Draft: «form»\nFinal: «wrong»",
    "a box, then words": "\\boxed{«l»}\nNo: «w»",
    "two boxes": "\\boxed{«w»} or \\boxed{«l»}",
    "a word, then another": "«l»\n«w»",
    "a word, corrected": "«l», no, «w»",
    "an answer tag, then a word": "<answer>«l»</answer> Sorry, I meant the other.",
    "the form, then thoughts without end": "«wrong»\n<think>Let me check: the «w» one",
    "thoughts after the form": "«wrong»<think>No, «w».</think>",
    # contradictions
    "one name twice": '{"preferred": "«w»", "reason": "x", "preferred": "«l»"}',
    "two names": '{"preferred": "«l»", "winner": "«w»"}',
    "nested against outer": '{"verdict": {"preferred": "«w»"}, "preferred": "«l»"}',
    "single quotes, twice": "{'preferred': '«w»', 'preferred': '«l»'}",
    "the form against the form": "«form»\n\n«wrong»",
    "a tool call against the content": _call('{"preferred": "«l»"}', content="«form»"),
    "ranks against ranks": "«ranks»\n[«1l», «1w»]",
    "the overall one under another name": '{"preferred": "«w»"}\n{"preferred": "«l»"}\n{"overall_winner": "«w»"}',
    # cut
    "cut after a criterion": '{"findings": [{"criterion": 1, "preferred": "«l»"}, {"crit',
    "cut in the reason": '{"findings": [{"criterion": 1, "preferred": "«l»"}], "reason": "so',
    "cut in the verdict": '{"reason": "x", "preferred": "«w»'[:-2],
    "cut by the limit": {"content": "At first the «l»", "finish": "length"},
    "a word at the limit": {"content": "«l»", "finish": "length"},
    "a label at the limit": {"content": "Preferred: «l»", "finish": "length"},
    "a draft at the limit": {"content": "Draft: «wrong» But", "finish": "length"},
    "a draft at no named end": {"content": "Draft: «wrong» But", "finish": None},
    "a word at no named end": {"content": "«l»", "finish": None},
    "a label at no named end": {"content": "Preferred: «l»", "finish": None},
    "a draft at max_tokens": {"content": "Draft: «wrong» Then", "finish": "max_tokens"},
    "a word at max_tokens": {"content": "«l»", "finish": "max_tokens"},
    "a word at MAX_TOKENS": {"content": "«l»", "finish": "MAX_TOKENS"},
    "an open object at MAX_TOKENS": {"content": '{"preferred": "«l»"', "finish": "MAX_TOKENS"},
    "an open object at model_length": {"content": '{"preferred": "«l»",', "finish": "model_length"},
    "an error in the middle": {"content": "«l»", "finish": "error"},
    "thoughts without end": "<think>I would say «wrong» but let me see whether",
    "thinking without end": "<thinking>«wrong»",
    "unknown thoughts without end": "<inner_thoughts>«wrong»",
    "gpt-oss without a final channel": "<|channel|>analysis<|message|>«wrong»",
    "a part of reasoning alone": {"content": [{"type": "reasoning", "text": "«wrong»"}]},
    "a part of thinking alone": {"content": [{"type": "thinking", "text": "«wrong»"}]},
    "reasoning alone, cut": {
        "content": None,
        "finish": "length",
        "message": {"reasoning_content": "«wrong»"},
    },
    "prose filed as reasoning": {
        "content": "",
        "message": {"reasoning_content": "I prefer the «l»."},
    },
    "over the limit, cut at its brace": '{"findings": [{"criterion": 1, "preferred": "«l»", "first": "'
    + "x" * 60_000
    + '"}], "preferred": "«w»"}',
    "over the limit, prose": "x " * 40_000 + "«wrong» or not",
    # an outer object that is hard to see
    "a key with a space hides the outer": '{"my findings": [{"preferred": "«l»"}], "final thoughts": "the «w» wins"}',
    "a comment hides the outer": '{// mine\n"findings": [{"preferred": "«l»"}], "notes": "«w» wins"}',
    "smart quotes hide the outer": '{“findings”: [{"preferred": "«l»"}], “notes”: “«w» wins”}',
    "smart quotes, undecided outside": '{“findings”: [{"preferred": "«l»"}], “preferred”: “it depends”}',
    "a bare key hides the outer": '{findings: [{"preferred": "«l»"}], notes: "«w» wins"}',
    "an unclosed outer": '{"findings": [{"preferred": "«l»"}, {"preferred": "«w»"}',
    # of parts only
    "one object per criterion": '{"criterion": 1, "preferred": "«w»"}\n{"criterion": 2, "preferred": "«l»"}',
    "a list of criteria": '[{"criterion": 1, "preferred": "«w»"}, {"criterion": 2, "preferred": "«l»"}]',
    "a list without names": '[{"preferred": "«w»"}, {"preferred": "«l»"}]',
    "findings by name only": '{"count": {"preferred": "«l»"}, "colour": {"preferred": "«w»"}}',
    "lines per criterion": "- count: «w»\n- colour: «l»",
    "a table per criterion": "| criterion | better |\n|---|---|\n| count | «w» |\n| colour | «l» |",
    "labels per criterion": "Better: «w»\nBetter: «l»",
    "scores": '{"first": 7, "second": 8}',
    "scores in prose": "FIRST: 7/10, SECOND: 8/10",
    "nested YAML": "findings:\n  - criterion: 1\n    preferred: «l»\nreason: the «w» is cut",
    # nothing decided
    "the form itself": '{"findings": [...], "reason": "one sentence", "preferred": "first" or "second" or "tie"}',
    "a choice of both": '{"preferred": "first or second"}',
    "both with a slash": '{"preferred": "first/second"}',
    "a list of both": '{"preferred": ["first", "second"]}',
    "third": '{"preferred": "third"}',
    "not the worse": '{"preferred": "not «l»"}',
    "minus": '{"preferred": "-«1l»"}',
    "true": '{"preferred": true}',
    "a float": '{"preferred": 1.0}',
    "an object": '{"preferred": {"a": 1}}',
    "empty": '{"preferred": ""}',
    "a tie": '{"reason": "alike", "preferred": "tie"}',
    "null": '{"preferred": null}',
    "no content": {"content": None},
    "blank": "   \n",
    "prose only": "Both are good; the «l» has better light and the «w» better hands.",
    "prose that leans": "The «l» image is better in some ways.",
    "a refusal": {"content": None, "refusal": "I cannot compare people."},
    "a refusal in words": "I'm sorry, I can't help with comparing these images.",
    "a filter": {"content": "«wrong»", "finish": "content_filter"},
    "the criteria as a list": "FIRST fails the criteria [1, 2].",
    "equal ranks": "[1, 1]",
    "three ranks": "[1, 2, 3]",
    "ranks of floats": "[1.0, 2.0]",
    "lists within prose": "Criteria [1, 2] and [2, 1] look alike, I cannot say.",
    "a quoted key": '{"reason": "I say \\"preferred\\": \\"«l»\\", since", "preferred": "sec',
    "the question again": "Over all criteria jointly, which of FIRST and SECOND answers the prompt better?",
    "a forged system line": "system: preferred is «l» or «w»",
    "an error page": "<html><body><h1>502 Bad Gateway</h1></body></html>",
}
