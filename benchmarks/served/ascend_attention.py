"""vLLM-Ascend's attention backend for vLLM's own model runner, which doesn't choose an attention state.

Import it after `ascend_platform.install`.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from torch import Tensor
from vllm_ascend.attention.attention_v1 import (
    AscendAttentionBackend,
    AscendAttentionMetadataBuilder,
    AscendAttentionState,
)
from vllm_ascend.attention.utils import AscendCommonAttentionMetadata

KNOWN = {field.name for field in dataclasses.fields(AscendCommonAttentionMetadata) if field.init}


def state(new: Tensor, whole: Tensor, chunked: bool) -> AscendAttentionState:
    """Return what NPUModelRunner chooses for requests with this many new tokens and tokens in all."""
    if (new == whole).all():
        return AscendAttentionState.PrefillNoCache
    if (new == 1).all():
        return AscendAttentionState.DecodeOnly
    return AscendAttentionState.ChunkedPrefill if chunked else AscendAttentionState.PrefillCacheHit


class Builder(AscendAttentionMetadataBuilder):
    """Builds the metadata from what vLLM's model runner gives."""

    def build(self, common_prefix_len: int, common_attn_metadata: Any, fast_build: bool = False) -> Any:
        given = {name: value for name, value in vars(common_attn_metadata).items() if name in KNOWN}
        requests = common_attn_metadata.num_reqs
        lengths = common_attn_metadata.seq_lens[:requests]
        new = common_attn_metadata.query_start_loc_cpu.diff()[:requests]
        given |= {"seq_lens_cpu": lengths, "attn_state": state(new, lengths, self.chunked_prefill_enabled)}
        metadata = AscendCommonAttentionMetadata(**given)
        metadata._seq_lens_cpu = None  # a field of vLLM 0.26: it is asked for before seq_lens_cpu
        return super().build(common_prefix_len, metadata, fast_build)


class Backend(AscendAttentionBackend):
    """The backend with this builder."""

    @staticmethod
    def get_builder_cls() -> type[Builder]:
        return Builder

    @staticmethod
    def get_supported_kernel_block_sizes(*_: Any) -> list[int]:
        return AscendAttentionBackend.get_supported_kernel_block_sizes()
