"""The chat of a vision-language model in this process: any that transformers' auto classes load, asked in batches."""

from __future__ import annotations

import asyncio
import gc
import hashlib
import json
import os
import queue
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import groupby
from typing import TYPE_CHECKING, Any

from .chat import Chat, Messages, Reply, RequestOptions, merge_log_probs
from .pictures import smaller
from .verdict import JudgeError

if TYPE_CHECKING:
    from .profiles import Profile

GATHER_S = 0.01  # how long the first question of a batch waits for company
LONGEST_CLOSE_S = 5.0
CANDIDATES = 1000  # first tokens of which the log-probability is given


@dataclass
class _Request:
    messages: Messages
    options: RequestOptions  # nothing in them is None but the seed
    reply: Future[Reply] = field(default_factory=Future)


class LocalChat(Chat):
    """A model with its processor, loaded at the first question and owned by one thread.

    Questions that wait are answered together, in the order in which they came, at most ``batch_size`` at a time. A reply
    does not depend on its company: padding is masked, and every sampled reply has a random generator of its own.
    A schema is not enforced here; the question states the form.
    """

    def __init__(self, profile: Profile):
        self.profile, self.name = profile, profile.model
        self.identity = f"local:{profile.model}:{profile.dtype}:{profile.reply_settings}"
        if profile.chat_template:
            settings = json.dumps(profile.chat_template, sort_keys=True).encode()
            self.identity += f":template={hashlib.sha256(settings).hexdigest()[:8]}"
        self._waiting: queue.SimpleQueue[_Request | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        # Of transformers' own types, which are known only once it is imported.
        self._model: Any = None
        self._processor: Any = None
        self._fault = ""  # why the model does not load
        self._texts: list[str] = []  # of every token, when log-probabilities are first asked for

    async def complete(self, messages: Messages, options: RequestOptions | None = None) -> Reply:
        request = _Request(messages, (options or RequestOptions()).filled(self.profile))
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name="local judge", daemon=True)
            self._thread.start()
        self._waiting.put(request)
        return await asyncio.wrap_future(request.reply)

    async def close(self) -> None:
        """Let the model go; a batch in work may end after this returns, and takes the model with it then."""
        thread, self._thread = self._thread, None
        if thread is not None:
            self._waiting.put(None)
            await asyncio.to_thread(thread.join, LONGEST_CLOSE_S)

    def _work(self) -> None:
        for batch in self._batches():
            for _, alike in groupby(
                batch, lambda each: (each.options.log_probs, each.options.max_tokens)
            ):
                wanted = [each for each in alike if each.reply.set_running_or_notify_cancel()]
                try:
                    if self._model is None:
                        self._load_once()
                    self._answer(wanted)
                except BaseException as error:  # the thread's boundary: the caller gets the error
                    for request in wanted:
                        if not request.reply.done():
                            request.reply.set_exception(error)
        self._model = self._processor = None
        _free_memory()

    def _batches(self) -> Iterator[list[_Request]]:
        """What waits, in the order of arrival, until ``close``."""
        while (first := self._waiting.get()) is not None:
            batch, end = [first], time.monotonic() + GATHER_S
            while len(batch) < self.profile.batch_size:
                try:
                    following = self._waiting.get(timeout=max(0.0, end - time.monotonic()))
                except queue.Empty:
                    break
                if following is None:
                    self._waiting.put(None)
                    break
                batch.append(following)
            yield batch

    def _load_once(self) -> None:
        """Loads the model, or says again why it does not load."""
        if self._fault:
            raise JudgeError(self._fault)
        try:
            self._load()
        except JudgeError as error:
            self._fault = str(error)
            raise

    def _load(self) -> None:
        import torch
        from safetensors import SafetensorError
        from transformers import AutoModelForImageTextToText, AutoProcessor

        device, has_cuda = self.profile.device, torch.cuda.is_available()
        if device == "auto":
            device = "mps" if torch.backends.mps.is_available() else "cpu"
            device = "cuda" if has_cuda else device
        if device == "cuda" and has_cuda:  # a thread begins at card 0, whichever the process has
            device = f"cuda:{int(os.environ.get('LOCAL_RANK', 0)) % torch.cuda.device_count()}"
        if device.startswith("cuda:") and has_cuda:
            with self._device_errors(device):
                torch.cuda.set_device(device)
        dtype = self.profile.dtype
        if dtype == "auto":
            dtype = "float32" if device == "cpu" else "bfloat16"
        try:
            processor = AutoProcessor.from_pretrained(self.name)
            load: Any = AutoModelForImageTextToText.from_pretrained
            model = load(self.name, dtype=getattr(torch, dtype)).eval()
        except (OSError, ValueError, KeyError, ImportError, SafetensorError) as error:
            raise JudgeError(
                f"the local judge {self.name!r}: expected a folder or a hub name of a vision-language model "
                f"that transformers knows, got {_one_line(error)}"
            ) from error
        if not (hasattr(processor, "image_processor") and getattr(processor, "tokenizer", None)):
            raise JudgeError(
                f"the local judge {self.name!r} cannot see images; choose a vision-language model"
            )
        with self._device_errors(device):
            self._model = model.to(device)
        processor.tokenizer.padding_side = "left"  # the reply begins where every prompt ends
        self._processor = processor

    @contextmanager
    def _device_errors(self, device: str) -> Iterator[None]:
        try:
            yield
        except (RuntimeError, AssertionError) as error:
            raise JudgeError(
                f"the local judge {self.name!r} cannot be moved to the device {device!r}: {_one_line(error)}; "
                "correct the profile's device, or choose a smaller model"
            ) from error

    def _answer(self, requests: Sequence[_Request]) -> None:
        """Sets every request's reply; a batch that is too large for the memory is halved."""
        import torch

        if not requests:
            return
        try:
            replies = self._replies(requests)
        except torch.OutOfMemoryError:
            replies = None  # and no more here: the fault itself holds on to what did not fit
        if replies is None:
            _free_memory()
            if len(requests) > 1:
                half = len(requests) // 2
                self._answer(requests[:half])
                self._answer(requests[half:])
                return
            failure = "out of memory on one question; lower the profile's max_side or max_tokens"
            replies = [Reply(failure=failure)]
        for request, reply in zip(requests, replies, strict=True):
            request.reply.set_result(reply)

    def _replies(self, requests: Sequence[_Request]) -> list[Reply]:
        import torch

        tokenizer, start = self._processor.tokenizer, time.monotonic()
        inputs = self._inputs(requests).to(self._model.device, self._model.dtype)
        options = [request.options for request in requests]
        limit, log_probs = options[0].max_tokens or 0, options[0].log_probs
        sampled = not log_probs and any(each.temperature for each in options)
        samplers = [_sampler(options, self._model.device)] if sampled else []
        with torch.inference_mode():
            # The whole output of the processor: without its mm_token_type_ids, positions would be wrong in silence.
            made = self._model.generate(
                **inputs,
                max_new_tokens=limit,
                do_sample=False,
                temperature=None,
                top_p=None,
                top_k=None,
                logits_processor=samplers,
                pad_token_id=tokenizer.pad_token_id,
                output_logits=log_probs,
                return_dict_in_generate=True,
            )
        latency = time.monotonic() - start
        prompts = inputs["attention_mask"].sum(dim=1).tolist()
        written = made.sequences[:, inputs["input_ids"].shape[1] :].tolist()
        ends = self._ends()
        candidates = self._candidates(made.logits[0]) if log_probs else [{}] * len(requests)
        replies = []
        for prompt, ids, found in zip(prompts, written, candidates, strict=True):
            length = next((at + 1 for at, token in enumerate(ids) if token in ends), len(ids))
            replies.append(
                Reply(
                    tokenizer.decode(ids[:length], skip_special_tokens=True),
                    tokens=prompt + length,
                    cut=length == limit and ids[length - 1] not in ends,
                    latency_s=latency,
                    log_probs=found,
                )
            )
        return replies

    def _inputs(self, requests: Sequence[_Request]):
        settings = {"add_generation_prompt": True, "tokenize": False}
        settings |= self.profile.chat_template
        texts, images = [], []
        for request in requests:
            chat = [
                {**message, "content": _parts(message["content"])} for message in request.messages
            ]
            shown = [
                part.pop("image")
                for message in chat
                for part in message["content"]
                if "image" in part
            ]
            texts.append(self._processor.apply_chat_template(chat, **settings))
            images.append([smaller(image, self.profile.max_side) for image in shown])
        return self._processor(
            text=texts, images=images if any(images) else None, padding=True, return_tensors="pt"
        )

    def _ends(self) -> set[int]:
        ends = self._model.generation_config.eos_token_id
        more = [ends] if isinstance(ends, int) else ends or ()
        return {self._processor.tokenizer.eos_token_id, *more}

    def _candidates(self, logits) -> list[dict[str, float]]:
        if not self._texts:
            tokens = [[token] for token in range(logits.shape[-1])]
            self._texts = self._processor.tokenizer.batch_decode(tokens)
        best = logits.float().log_softmax(-1).topk(min(CANDIDATES, logits.shape[-1]))
        rows = zip(best.indices.tolist(), best.values.tolist(), strict=True)
        return [
            merge_log_probs(
                [(self._texts[token], value) for token, value in zip(*row, strict=True)]
            )
            for row in rows
        ]


def _free_memory() -> None:
    """Give unused memory back to the device."""
    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _sampler(options: Sequence[RequestOptions], device):
    """A logits processor after which the largest logit is a sample at each request's temperature (the Gumbel trick).

    Each row draws from its own generator, so that a vote is the same whatever it is answered together with.
    """
    import torch

    generators = [torch.Generator(device) for _ in options]
    for each, generator in zip(options, generators, strict=True):
        if each.seed is None:
            generator.seed()
        else:
            generator.manual_seed(each.seed)

    def draw(_, scores):
        rows = []
        for each, row, generator in zip(options, scores.float(), generators, strict=True):
            if each.temperature:
                noise = torch.empty_like(row).exponential_(generator=generator).clamp_min(1e-30)
                row = row / each.temperature - noise.log()
            rows.append(row)
        return torch.stack(rows)

    return draw


def _parts(content: str | list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The content as a new list of parts, as every chat template takes it."""
    if isinstance(content, str):
        return [{"type": "text", "text": content}]
    return [{name: part[name] for name in part if name != "hash"} for part in content]


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:300]
