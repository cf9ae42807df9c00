"""Small vision-language models of real classes, saved as their hubs save them: random, or taught to judge in a minute."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image
from skimage import data

from arr_core.judging.client import Question
from arr_core.judging.prompts import letter_messages
from arr_core.rubrics import Rubric
from tools.miniature import models
from tools.miniature.tokenizers import CHAT_TEMPLATE, qwen_tokenizer

RUBRIC = Rubric(name="light", task="t2i", criteria=("The picture is clear.",))
SIDE = 56


def photographs() -> dict[str, Image.Image]:
    """Real photographs with free licences, from scikit-image's wheel, 56 pixels on a side."""
    names = (
        "astronaut",
        "chelsea",
        "coffee",
        "rocket",
        "camera",
        "coins",
        "brick",
        "grass",
        "text",
        "page",
        "moon",
    )
    return {
        name: Image.fromarray(getattr(data, name)()).convert("RGB").resize((SIDE, SIDE))
        for name in names
    }


def veiled(image: Image.Image) -> Image.Image:
    """The picture behind a dark veil: what the taught judge likes less."""
    return Image.blend(image, Image.new("RGB", image.size), 0.6)


def qwen2_5_vl(folder: Path) -> Path:
    """A random Qwen2.5-VL."""
    torch.manual_seed(0)
    tokenizer = qwen_tokenizer()
    return _save(
        folder, models.vision_language_model(tokenizer), models.vision_language_processor(tokenizer)
    )


def qwen3_vl(folder: Path) -> Path:
    """A random Qwen3-VL."""
    from transformers import (
        Qwen2VLImageProcessor,
        Qwen3VLConfig,
        Qwen3VLForConditionalGeneration,
        Qwen3VLProcessor,
        Qwen3VLVideoProcessor,
    )

    torch.manual_seed(0)
    tokenizer = qwen_tokenizer()
    ids = {
        name: tokenizer.convert_tokens_to_ids(f"<|{name}|>")
        for name in ("image_pad", "video_pad", "vision_start", "vision_end", "im_end", "endoftext")
    }
    model = Qwen3VLForConditionalGeneration(
        Qwen3VLConfig(
            text_config=dict(
                vocab_size=len(tokenizer),
                hidden_size=64,
                intermediate_size=128,
                num_hidden_layers=2,
                num_attention_heads=4,
                num_key_value_heads=2,
                head_dim=16,
                max_position_embeddings=4096,
                rope_parameters={
                    "rope_type": "default",
                    "rope_theta": 1e4,
                    "mrope_section": [2, 3, 3],
                },
                bos_token_id=ids["endoftext"],
                eos_token_id=ids["im_end"],
                pad_token_id=ids["endoftext"],
            ),
            vision_config=dict(
                depth=2,
                hidden_size=32,
                intermediate_size=64,
                num_heads=4,
                out_hidden_size=64,
                patch_size=14,
                spatial_merge_size=2,
                temporal_patch_size=2,
                num_position_embeddings=64,
                deepstack_visual_indexes=[0],
            ),
            image_token_id=ids["image_pad"],
            video_token_id=ids["video_pad"],
            vision_start_token_id=ids["vision_start"],
            vision_end_token_id=ids["vision_end"],
            tie_word_embeddings=True,
        )
    ).eval()
    patches = dict(patch_size=14, temporal_patch_size=2, merge_size=2)
    processor = Qwen3VLProcessor(
        image_processor=Qwen2VLImageProcessor(
            **patches, min_pixels=56 * 56, max_pixels=28 * 28 * 1280
        ),
        tokenizer=tokenizer,
        video_processor=Qwen3VLVideoProcessor(**patches),
        chat_template=CHAT_TEMPLATE,
    )
    return _save(folder, model, processor)


def llava(folder: Path) -> Path:
    """A random LLaVA: another vision tower, another processor, another way to place images."""
    from transformers import (
        CLIPImageProcessor,
        CLIPVisionConfig,
        LlamaConfig,
        LlavaConfig,
        LlavaForConditionalGeneration,
        LlavaProcessor,
    )

    torch.manual_seed(0)
    tokenizer = qwen_tokenizer()
    pad, end, image = (
        tokenizer.convert_tokens_to_ids(f"<|{name}|>")
        for name in ("endoftext", "im_end", "image_pad")
    )
    model = LlavaForConditionalGeneration(
        LlavaConfig(
            vision_config=CLIPVisionConfig(
                hidden_size=32,
                intermediate_size=64,
                num_hidden_layers=2,
                num_attention_heads=4,
                image_size=SIDE,
                patch_size=14,
                projection_dim=32,
            ),
            text_config=LlamaConfig(
                vocab_size=len(tokenizer),
                hidden_size=64,
                intermediate_size=128,
                num_hidden_layers=2,
                num_attention_heads=4,
                num_key_value_heads=2,
                max_position_embeddings=4096,
                bos_token_id=pad,
                eos_token_id=end,
                pad_token_id=pad,
            ),
            image_token_id=image,
            vision_feature_select_strategy="default",
            vision_feature_layer=-1,
        )
    ).eval()
    processor = LlavaProcessor(
        image_processor=CLIPImageProcessor(
            size={"shortest_edge": SIDE}, crop_size={"height": SIDE, "width": SIDE}
        ),
        tokenizer=tokenizer,
        patch_size=14,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        image_token="<|image_pad|>",
        chat_template=CHAT_TEMPLATE.replace(
            "<|vision_start|><|image_pad|><|vision_end|>", "<|image_pad|>"
        ),
    )
    return _save(folder, model, processor)


def taught(folder: Path, pictures: Sequence[Image.Image], steps: int = 80) -> Path:
    """A Qwen2.5-VL that was taught, by the judge's own question, to prefer a photograph to the same behind a veil."""
    from transformers import AutoModelForImageTextToText, AutoProcessor

    qwen2_5_vl(folder)
    model, processor = (
        AutoModelForImageTextToText.from_pretrained(folder),
        AutoProcessor.from_pretrained(folder),
    )
    processor.tokenizer.padding_side = "left"
    letters = torch.tensor([processor.tokenizer.convert_tokens_to_ids(letter) for letter in "AB"])
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    dice = random.Random(0)
    for _ in range(steps):
        chats, images, labels = [], [], []
        for _ in range(8):
            clear, better = dice.choice(pictures), dice.choice((0, 1))
            shown = [veiled(clear), veiled(clear)]
            shown[better] = clear
            question = Question("a picture", *shown, None, RUBRIC)
            chats.append(
                processor.apply_chat_template(
                    letter_messages(question), add_generation_prompt=True, tokenize=False
                )
            )
            images.append(shown)
            labels.append(better)
        inputs = processor(text=chats, images=images, padding=True, return_tensors="pt")
        logits = model(**inputs, logits_to_keep=1).logits[:, -1]
        loss = torch.nn.functional.cross_entropy(logits, letters[torch.tensor(labels)])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    model.eval().save_pretrained(folder)
    return folder


def _save(folder: Path, model, processor) -> Path:
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder
