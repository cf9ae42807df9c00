"""Small models of the real classes, untrained: the FLUX pipeline, the Qwen-Image-Edit pipeline, the judge.

``build.py`` trains them into the embedded world; tests take them as they are, random.
"""

from __future__ import annotations

import torch
from diffusers import (
    AutoencoderKL,
    AutoencoderKLQwenImage,
    FlowMatchEulerDiscreteScheduler,
    FluxPipeline,
    FluxTransformer2DModel,
    QwenImageEditPipeline,
    QwenImageEditPlusPipeline,
    QwenImageTransformer2DModel,
)
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2VLImageProcessor,
    Qwen2VLProcessor,
    Qwen2VLVideoProcessor,
    T5Config,
    T5EncoderModel,
)

from .tokenizers import CHAT_TEMPLATE, clip_tokenizer, qwen_tokenizer, t5_tokenizer


def flux_pipeline(
    heads: int = 4, layers: int = 2, single_layers: int = 4, latent_channels: int = 8, seed: int = 0
) -> FluxPipeline:
    """A FluxPipeline whose VAE shrinks by 4: a 32x32 picture is 16 packed tokens of ``4 * latent_channels`` numbers."""
    torch.manual_seed(seed)
    tokenizer, tokenizer_2 = clip_tokenizer(), t5_tokenizer()
    clip = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=64,
            intermediate_size=128,
            projection_dim=64,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=77,
            hidden_act="quick_gelu",
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )
    t5 = T5EncoderModel(
        T5Config(
            vocab_size=len(tokenizer_2),
            d_model=64,
            d_kv=16,
            d_ff=128,
            num_layers=2,
            num_heads=4,
            dropout_rate=0.0,
            feed_forward_proj="gated-gelu",
            is_encoder_decoder=False,
            use_cache=False,
            tie_word_embeddings=False,
        )
    )
    transformer = FluxTransformer2DModel(
        patch_size=1,
        in_channels=4 * latent_channels,
        num_layers=layers,
        num_single_layers=single_layers,
        attention_head_dim=32,
        num_attention_heads=heads,
        joint_attention_dim=64,
        pooled_projection_dim=64,
        guidance_embeds=True,
        axes_dims_rope=(8, 12, 12),
    )
    vae = AutoencoderKL(
        in_channels=3,
        out_channels=3,
        sample_size=32,
        latent_channels=latent_channels,
        layers_per_block=1,
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        block_out_channels=(16, 32, 48),
        norm_num_groups=8,
        act_fn="silu",
        scaling_factor=1.0,
        shift_factor=0.0,
        use_quant_conv=False,
        use_post_quant_conv=False,
        mid_block_add_attention=False,
    )
    scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=False)
    return FluxPipeline(
        scheduler=scheduler,
        vae=vae,
        text_encoder=clip,
        tokenizer=tokenizer,
        text_encoder_2=t5,
        tokenizer_2=tokenizer_2,
        transformer=transformer,
    )


def vision_language_model(
    tokenizer,
    width: int = 64,
    layers: int = 2,
    patch_size: int = 14,
    vision_width: int = 32,
    vision_layers: int = 2,
) -> Qwen2_5_VLForConditionalGeneration:
    """A Qwen2.5-VL of four heads; vision patches of ``patch_size`` pixels, four of them a token."""
    ids = {
        name: tokenizer.convert_tokens_to_ids(f"<|{name}|>")
        for name in ("image_pad", "video_pad", "vision_start", "vision_end", "im_end", "endoftext")
    }
    half = width // 8  # rotary pairs of one head, shared by time, height and width
    return Qwen2_5_VLForConditionalGeneration(
        Qwen2_5_VLConfig(
            text_config=dict(
                vocab_size=len(tokenizer),
                hidden_size=width,
                intermediate_size=2 * width,
                num_hidden_layers=layers,
                num_attention_heads=4,
                num_key_value_heads=2,
                max_position_embeddings=4096,
                use_sliding_window=False,
                rope_parameters={
                    "rope_type": "default",
                    "rope_theta": 1e4,
                    "mrope_section": [half - 2 * (3 * half // 8), 3 * half // 8, 3 * half // 8],
                },
                bos_token_id=ids["endoftext"],
                eos_token_id=ids["im_end"],
                pad_token_id=ids["endoftext"],
            ),
            vision_config=dict(
                depth=vision_layers,
                hidden_size=vision_width,
                intermediate_size=2 * vision_width,
                num_heads=4,
                out_hidden_size=width,
                patch_size=patch_size,
                spatial_merge_size=2,
                temporal_patch_size=2,
                window_size=8 * patch_size,
                fullatt_block_indexes=list(range(vision_layers)),
                tokens_per_second=2,
            ),
            image_token_id=ids["image_pad"],
            video_token_id=ids["video_pad"],
            vision_start_token_id=ids["vision_start"],
            vision_end_token_id=ids["vision_end"],
            tie_word_embeddings=True,
        )
    ).eval()


def vision_language_processor(
    tokenizer, patch_size: int = 14, min_pixels: int = 56 * 56
) -> Qwen2VLProcessor:
    """The processor that belongs to ``vision_language_model``."""
    kwargs = dict(
        patch_size=patch_size,
        temporal_patch_size=2,
        merge_size=2,
        min_pixels=min_pixels,
        max_pixels=28 * 28 * 1280,
    )
    return Qwen2VLProcessor(
        image_processor=Qwen2VLImageProcessor(**kwargs),
        tokenizer=tokenizer,
        video_processor=Qwen2VLVideoProcessor(**kwargs),
        chat_template=CHAT_TEMPLATE,
    )


def qwen_edit_pipeline(
    heads: int = 4, layers: int = 4, latent_channels: int = 8, plus: bool = False, seed: int = 0
) -> QwenImageEditPipeline | QwenImageEditPlusPipeline:
    """A Qwen-Image-Edit pipeline (``plus``: the 2509 one) whose VAE shrinks by 4."""
    torch.manual_seed(seed)
    tokenizer = qwen_tokenizer()
    transformer = QwenImageTransformer2DModel(
        patch_size=2,
        in_channels=4 * latent_channels,
        out_channels=latent_channels,
        num_layers=layers,
        attention_head_dim=32,
        num_attention_heads=heads,
        joint_attention_dim=64,
        guidance_embeds=False,
        axes_dims_rope=(8, 12, 12),
    )
    vae = AutoencoderKLQwenImage(
        base_dim=8,
        z_dim=latent_channels,
        dim_mult=[1, 2, 4],
        num_res_blocks=1,
        attn_scales=[],
        temperal_downsample=[False, True],
        dropout=0.0,
        latents_mean=[0.0] * latent_channels,
        latents_std=[1.0] * latent_channels,
    )
    scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=False)
    pipeline = QwenImageEditPlusPipeline if plus else QwenImageEditPipeline
    return pipeline(
        scheduler=scheduler,
        vae=vae,
        text_encoder=vision_language_model(tokenizer),
        tokenizer=tokenizer,
        processor=vision_language_processor(tokenizer),
        transformer=transformer,
    )
