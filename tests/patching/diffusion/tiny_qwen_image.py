"""Makes a complete tiny QwenImage pipeline."""

from __future__ import annotations

from pathlib import Path

from tests.patching.diffusion.tiny_pipelines import randomized
from tests.patching.diffusion.tiny_video import word_tokenizer

__all__ = ["make_qwen_image"]


def make_qwen_image(folder: Path) -> None:
    """Write a QwenImagePipeline: its transformer takes lists of shapes, and masks the text."""
    from diffusers import AutoencoderKLQwenImage, FlowMatchEulerDiscreteScheduler, QwenImagePipeline
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

    words = word_tokenizer()
    QwenImagePipeline(
        tokenizer=words,
        text_encoder=Qwen2_5_VLForConditionalGeneration(
            Qwen2_5_VLConfig(
                text_config={
                    "vocab_size": len(words), "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1,
                    "num_attention_heads": 2, "num_key_value_heads": 2,
                    "rope_scaling": {"mrope_section": [1, 1, 2], "rope_type": "default", "type": "default"},
                },
                vision_config={
                    "depth": 1, "hidden_size": 16, "intermediate_size": 16, "num_heads": 2, "out_hidden_size": 16,
                },
            )
        ),
        transformer=randomized("QwenImageTransformer2DModel"),
        vae=AutoencoderKLQwenImage(
            base_dim=4, z_dim=4, dim_mult=[1, 1, 1, 1], num_res_blocks=1, latents_mean=[0.0] * 4,
            latents_std=[1.0] * 4,
        ),
        scheduler=FlowMatchEulerDiscreteScheduler(),
    ).save_pretrained(folder)  # fmt: skip
