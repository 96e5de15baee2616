"""Makes complete tiny video pipelines: CogVideoX, HunyuanVideo, and Wan with two transformers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.patching.diffusion.tiny_pipelines import clip_tokenizer, randomized, t5_tokenizer

__all__ = ["make_cogvideox", "make_hunyuan_video", "make_wan", "word_tokenizer"]


def make_cogvideox(folder: Path) -> None:
    """Write a CogVideoXPipeline: its blocks return a pair, and attend to text and video together."""
    from diffusers import AutoencoderKLCogVideoX, CogVideoXDDIMScheduler, CogVideoXPipeline
    from transformers import T5Config, T5EncoderModel

    tokenizer = t5_tokenizer(folder)
    CogVideoXPipeline(
        tokenizer=tokenizer,
        text_encoder=T5EncoderModel(
            T5Config(d_model=8, d_ff=16, d_kv=8, num_heads=2, num_layers=1, vocab_size=len(tokenizer))
        ),
        vae=AutoencoderKLCogVideoX(
            down_block_types=("CogVideoXDownBlock3D",) * 4, up_block_types=("CogVideoXUpBlock3D",) * 4,
            block_out_channels=(4, 4, 4, 4), latent_channels=4, layers_per_block=1, norm_num_groups=2,
        ),
        transformer=randomized("CogVideoXTransformer3DModel"),
        scheduler=CogVideoXDDIMScheduler(
            prediction_type="v_prediction", rescale_betas_zero_snr=True, timestep_spacing="trailing"
        ),
    ).save_pretrained(folder)  # fmt: skip


def make_hunyuan_video(folder: Path) -> None:
    """Write a HunyuanVideoPipeline: two lists of blocks, and a text refiner outside of them."""
    from diffusers import AutoencoderKLHunyuanVideo, FlowMatchEulerDiscreteScheduler, HunyuanVideoPipeline
    from transformers import CLIPTextConfig, CLIPTextModel, LlamaConfig, LlamaModel

    words, clip = word_tokenizer(), clip_tokenizer(folder)
    HunyuanVideoPipeline(
        text_encoder=LlamaModel(
            LlamaConfig(
                vocab_size=len(words), hidden_size=16, intermediate_size=16, num_hidden_layers=3,
                num_attention_heads=2,
            )
        ),
        tokenizer=words,
        text_encoder_2=CLIPTextModel(
            CLIPTextConfig(
                hidden_size=8, intermediate_size=16, num_attention_heads=2, num_hidden_layers=1,
                vocab_size=len(clip), projection_dim=8, bos_token_id=0, eos_token_id=1, pad_token_id=1,
            )
        ),
        tokenizer_2=clip,
        transformer=randomized("HunyuanVideoTransformer3DModel"),
        vae=AutoencoderKLHunyuanVideo(
            latent_channels=4, block_out_channels=(4, 4, 4, 4), layers_per_block=1, norm_num_groups=4,
        ),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=7.0),
    ).save_pretrained(folder)  # fmt: skip


def make_wan(folder: Path) -> None:
    """Write a WanPipeline whose early steps take `transformer` and whose late ones take `transformer_2`."""
    from diffusers import AutoencoderKLWan, FlowMatchEulerDiscreteScheduler, WanPipeline
    from transformers import UMT5Config, UMT5EncoderModel

    tokenizer = t5_tokenizer(folder)
    WanPipeline(
        tokenizer=tokenizer,
        text_encoder=UMT5EncoderModel(
            UMT5Config(d_model=16, d_ff=16, d_kv=8, num_heads=2, num_layers=1, vocab_size=len(tokenizer))
        ),
        vae=AutoencoderKLWan(
            base_dim=4, z_dim=4, dim_mult=[1, 1, 1, 1], num_res_blocks=1, latents_mean=[0.0] * 4,
            latents_std=[1.0] * 4,
        ),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=1.0),
        transformer=randomized("WanTransformer3DModel"),
        transformer_2=randomized("WanTransformer3DModel", seed=1),
        boundary_ratio=0.5,
    ).save_pretrained(folder)  # fmt: skip


def word_tokenizer() -> Any:
    """Make a tokenizer with one token per word or run of punctuation, which keeps prompt templates short."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = ["<pad>", "<unk>", "a", "cat", "dog", "in", "the", "rain"]
    tokenizer = Tokenizer(models.WordLevel({word: n for n, word in enumerate(words)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", unk_token="<unk>")
