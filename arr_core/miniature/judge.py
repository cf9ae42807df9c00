"""The embedded judge: a small vision-language model that describes pictures; a criterion says which words must fit."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image

from ..common.progress import hide_loading_bars
from ..judging.client import GroupClient
from ..judging.verdict import Finding, JudgeError, Opinion
from . import transformers_fault
from .criteria import END, positions

FOLDER = Path(__file__).parent
DESCRIBE = "picture"


class MiniatureVLM:
    """A Qwen2.5-VL with its processor, which describes pictures; asked how well a description fits."""

    def __init__(self, model, processor):
        self.model, self.processor = model, processor
        self.processor.tokenizer.padding_side = "left"

    @classmethod
    def load(cls, folder) -> MiniatureVLM:
        """The judge in a transformers folder, in float32 on the CPU. Raises JudgeError where it is not whole."""
        if fault := transformers_fault():
            raise JudgeError(fault)
        if not (Path(folder) / "model.safetensors").is_file():
            raise JudgeError(
                f"{folder}: expected the embedded judge, got no model.safetensors; install the project from a "
                "whole checkout, or train it with python -m tools.miniature.build judge"
            )
        from transformers import AutoProcessor, Qwen2_5_VLForConditionalGeneration

        hide_loading_bars("transformers")
        model = Qwen2_5_VLForConditionalGeneration.from_pretrained(
            folder, dtype=torch.float32
        ).eval()
        return cls(model, AutoProcessor.from_pretrained(folder))

    def describe(
        self, pictures: Sequence[Sequence[Image.Image]], captions: Sequence[str]
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Log-probs [N, L, V], tokens [N, L] and a mask [N, L] of captions, each closed by the end of the turn.

        Every caption has its own pictures: one, or a source and what became of it. Padding is on the left.
        """
        ends = [f"{caption}{END}" for caption in captions]
        lengths = torch.tensor([len(self.processor.tokenizer(end).input_ids) for end in ends])
        texts = []
        for images, end in zip(pictures, ends, strict=True):
            content = [*({"type": "image"} for _ in images), {"type": "text", "text": DESCRIBE}]
            chat = [{"role": "user", "content": content}]
            texts.append(self.processor.apply_chat_template(chat, add_generation_prompt=True) + end)
        inputs = self.processor(
            text=texts,
            images=[image for images in pictures for image in images],
            padding=True,
            return_tensors="pt",
        )
        types = (inputs["input_ids"] == self.model.config.image_token_id).int()
        keep = int(lengths.max()) + 1
        logits = self.model(**{**inputs, "mm_token_type_ids": types}, logits_to_keep=keep).logits
        mask = torch.arange(keep - 1)[None] >= keep - 1 - lengths[:, None]
        return logits[:, :-1].log_softmax(-1), inputs["input_ids"][:, 1 - keep :], mask

    @torch.no_grad()
    def criterion_scores(
        self,
        pictures: Sequence[Sequence[Image.Image]],
        prompts: Sequence[str],
        criteria: Sequence[str],
    ) -> list[list[float]]:
        """For each picture (or source and edit) the probability of the words that each criterion is about, 0..1."""
        log_probs, tokens, mask = self.describe(pictures, prompts)
        taken = log_probs.gather(-1, tokens[..., None])[..., 0]
        scores = []
        for row, sentence, written in zip(taken, tokens, mask, strict=True):
            words = [
                word.strip()
                for word in self.processor.tokenizer.batch_decode(sentence[written][:, None])
            ]
            fit = row[written]
            scores.append(
                [fit[positions(criterion, words)].mean().exp().item() for criterion in criteria]
            )
        return scores


class MiniatureClient(GroupClient):
    """The embedded judge behind the client's seam: a picture's score is the mean over the rubric's criteria.

    It looks at one picture (and for an edit its source) at a time, so the order of a pair cannot sway it. Its confidence
    is 1/2 and half of the scores' difference; below ``threshold`` it abstains.
    """

    def __init__(self, folder=None, threshold: float = 0.55, vlm: MiniatureVLM | None = None):
        self.vlm = vlm or MiniatureVLM.load(folder or FOLDER / "judge")
        self.threshold, self.identity = threshold, f"miniature:threshold={threshold}"
        self._free = asyncio.Lock()

    async def answer_all(self, questions) -> list[Opinion]:
        async with self._free:  # one batch at a time; the thread leaves the loop free to take more
            return await asyncio.to_thread(self._answer, list(questions))

    def _answer(self, questions) -> list[Opinion]:
        start = time.monotonic()
        shown = {
            (q.prompt, id(image)): (q, image) for q in questions for image in (q.first, q.second)
        }
        scores, keys = {}, list(shown)
        for at in range(0, len(keys), 64):
            part = keys[at : at + 64]
            pictures = [
                [image] if q.source is None else [q.source, image]
                for q, image in (shown[key] for key in part)
            ]
            scores.update(
                zip(
                    part,
                    self.vlm.criterion_scores(
                        pictures, [prompt for prompt, _ in part], questions[0].rubric.statements
                    ),
                    strict=True,
                )
            )
        latency = (time.monotonic() - start) / max(1, len(questions))
        return [
            self._opinion(q, scores[q.prompt, id(q.first)], scores[q.prompt, id(q.second)], latency)
            for q in questions
        ]

    def _opinion(self, q, first: list[float], second: list[float], latency: float) -> Opinion:
        difference = sum(first) / len(first) - sum(second) / len(second)
        findings = tuple(
            Finding(
                criterion, f"first {p:.0%}, second {s:.0%}", 0 if p > s else 1 if p < s else None
            )
            for criterion, p, s in zip(q.rubric.statements, first, second, strict=True)
        )
        confidence = min(1.0, 0.5 + abs(difference) / 2)
        if difference == 0 or confidence < self.threshold:
            return Opinion(None, "both meet the criteria equally", findings, latency_s=latency)
        at = max(range(len(first)), key=lambda i: abs(first[i] - second[i]))
        better = "first" if difference > 0 else "second"
        return Opinion(
            0 if difference > 0 else 1,
            f"more likely in the {better}: {q.rubric.statements[at]}",
            findings,
            confidence=confidence,
            latency_s=latency,
        )
