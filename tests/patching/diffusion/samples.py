"""Writes a small diffusers package: files of the same structure, with only the code that matters to patching."""

from __future__ import annotations

import json
from pathlib import Path

from fa3cli.patching.diffusion.library import Diffusers

__all__ = ["MINDIE", "TENCENT", "library", "pipeline"]

# Up to 0.34: the processors are in another file, and modules are created with them.
OLD_FLUX = """
import torch
import torch.nn as nn
import torch.nn.functional as F

from ...configuration_utils import ConfigMixin
from ...models.attention_processor import Attention, FluxAttnProcessor2_0, FusedFluxAttnProcessor2_0
from ..modeling_utils import ModelMixin


class FluxTransformerBlock(nn.Module):
    def __init__(self, size, heads):
        super().__init__()
        if hasattr(F, "scaled_dot_product_attention"):
            processor = FluxAttnProcessor2_0()
        else:
            raise ValueError("too old")
        self.attn = Attention(query_dim=size, heads=heads, processor=processor)

    def forward(self, states):
        return self.attn(states)


class FluxTransformer2DModel(ModelMixin, ConfigMixin):
    def __init__(self, size, heads):
        super().__init__()
        self.block = FluxTransformerBlock(size, heads)

    def fuse_qkv_projections(self):
        self.set_attn_processor(FusedFluxAttnProcessor2_0())
"""

PROCESSORS = """
import math

import torch.nn.functional as F
from torch import nn

from ..utils import is_torch_npu_available

if is_torch_npu_available():
    import torch_npu


class Attention(nn.Module):
    def __init__(self, query_dim, heads, processor=None):
        super().__init__()
        self.heads, self.inner_dim = heads, query_dim
        self.processor = processor or AttnProcessor2_0()

    def forward(self, states):
        return self.processor(self, states)


class AttnProcessor2_0:
    def __call__(self, attn, states):
        return F.scaled_dot_product_attention(attn.to_q(states), attn.to_k(states), attn.to_v(states))


class FluxAttnProcessor2_0:
    def __call__(self, attn, states, rope=None):
        query = attn.to_q(states).view(1, -1, attn.heads, 8).transpose(1, 2)
        key = attn.to_k(states).view(1, -1, attn.heads, 8).transpose(1, 2)
        value = attn.to_v(states).view(1, -1, attn.heads, 8).transpose(1, 2)
        if rope is not None:
            from .embeddings import apply_rotary_emb

            query, key = apply_rotary_emb(query, rope), apply_rotary_emb(key, rope)
        if query.dtype != states.dtype:
            scale = 1.0 / math.sqrt(query.shape[-1])
            return torch_npu.npu_fusion_attention(query, key, value, attn.heads, input_layout="BNSD", scale=scale)[0]
        return F.scaled_dot_product_attention(query, key, value)


class FusedFluxAttnProcessor2_0:
    def __call__(self, attn, states):
        query, key, value = attn.to_qkv(states).view(1, -1, 3, attn.heads, 8).permute(2, 0, 3, 1, 4)
        return F.scaled_dot_product_attention(query, key, value)


class FluxAttnProcessor2_0_NPU:
    def __new__(cls):
        from .transformers.transformer_new import FluxAttnProcessor

        processor = FluxAttnProcessor()
        processor.backend = "npu"
        return processor
"""

# From 0.35: module class and processor are in the model's file; on an NPU an old name is imported.
NEW_FLUX = """
import torch.nn as nn

from ..attention_dispatch import dispatch_attention_fn


class FluxAttnProcessor:
    def __call__(self, attn, states, rope=None):
        query = attn.to_q(states).unflatten(-1, (attn.heads, -1))
        key = attn.to_k(states).unflatten(-1, (attn.heads, -1))
        value = attn.to_v(states).unflatten(-1, (attn.heads, -1))
        if rope is not None:
            query, key = rotate(query, rope), rotate(key, rope)
        return dispatch_attention_fn(query, key, value, backend=None).type_as(query)


class FluxIPAdapterAttnProcessor:
    def __call__(self, attn, states, images):
        query, key, value = attn.to_q(states), attn.to_k(states), attn.to_v(states)
        for image in images:
            states = states + dispatch_attention_fn(query, image, image)
        return dispatch_attention_fn(query, key, value)


class FluxAttention(nn.Module):
    _default_processor_cls = FluxAttnProcessor
    _available_processors = [FluxAttnProcessor, FluxIPAdapterAttnProcessor]

    def __init__(self, size, heads, processor=None):
        super().__init__()
        self.inner_dim = size
        self.heads = heads
        self.processor = processor or self._default_processor_cls()

    def forward(self, states):
        return self.processor(self, states)


class NewBlock(nn.Module):
    def __init__(self, size, heads):
        super().__init__()
        if is_torch_npu_available():
            from ..attention_processor import FluxAttnProcessor2_0_NPU

            processor = FluxAttnProcessor2_0_NPU()
        else:
            processor = FluxAttnProcessor()
        self.attn = FluxAttention(size, heads, processor=processor)


class NewTransformer2DModel(nn.Module):
    def __init__(self, size, heads):
        super().__init__()
        self.block = NewBlock(size, heads)
"""

# Stable Diffusion 3: the blocks that hold its attention come from another file.
SD3 = """
from torch import nn

from ..attention import JointTransformerBlock
from ..attention_processor import Attention, FluxAttnProcessor2_0


class SD3SingleTransformerBlock(nn.Module):
    def __init__(self, size, heads):
        super().__init__()
        self.attn = Attention(query_dim=size, heads=heads, processor=FluxAttnProcessor2_0())


class SD3Transformer2DModel(nn.Module):
    def __init__(self, size, heads):
        super().__init__()
        self.blocks = nn.ModuleList([JointTransformerBlock(size, heads), SD3SingleTransformerBlock(size, heads)])
"""

BLOCKS = """
from torch import nn

from .attention_processor import Attention, FluxAttnProcessor2_0


class JointTransformerBlock(nn.Module):
    def __init__(self, size, heads):
        super().__init__()
        self.attn = Attention(query_dim=size, heads=heads, processor=FluxAttnProcessor2_0())
"""

# A module made with the default processor stays as it is.
DEFAULT = """
from torch import nn

from ..attention_processor import Attention, FluxAttnProcessor2_0


class DefaultTransformer2DModel(nn.Module):
    def __init__(self, size, heads):
        super().__init__()
        self.attn1 = Attention(query_dim=size, heads=heads, processor=FluxAttnProcessor2_0())
        self.attn2 = Attention(query_dim=size, heads=heads)
"""

# Like Tencent's HunyuanVideo: blocks that compute attention themselves, by one of two functions.
TENCENT = """
import torch
import torch.nn as nn
from einops import rearrange

from .attenion import attention, parallel_attention
from .token_refiner import SingleTokenRefiner


class MMDoubleStreamBlock(nn.Module):
    def __init__(self, hidden_size, heads_num, attn_mode="flash"):
        super().__init__()
        self.heads_num = heads_num
        self.attn_mode = attn_mode
        self.hybrid_seq_parallel_attn = None

    def forward(self, img, txt, lengths):
        img_q, img_k, img_v = rearrange(self.img_qkv(img), "B L (K H D) -> K B L H D", K=3, H=self.heads_num)
        txt_q, txt_k, txt_v = rearrange(self.txt_qkv(txt), "B L (K H D) -> K B L H D", K=3, H=self.heads_num)
        q = torch.cat((img_q, txt_q), dim=1)
        k = torch.cat((img_k, txt_k), dim=1)
        v = torch.cat((img_v, txt_v), dim=1)
        if not self.hybrid_seq_parallel_attn:
            attn = attention(q, k, v, mode=self.attn_mode, cu_seqlens_q=lengths, batch_size=img_k.shape[0])
        else:
            attn = parallel_attention(
                self.hybrid_seq_parallel_attn, q, k, v, img_q_len=img_q.shape[1], cu_seqlens_q=lengths
            )
        return self.out(attn)


class MMSingleStreamBlock(nn.Module):
    def __init__(self, hidden_size, heads_num, attn_mode="flash"):
        super().__init__()
        self.heads_num = heads_num
        self.attn_mode = attn_mode
        self.hybrid_seq_parallel_attn = None

    def forward(self, x, text_length, lengths, rope=None):
        q, k, v = rearrange(self.linear(x), "B L (K H D) -> K B L H D", K=3, H=self.heads_num)
        k = self.k_norm(k).to(v)
        if rope is not None:
            img_q, txt_q = q[:, :-text_length], q[:, -text_length:]
            q = torch.cat((rotate(img_q, rope), txt_q), dim=1)
        if not self.hybrid_seq_parallel_attn:
            attn = attention(q, k, v, mode=self.attn_mode, cu_seqlens_q=lengths, batch_size=x.shape[0])
        else:
            attn = parallel_attention(self.hybrid_seq_parallel_attn, q, k, v, cu_seqlens_q=lengths)
        return self.out(attn)
"""

# Like MindIE's FLUX.1-dev: its own module with a method that selects the kernel, and processors with two paths.
MINDIE = """
import torch
import torch_npu
from mindiesd import attention_forward
from torch import nn

from ..utils import get_world_size
from .embedding import apply_rotary_emb


class Attention(nn.Module):
    def __init__(self, query_dim, heads=8, kv_heads=None, dim_head=64, processor=None):
        super().__init__()
        self.inner_dim = dim_head * heads
        self.inner_kv_dim = self.inner_dim if kv_heads is None else dim_head * kv_heads
        self.heads = heads
        self.set_processor(processor)

    def set_processor(self, processor):
        self.processor = processor

    def forward(self, hidden_states):
        return self.processor(self, hidden_states)

    def apply_fa(self, query, key, value, attention_mask, use_la=False):
        if use_la:
            return attention_forward(query, key, value, op_type="ascend_laser_attention", layout="BNSD")
        return attention_forward(query, key, value, attn_mask=attention_mask, layout="BSND")


class FluxSingleAttnProcessor2_0:
    def forward_native(self, attn, hidden_states, rope=None):
        query = attn.to_q(hidden_states).view(1, -1, attn.heads, 8)
        key = attn.to_k(hidden_states).view(1, -1, attn.heads, 8)
        value = attn.to_v(hidden_states).view(1, -1, attn.heads, 8)
        if rope is not None:
            query = apply_rotary_emb(query, rope, layout="BSND")
            key = apply_rotary_emb(key, rope, layout="BSND")
        return attn.apply_fa(query, key, value, None, use_la=self.use_la)

    def forward_parallel(self, attn, hidden_states, rope=None):
        query = attn.to_q(hidden_states)
        with torch.npu.stream(stream):
            key = attn.to_k(hidden_states)
        query = query.view(1, -1, attn.heads, 8)
        with torch.npu.stream(stream):
            value = attn.to_v(hidden_states)
        key = key.view(1, -1, attn.heads, 8)
        if rope is not None:
            key = apply_rotary_emb(key, rope, layout="BSND")
        value = value.view(1, -1, attn.heads, 8)
        return attn.apply_fa(query, key, value, None, use_la=self.use_la)

    def __call__(self, attn, hidden_states, rope=None):
        if not self.enable_cv_parallel:
            hidden_states = self.forward_native(attn, hidden_states, rope)
        else:
            hidden_states = self.forward_parallel(attn, hidden_states, rope)
        return hidden_states
"""

_FILES = {
    "models/attention.py": BLOCKS,
    "models/attention_processor.py": PROCESSORS,
    "models/transformers/transformer_flux.py": OLD_FLUX,
    "models/transformers/transformer_new.py": NEW_FLUX,
    "models/transformers/transformer_sd3.py": SD3,
    "models/transformers/transformer_default.py": DEFAULT,
}


def library(folder: Path) -> Diffusers:
    """Write the package to a folder."""
    for name, text in _FILES.items():
        path = folder / "diffusers" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text.lstrip("\n"))
    return Diffusers(folder / "diffusers", "0.31.0")


def pipeline(folder: Path, **parts: str) -> Path:
    """Write a pipeline's folder with parts of diffusers: name -> class."""
    folder.mkdir()
    index = {"_class_name": "FluxPipeline", "_diffusers_version": "0.31.0", "safety_checker": [None, None]}
    index["text_encoder"] = ["transformers", "CLIPTextModel"]
    for name, class_name in parts.items():
        index[name] = ["diffusers", class_name]
        (folder / name).mkdir()
        (folder / name / "config.json").write_text(json.dumps({"_class_name": class_name}))
        (folder / name / "diffusion_pytorch_model.safetensors").write_bytes(b"weights")
    (folder / "model_index.json").write_bytes(json.dumps(index, indent=2).replace("\n", "\r\n").encode())
    return folder
