"""What an OpenAI-compatible vision-language model is asked, and the form its answer should have."""
from __future__ import annotations

import base64
import io

from PIL import Image

MAX_SIDE = 1024

SYSTEM = ("You compare two images fairly. Look at both, check them against every criterion, state what you see, and "
          "only then decide. The order in which the images are shown means nothing. Reply with one JSON object and "
          "nothing else.")
FORM = ('{"findings": [{"criterion": 1, "first": "what you see in FIRST", "second": "what you see in SECOND"}, ...], '
        '"reason": "one sentence", "preferred": "first" or "second" or "tie"}')
SCHEMA = {
    "type": "object", "additionalProperties": False, "required": ["findings", "reason", "preferred"],
    "properties": {
        "findings": {"type": "array", "items": {
            "type": "object", "additionalProperties": False, "required": ["criterion", "first", "second"],
            "properties": {
                "criterion": {"type": "integer"}, "first": {"type": "string"}, "second": {"type": "string"}}}},
        "reason": {"type": "string"},
        "preferred": {"type": "string", "enum": ["first", "second", "tie"]}}}


def data_uri(image: Image.Image) -> str:
    """The image as a PNG data URI, at most 1024 pixels on a side."""
    image = image.convert("RGB")
    image.thumbnail((MAX_SIDE, MAX_SIDE), Image.LANCZOS)
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def messages(question) -> list[dict]:
    """Chat messages of a question: rubric and prompt as text, BASE (for an edit), FIRST and SECOND as pictures."""
    asked = "edit instruction" if question.source is not None else "prompt"
    shown = [("FIRST", question.first), ("SECOND", question.second)]
    if question.source is not None:
        shown.insert(0, ("BASE (the source: for comparison, never ranked)", question.source))
    content = [{"type": "text", "text": f"The {asked}:\n{question.prompt}\n\nThe criteria:\n{question.rubric.text}"}]
    for label, image in shown:
        content += [{"type": "text", "text": f"{label}:"}, {"type": "image_url", "image_url": {"url": data_uri(image)}}]
    content.append({"type": "text", "text": (
        f"Over all criteria jointly, which of FIRST and SECOND answers the {asked} better? "
        f"Reply in this form:\n{FORM}")})
    return [{"role": "system", "content": SYSTEM}, {"role": "user", "content": content}]
