"""Defines targets: the tensor names and documents of an export for an engine."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from torch import Tensor

from fa3cli.exports.layout import FP8, LINEAR_TENSORS, LINEAR_VALUES, W8A8, W8A8_DYNAMIC, AttentionForm
from fa3cli.exports.targets.serving import Served

__all__ = ["Target", "Written"]


@dataclass(frozen=True)
class Written:
    """The contents of an export: the float model's tensors in module order, with tied names; the changed modules."""

    names: Sequence[str]
    linears: Mapping[str, str]
    """The value of each quantized linear."""
    float_linears: Sequence[str]
    """The linears, and other modules with a matrix, that stay float."""
    attentions: Sequence[str]
    norms: Sequence[str]
    attention_classes: Collection[str] = ()
    """Names of the classes of the attention modules."""
    mm_tensor: bool = False


class Target(ABC):
    """The form of an export for one engine, or for several with the same form.

    `linear_tensors` are all tensors that a quantized linear can have. `attention_tensors` are the tensors that FA3 adds to
    an attention module. `norm_tensors` are the tensors of a norm that AntiOutlier changed.
    """

    name: ClassVar[str]
    value = W8A8
    """The value of the whole model in the description."""
    pipelines: ClassVar[bool] = False
    """Whether the target is for transformers of diffusion pipelines instead of language models."""
    sharded: ClassVar[bool] = True
    """Whether the engine reads several weight files through an index."""
    linear_tensors: ClassVar[tuple[str, ...]]
    attention_tensors: ClassVar[tuple[str, ...]]
    attention_value = FP8
    """The value of `attention_tensors` in the description."""
    attention_settings: ClassVar[Mapping[str, str]] = {}
    """Entries of the description for the whole model, if it has FA3 parameters."""
    other_forms: ClassVar[tuple[AttentionForm, ...]] = ()
    """Forms of attention modules that fa3 does not write, but that the engine reads."""
    optional_tensors: ClassVar[Mapping[str, tuple[str, ...]]] = {}
    """Tensors of a quantized linear that the engine does not need: value -> tensors."""
    norm_tensors: ClassVar[tuple[str, ...]] = ("weight", "bias")
    in_model_dtype = False
    """Whether the tool computed weights and quant_bias in the model's dtype, instead of float32."""
    multiplies_inputs: ClassVar[bool] = False
    """Whether the engine multiplies inputs with the rounded reciprocal of input_scale, instead of dividing by it."""
    save_types: ClassVar[tuple[str, ...]] = ("safe_tensor",)
    metadata: ClassVar[Mapping[str, str]] = {}
    """Metadata in the headers of the safetensors files."""

    @property
    def values(self) -> tuple[str, ...]:
        """The values that quantized linears may have."""
        return LINEAR_VALUES

    @property
    def forms(self) -> tuple[AttentionForm, ...]:
        """The forms in which an export may store attention modules: first the one that fa3 writes."""
        return (
            AttentionForm(self.attention_tensors, self.attention_value, self.attention_settings),
            *self.other_forms,
        )

    @property
    @abstractmethod
    def weight_file(self) -> str:
        """Name of the weight file if there is only one."""

    @property
    def description_files(self) -> tuple[str, ...]:
        """Names of the file that describes all tensors; empty if config.json describes the quantization."""
        return ()

    def storing(self, value: str) -> Target:
        """Return this target for models of this value, which some engines expect in the names of files."""
        return self

    def stored_in(self, folder: Path) -> Target:
        """Return this target as the names of an export's files say."""
        return self

    @property
    def options(self) -> Mapping[str, str]:
        """The options of this target, on which an export's bytes depend."""
        return {}

    @property
    def stores_attention(self) -> bool:
        """Whether exports hold scales of q, k or v."""
        return True

    def served_dtype(self, dtype: str) -> str:
        """Return the dtype in which the engine computes a model whose config.json names `dtype`."""
        return dtype

    def tensors_of(self, value: str) -> tuple[str, ...]:
        """Return the stored tensors of a quantized linear of this value."""
        return LINEAR_TENSORS[value]

    @property
    def index_file(self) -> str:
        """Name of the index of a sharded export, tensor -> file."""
        return f"{self.weight_file}.index.json"

    def linear(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the stored tensors of a quantized linear, from those that `quantize_linear` returns."""
        return dict(tensors)

    def attention(
        self, tensors: Mapping[str, Tensor], head_dim: int, channels: Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        """Return the stored tensors of an attention module, from `fa_{q,k,v}.scale` and `.offset`, `[H, 1]`.

        `channels` are the largest |k| and |v| per channel, `[H, D]`; empty if they were not observed.
        """
        return dict(tensors)

    def norm(self, weight: Tensor, bias: Tensor | None) -> dict[str, Tensor]:
        """Return the stored tensors of a norm that AntiOutlier changed; `bias` is the norm's bias, if any."""
        return {"weight": weight} | ({} if bias is None else {"bias": bias})

    def exported_names(
        self,
        names: Iterable[str],
        linears: Iterable[str],
        attentions: Iterable[str],
        norms: Iterable[str],
        dynamic: Collection[str] = (),
    ) -> list[str]:
        """Return the names of all tensors that an export of these modules can hold; `dynamic` are some of the linears."""
        # Experts are too many to list tensors that they never have: safetensors refuses headers of more than 100 MB.
        leaves = {True: self.tensors_of(W8A8_DYNAMIC), False: self.linear_tensors}
        return [
            *names,
            *(f"{module}.{leaf}" for module in linears for leaf in leaves[module in dynamic]),
            *(f"{module}.{leaf}" for module in attentions if self.stores_attention for leaf in self.attention_tensors),
            *(f"{module}.{leaf}" for module in norms for leaf in self.norm_tensors),
        ]

    @abstractmethod
    def serve(self, export: Served) -> str | None:
        """Return the command that serves an export of this target; None if no engine reads it."""

    @abstractmethod
    def config(self, config: Mapping[str, Any], written: Written) -> dict[str, Any]:
        """Return config.json for this engine, from the result of `exported_config`."""

    def documents(self, written: Written) -> dict[str, dict[str, Any]]:
        """Return the other json files of an export, name -> content."""
        return {}
