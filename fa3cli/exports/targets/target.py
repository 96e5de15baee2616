"""What a target is: the names an engine looks for, the documents beside the weights, and what it cannot load."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from fa3cli.exports.layout import W8A8
from fa3cli.exports.targets.selection import Selection

__all__ = ["Refusal", "Target", "Written"]


@dataclass(frozen=True)
class Written:
    """What an export holds: tensors of the float model in module order, tied names too, and the modules that differ."""

    names: Sequence[str]
    linears: Sequence[str]
    float_linears: Sequence[str]
    attentions: Sequence[str]
    norms: Sequence[str]
    attention_classes: Collection[str] = ()
    """Names of the classes of the attention modules."""
    mm_tensor: bool = False


@dataclass(frozen=True)
class Refusal:
    """Why an engine cannot load what is asked for, and what to do about it."""

    reason: str
    hint: str


class Target(ABC):
    """The form in which one engine, or several alike, take an export.

    `linear_tensors` and `attention_tensors` are what a quantized linear and an attention module with FA3 are stored as,
    `norm_tensors` what AntiOutlier makes of a norm.
    """

    name: ClassVar[str]
    pipelines: ClassVar[bool] = False
    """Whether it takes transformers of diffusion pipelines, and language models otherwise."""
    weight_file: ClassVar[str]
    sharded: ClassVar[bool] = True
    """Whether its engine reads weights in several files, by an index."""
    description_files: ClassVar[tuple[str, ...]] = ()
    """Names under which a description of every tensor lies beside the weights; none where config.json says it all."""
    linear_value: ClassVar[str] = W8A8
    """What a description says of a quantized linear's tensors."""
    linear_tensors: ClassVar[tuple[str, ...]]
    attention_tensors: ClassVar[tuple[str, ...]]
    norm_tensors: ClassVar[tuple[str, ...]] = ("weight", "bias")
    save_types: ClassVar[tuple[str, ...]] = ("safe_tensor",)
    metadata: ClassVar[Mapping[str, str]] = {}
    """Of the safetensors files."""

    @property
    def index_file(self) -> str:
        """Where a sharded export says in which file a tensor lies."""
        return f"{self.weight_file}.index.json"

    def linear(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return what is stored of a quantized linear, from its tensors as `quantize_linear` names them."""
        return dict(tensors)

    def attention(self, tensors: Mapping[str, Tensor], head_dim: int) -> dict[str, Tensor]:
        """Return what is stored of an attention module, from `fa_{q,k,v}.scale` and `.offset` `[H, 1]`."""
        return dict(tensors)

    def norm(self, weight: Tensor, bias: Tensor | None) -> dict[str, Tensor]:
        """Return what is stored of a norm that AntiOutlier changed; `bias` is its own, if it has one."""
        return {"weight": weight} | ({} if bias is None else {"bias": bias})

    def exported_names(
        self, names: Sequence[str], linears: Sequence[str], attentions: Sequence[str], norms: Sequence[str]
    ) -> list[str]:
        """Return the names of every tensor that an export of these modules can hold."""
        return [
            *names,
            *(f"{module}.{leaf}" for module in linears for leaf in self.linear_tensors),
            *(f"{module}.{leaf}" for module in attentions for leaf in self.attention_tensors),
            *(f"{module}.{leaf}" for module in norms for leaf in self.norm_tensors),
        ]

    @abstractmethod
    def config(self, config: Mapping[str, Any], written: Written) -> dict[str, Any]:
        """Return config.json for this engine, from the float model's without anything of the patch in it."""

    def documents(self, written: Written) -> dict[str, dict[str, Any]]:
        """Return the other json files of an export by name."""
        return {}

    def refused(self, selection: Selection) -> Iterator[Refusal]:
        """Yield why this engine cannot load what a run is about to make."""
        yield from ()

    def warnings(self, selection: Selection) -> Iterator[str]:
        """Yield what some of the engines that read this form stumble over."""
        yield from ()
