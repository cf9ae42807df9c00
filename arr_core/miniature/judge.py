"""The embedded judge: a small vision-language model that answers each criterion of a rubric with yes or no."""
from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image

from ..judging.verdict import Opinion
from .criteria import question

FOLDER = Path(__file__).parent


class MiniatureVLM:
    """A Qwen2.5-VL with its processor, asked for the log-odds of "Yes" against "No"."""

    def __init__(self, model, processor):
        self.model, self.processor = model, processor
        self.processor.tokenizer.padding_side = "left"
        self.yes, self.no = (processor.tokenizer.convert_tokens_to_ids(word) for word in ("Yes", "No"))

    @classmethod
    def load(cls, folder) -> MiniatureVLM:
        """The judge in a transformers folder, in float32 on the CPU."""
        from transformers import AutoProcessor, Qwen2_5_VLForConditionalGeneration

        model = Qwen2_5_VLForConditionalGeneration.from_pretrained(folder, dtype=torch.float32).eval()
        return cls(model, AutoProcessor.from_pretrained(folder))

    def yes_logits(self, pictures: Sequence[Sequence[Image.Image]], questions: Sequence[str]) -> torch.Tensor:
        """Log-odds of yes [N] for N questions, each about its own pictures (one, or a source and its edit)."""
        texts = [self.processor.apply_chat_template(
            [{"role": "user", "content": [*({"type": "image"} for _ in images), {"type": "text", "text": question}]}],
            add_generation_prompt=True) for images, question in zip(pictures, questions, strict=True)]
        inputs = self.processor(text=texts, images=[image for images in pictures for image in images], padding=True,
                                return_tensors="pt")
        types = (inputs["input_ids"] == self.model.config.image_token_id).int()
        logits = self.model(**{**inputs, "mm_token_type_ids": types}, logits_to_keep=1).logits[:, -1]
        return logits[:, self.yes] - logits[:, self.no]


class MiniatureClient:
    """The embedded judge behind the client's seam: a picture's score is the mean probability over the criteria.

    It looks at one picture (and for an edit its source) at a time, so the order of a pair cannot sway it; two pictures
    whose scores lie within ``margin`` are a tie.
    """

    def __init__(self, folder=None, margin: float = 0.1, vlm: MiniatureVLM | None = None):
        self.vlm = vlm or MiniatureVLM.load(folder or FOLDER / "judge")
        self.margin, self.identity = margin, f"miniature:margin={margin}"
        self._free = asyncio.Lock()

    async def ask(self, questions) -> list[Opinion]:
        async with self._free:  # one batch at a time; the thread leaves the loop free to take more
            return await asyncio.to_thread(self._answer, list(questions))

    def _answer(self, questions) -> list[Opinion]:
        asked, pictures, texts = {}, [], []
        for q in questions:
            for image in (q.first, q.second):
                key = (q.prompt, id(image))
                if key not in asked:
                    asked[key] = len(asked)
                    for criterion in q.rubric.criteria:
                        pictures.append([image] if q.source is None else [q.source, image])
                        texts.append(question(q.prompt, criterion))
        start = time.monotonic()
        with torch.no_grad():
            odds = torch.cat([self.vlm.yes_logits(pictures[at:at + 64], texts[at:at + 64])
                              for at in range(0, len(texts), 64)])
        probabilities = odds.sigmoid().view(len(asked), -1).tolist()
        latency = (time.monotonic() - start) / max(1, len(questions))
        return [self._opinion(q, probabilities[asked[q.prompt, id(q.first)]],
                              probabilities[asked[q.prompt, id(q.second)]], latency) for q in questions]

    def _opinion(self, q, first: list[float], second: list[float], latency: float) -> Opinion:
        difference = sum(first) / len(first) - sum(second) / len(second)
        findings = tuple((criterion, f"first {p:.0%}, second {s:.0%}")
                         for criterion, p, s in zip(q.rubric.criteria, first, second, strict=True))
        if abs(difference) < self.margin:
            return Opinion(None, "both meet the criteria equally", findings, latency_s=latency)
        at = max(range(len(first)), key=lambda i: abs(first[i] - second[i]))
        better = "first" if difference > 0 else "second"
        return Opinion(0 if difference > 0 else 1, f"more likely in the {better}: {q.rubric.criteria[at]}", findings,
                       confidence=min(1.0, 0.5 + abs(difference) / 2), latency_s=latency)
