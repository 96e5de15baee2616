"""Makes tiny random diffusers pipelines, with tokenizers, without network."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

__all__ = ["INPUTS", "PIPELINES", "TRANSFORMERS", "clip_tokenizer", "make", "randomized", "t5_tokenizer"]

HEADS, SIZE = 3, 16

# class -> the arguments of a tiny one
TRANSFORMERS: dict[str, dict[str, Any]] = {
    "FluxTransformer2DModel": {
        "patch_size": 1,
        "in_channels": 4,
        "num_layers": 2,
        "num_single_layers": 2,
        "attention_head_dim": SIZE,
        "num_attention_heads": HEADS,
        "joint_attention_dim": 32,
        "pooled_projection_dim": 32,
        "axes_dims_rope": [4, 4, 8],
    },
    "HunyuanVideoTransformer3DModel": {
        "in_channels": 4,
        "out_channels": 4,
        "num_attention_heads": HEADS,
        "attention_head_dim": SIZE,
        "num_layers": 2,
        "num_single_layers": 2,
        "num_refiner_layers": 1,
        "patch_size": 1,
        "patch_size_t": 1,
        "guidance_embeds": True,
        "text_embed_dim": 16,
        "pooled_projection_dim": 8,
        "rope_axes_dim": (4, 4, 8),
    },
    "QwenImageTransformer2DModel": {
        "patch_size": 2,
        "in_channels": 16,
        "out_channels": 4,
        "num_layers": 2,
        "attention_head_dim": SIZE,
        "num_attention_heads": HEADS,
        "joint_attention_dim": 16,
        "guidance_embeds": False,
        "axes_dims_rope": (8, 4, 4),
    },
    "CogVideoXTransformer3DModel": {
        "num_attention_heads": HEADS,
        "attention_head_dim": SIZE,
        "in_channels": 4,
        "out_channels": 4,
        "time_embed_dim": 2,
        "text_embed_dim": 8,
        "num_layers": 2,
        "sample_width": 8,
        "sample_height": 8,
        "sample_frames": 8,
        "patch_size": 2,
        "temporal_compression_ratio": 4,
        "max_text_seq_length": 8,
        "use_rotary_positional_embeddings": True,
    },
    "WanTransformer3DModel": {
        "patch_size": (1, 2, 2),
        "num_attention_heads": HEADS,
        "attention_head_dim": SIZE,
        "in_channels": 4,
        "out_channels": 4,
        "text_dim": 16,
        "freq_dim": 256,
        "ffn_dim": 32,
        "num_layers": 2,
        "cross_attn_norm": True,
        "qk_norm": "rms_norm_across_heads",
        "rope_max_seq_len": 32,
    },
}

# transformer -> the pipeline it is in and the names of the pipeline's other parts
PIPELINES: dict[str, tuple[str, tuple[str, ...]]] = {
    "HunyuanVideoTransformer3DModel": (
        "HunyuanVideoPipeline",
        ("vae", "text_encoder", "tokenizer", "text_encoder_2", "tokenizer_2", "scheduler"),
    ),
    "QwenImageTransformer2DModel": (
        "QwenImagePipeline",
        ("vae", "text_encoder", "tokenizer", "scheduler"),
    ),
    "CogVideoXTransformer3DModel": ("CogVideoXPipeline", ("vae", "text_encoder", "tokenizer", "scheduler")),
    "WanTransformer3DModel": ("WanPipeline", ("vae", "text_encoder", "tokenizer", "scheduler")),
}


def _flux_inputs() -> dict[str, Any]:
    image_ids = torch.stack(torch.meshgrid(torch.zeros(1), torch.arange(4.0), torch.arange(5.0), indexing="ij"), -1)
    return {
        "hidden_states": torch.randn(2, 20, 4),
        "encoder_hidden_states": torch.randn(2, 7, 32),
        "pooled_projections": torch.randn(2, 32),
        "timestep": torch.tensor([0.3, 0.7]),
        "img_ids": image_ids.reshape(-1, 3),
        "txt_ids": torch.zeros(7, 3),
    }


def _hunyuan_inputs() -> dict[str, Any]:
    mask = torch.ones(2, 7)
    mask[1, 5:] = 0
    return {
        "hidden_states": torch.randn(2, 4, 2, 4, 5),
        "timestep": torch.tensor([3, 700]),
        "encoder_hidden_states": torch.randn(2, 7, 16),
        "encoder_attention_mask": mask,
        "pooled_projections": torch.randn(2, 8),
        "guidance": torch.tensor([6000.0, 6000.0]),
    }


def _qwen_inputs() -> dict[str, Any]:
    return {
        "hidden_states": torch.randn(2, 16, 16),
        "encoder_hidden_states": torch.randn(2, 7, 16),
        "encoder_hidden_states_mask": torch.ones(2, 7, dtype=torch.bool),
        "timestep": torch.tensor([0.3, 0.7]),
        "img_shapes": [[(1, 4, 4)], [(1, 4, 4)]],
        "txt_seq_lens": [7, 7],
    }


def _cogvideox_inputs() -> dict[str, Any]:
    positions = torch.randn(32 * 1, SIZE)
    return {
        "hidden_states": torch.randn(2, 2, 4, 8, 8),
        "encoder_hidden_states": torch.randn(2, 8, 8),
        "timestep": torch.tensor([3, 700]),
        "image_rotary_emb": (positions.cos(), positions.sin()),
    }


def _wan_inputs() -> dict[str, Any]:
    return {
        "hidden_states": torch.randn(2, 4, 2, 4, 6),
        "timestep": torch.tensor([3, 700]),
        "encoder_hidden_states": torch.randn(2, 7, 16),
    }


INPUTS: dict[str, Callable[[], dict[str, Any]]] = {
    "FluxTransformer2DModel": _flux_inputs,
    "HunyuanVideoTransformer3DModel": _hunyuan_inputs,
    "QwenImageTransformer2DModel": _qwen_inputs,
    "CogVideoXTransformer3DModel": _cogvideox_inputs,
    "WanTransformer3DModel": _wan_inputs,
}


def make(class_name: str, folder: Path) -> None:
    """Write a pipeline with a tiny random transformer; Flux gets all components, others only the transformer."""
    import diffusers

    transformer = randomized(class_name)
    if class_name == "FluxTransformer2DModel":
        _flux(transformer, folder)
        return
    transformer.save_pretrained(folder / "transformer")
    pipeline, others = PIPELINES[class_name]
    index = {
        "_class_name": pipeline,
        "_diffusers_version": diffusers.__version__,
        **{name: [None, None] for name in others},
        "transformer": ["diffusers", class_name],
    }
    (folder / "model_index.json").write_text(json.dumps(index, indent=2) + "\n")


def randomized(class_name: str, seed: int = 0) -> torch.nn.Module:
    """A tiny transformer of random weights."""
    import diffusers

    torch.manual_seed(seed)
    transformer = getattr(diffusers, class_name)(**TRANSFORMERS[class_name]).eval()
    with torch.no_grad():
        for parameter in transformer.parameters():  # many are zeros or ones otherwise
            parameter.add_(torch.randn_like(parameter) * 0.05)
    return transformer


def _flux(transformer: torch.nn.Module, folder: Path) -> None:
    from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, FluxPipeline
    from transformers import CLIPTextConfig, CLIPTextModel, T5Config, T5EncoderModel

    clip, t5 = clip_tokenizer(folder), t5_tokenizer(folder)
    FluxPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(),
        vae=AutoencoderKL(
            sample_size=32, in_channels=3, out_channels=3, block_out_channels=(4,), layers_per_block=1,
            latent_channels=1, norm_num_groups=1, use_quant_conv=False, use_post_quant_conv=False,
            shift_factor=0.06, scaling_factor=1.5,
        ),
        text_encoder=CLIPTextModel(
            CLIPTextConfig(
                hidden_size=32, intermediate_size=37, num_attention_heads=4, num_hidden_layers=2,
                vocab_size=len(clip), projection_dim=32, bos_token_id=0, eos_token_id=1, pad_token_id=1,
            )
        ),
        tokenizer=clip,
        text_encoder_2=T5EncoderModel(
            T5Config(d_model=32, d_ff=37, d_kv=8, num_heads=4, num_layers=2, vocab_size=len(t5))
        ),
        tokenizer_2=t5,
        transformer=transformer,
    ).save_pretrained(folder)  # fmt: skip


def clip_tokenizer(folder: Path) -> Any:
    from transformers import CLIPTokenizer

    letters = [chr(code) for code in range(ord("a"), ord("z") + 1)]
    tokens = [
        "<|startoftext|>",
        "<|endoftext|>",
        *letters,
        *(f"{letter}</w>" for letter in letters),
        "ca",
        "cat</w>",
    ]
    files = folder.parent / f"{folder.name}-clip"
    files.mkdir()
    (files / "vocab.json").write_text(json.dumps({token: number for number, token in enumerate(tokens)}))
    (files / "merges.txt").write_text("#version: 0.2\nc a\nca t</w>\n")
    return CLIPTokenizer(
        **(
            {"vocab_file": str(files / "vocab.json"), "merges_file": str(files / "merges.txt")}
            if transformers_major() < 5
            else {"vocab": str(files / "vocab.json"), "merges": str(files / "merges.txt")}
        ),
        model_max_length=77,
    )


def t5_tokenizer(folder: Path) -> Any:
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast, T5TokenizerFast

    letters = [chr(code) for code in range(ord("a"), ord("z") + 1)]
    pieces = [
        ("<pad>", 0.0),
        ("</s>", 0.0),
        ("<unk>", 0.0),
        *((token, -2.0) for token in ["▁", *letters, "▁cat"]),
    ]
    tokenizer = Tokenizer(models.Unigram(pieces, unk_id=2))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    wanted = {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>", "model_max_length": 32}
    if transformers_major() < 5:
        return T5TokenizerFast(tokenizer_object=tokenizer, extra_ids=0, **wanted)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **wanted)


def transformers_major() -> int:
    import transformers

    return int(transformers.__version__.split(".")[0])
