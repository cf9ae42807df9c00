"""Tokenizers of the small world, made from a word list: every listed word is one token, anything else falls to letters.

They are the classes that the real pipelines use (CLIP's BPE, T5's Unigram, Qwen2's byte-level BPE); only the merges are ours.
"""

from __future__ import annotations

import json
import re

from arr_core.miniature.world import COLOURS, COUNTS, SHAPES

EDIT_TEMPLATE_HEAD = (  # what diffusers writes before the picture of an edit, and cuts off again after 64 tokens
    "<|im_start|>system\nDescribe the key features of the input image (color, shape, size, texture, objects, "
    "background), then explain how the user's text instruction should alter or modify the image. Generate a new "
    "image that meets the user's requirements while maintaining consistency with the original input where "
    "appropriate.<|im_end|>\n<|im_start|>user\n"
)
WORDS = [
    *COLOURS,
    *SHAPES,
    *(f"{shape}s" for shape in SHAPES),
    *COUNTS,
    *(
        "a an the left right of above below and make turn into remove picture image base edited prompt instruction "
        "is are was every everything else thing things each has its own colour shape place number that asked for "
        "change made it as clean yes no Yes No A B Picture"
    ).split(),
]
SPECIALS = [
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|object_ref_start|>",
    "<|object_ref_end|>",
    "<|box_start|>",
    "<|box_end|>",
    "<|quad_start|>",
    "<|quad_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|vision_pad|>",
    "<|image_pad|>",
    "<|video_pad|>",
]
CHAT_TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n"
    "{% if m['content'] is string %}{{ m['content'] }}{% else %}{% for c in m['content'] %}"
    "{% if c['type'] == 'image' %}<|vision_start|><|image_pad|><|vision_end|>"
    "{% elif 'text' in c %}{{ c['text'] }}{% endif %}{% endfor %}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def byte_letters() -> dict[int, str]:
    """The printable letter that byte-level BPE writes for each byte (GPT-2's table)."""
    plain = [
        *range(ord("!"), ord("~") + 1),
        *range(ord("¡"), ord("¬") + 1),
        *range(ord("®"), ord("ÿ") + 1),
    ]
    letters = {byte: chr(byte) for byte in plain}
    letters.update(
        {byte: chr(256 + n) for n, byte in enumerate(b for b in range(256) if b not in letters)}
    )
    return letters


def _train_merges(
    texts: list[str], split: str, lower: bool = False, suffix: str | None = None
) -> list[tuple[str, str]]:
    """The byte-pair merges after which every word of ``texts``, cut by the pattern ``split``, is one piece."""
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE(end_of_word_suffix=suffix) if suffix else models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(
                Regex(split), behavior="removed" if suffix else "isolated", invert=bool(suffix)
            ),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    trainer = trainers.BpeTrainer(
        vocab_size=8000,
        min_frequency=1,
        show_progress=False,
        initial_alphabet=sorted(byte_letters().values()),
        **({"end_of_word_suffix": suffix} if suffix else {}),
    )
    tokenizer.train_from_iterator([text.lower() if lower else text for text in texts], trainer)
    merges = json.loads(tokenizer.to_str())["model"]["merges"]
    return [
        tuple(merge) if isinstance(merge, list) else tuple(merge.split(" ")) for merge in merges
    ]


def clip_tokenizer():
    """A CLIPTokenizer, 77 tokens long, lower case, in which every listed word is one token."""
    from transformers import CLIPTokenizer

    letters = list(byte_letters().values())
    merges = _train_merges(WORDS, r"[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+", lower=True, suffix="</w>")
    vocabulary = [
        *letters,
        *(letter + "</w>" for letter in letters),
        *map("".join, merges),
        "<|startoftext|>",
        "<|endoftext|>",
    ]
    ids = {token: i for i, token in enumerate(dict.fromkeys(vocabulary))}
    return CLIPTokenizer(vocab=ids, merges=merges, model_max_length=77, pad_token="<|endoftext|>")


def t5_tokenizer():
    """A T5Tokenizer in which every listed word is one piece and every ASCII letter another."""
    from transformers import T5Tokenizer

    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0)]
    pieces += [(f"▁{word}", -1.0) for word in dict.fromkeys(WORDS)]
    pieces += [(letter, -10.0) for letter in ("▁", *map(chr, range(33, 127)))]
    pieces += [(f"<extra_id_{i}>", 0.0) for i in range(99, -1, -1)]
    return T5Tokenizer(vocab=pieces, model_max_length=512)


def qwen_tokenizer():
    """A Qwen2Tokenizer in which listed words, and the words of diffusers' edit template, are one token each."""
    from transformers import Qwen2Tokenizer
    from transformers.models.qwen2.tokenization_qwen2 import PRETOKENIZE_REGEX

    texts = [
        *WORDS,
        *(f" {word}" for word in WORDS),
        re.sub(r"<\|\w+\|>", "", EDIT_TEMPLATE_HEAD),
        "assistant\n",
    ]
    merges = _train_merges(texts, PRETOKENIZE_REGEX)
    ids = {
        token: i
        for i, token in enumerate(dict.fromkeys([*byte_letters().values(), *map("".join, merges)]))
    }
    ids.update({special: len(ids) + i for i, special in enumerate(SPECIALS)})
    return Qwen2Tokenizer(
        vocab=ids,
        merges=merges,
        model_max_length=32768,
        pad_token="<|endoftext|>",
        eos_token="<|im_end|>",
        additional_special_tokens=SPECIALS,
        chat_template=CHAT_TEMPLATE,
    )
