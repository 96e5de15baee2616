"""Describes a model as a list of decoder layers; its weights may be in memory or in files."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from math import prod
from typing import Any

import torch
from torch import Tensor, nn

from fa3cli.errors import UnsupportedError
from fa3cli.fa_quantizer import FAQuantizer
from fa3cli.models.published.names import PublishedNames

__all__ = ["LayeredModel"]


class LayeredModel(ABC):
    """A model, its decoder layers by name, and the names of its tensors.

    By default, `layers` are the members of the largest ModuleList; for a diffusion transformer they are its blocks.

    All names are those that the checkpoint publishes. `names` are the tensors of the state dict, in module order;
    `stored` omits names tied to an earlier name (`tied`) unless a checkpoint holds them. `of_layer` are the stored
    tensors of each layer and of the `head`, the linear after the layers; `outside` are the stored tensors outside the
    layers, and `before_layers` those among them that the forwards need before the first layer.
    """

    resident = False
    """Whether the weights stay in the model between visits."""
    unknown: Sequence[str] = ()
    """Published tensors that are not of the model, such as layers that predict further tokens."""
    copied_for: Mapping[str, Sequence[str]] = {}
    """The published tensors that exports copy in place of a tensor of the model with another layout."""

    def __init__(
        self,
        model: nn.Module,
        dtype: torch.dtype,
        device: torch.device,
        layers: Mapping[str, nn.Module] | None = None,
        published: PublishedNames | None = None,
    ) -> None:
        self.model, self.dtype, self.device = model, dtype, device
        self.published = published or PublishedNames()
        self.config: Any = model.config
        module, tensor = self.published.module, self.published.tensor
        self._paths = {tensor(path): path for path in model.state_dict()}
        # Reversed: of several modules with one published name, the outermost has it.
        self._module_paths = {module(path): path for path, _ in reversed(list(model.named_modules()))}
        found = _decoder_layers(model) if layers is None else layers
        self.layers = {module(path): layer for path, layer in found.items()}
        self.tied = {tensor(alias): tensor(first) for alias, first in _tied_names(model).items()}
        self.names = list(self._paths)
        head = getattr(model, "get_output_embeddings", None)
        head_path = _path_of(model, head()) if head else None
        self.head = None if head_path is None else module(head_path)

    def _sort_names(self, stored: Sequence[str]) -> None:
        """Assign the stored tensors to the layers, the head and the rest."""
        self.stored = list(stored)
        heads = [self.head] if self.head else []
        self.of_layer = {
            # With the dot: model.layers.1 is also the beginning of model.layers.10.
            part: [name for name in stored if self._paths[name].startswith(f"{self._module_paths[part]}.")]
            for part in [*self.layers, *heads]
        }
        in_layers = {name for layer in self.layers for name in self.of_layer[layer]}
        self.outside = [name for name in stored if name not in in_layers]
        of_head = set(self.of_layer[self.head]) if self.head else set()
        # The head is outside the layers too, but its weights are needed only after the last layer.
        self.before_layers = [name for name in self.outside if name not in of_head]

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        """Set the model to evaluation mode within the block: a script may have left it in training mode."""
        modes = [(module, module.training) for module in self.model.modules()]
        self.model.eval()
        try:
            yield
        finally:
            for module, training in modes:
                module.training = training

    @abstractmethod
    def loaded(self, names: list[str], device: torch.device | None = None) -> AbstractContextManager[None]:
        """Hold these tensors in the model within the block, on its device or another."""

    def reload(self, names: list[str]) -> None:
        """Restore the stored values of loaded tensors, if the model is stored in files."""

    def read_ahead(self, names: list[str]) -> None:
        """Announce that these tensors will be loaded next."""

    def require_tied_alike(self) -> None:
        """Raise InvalidInputError if the model has files with different values for tensors that config.json ties."""

    def published_tensor(self, name: str) -> Tensor:
        """Return a published tensor as it is stored."""
        raise NotImplementedError

    @property
    def exported_names(self) -> list[str]:
        """The published names of all tensors, in module order, and of the unknown ones."""
        known = [source for name in self.names for source in self.copied_for.get(name, (name,))]
        return [*known, *self.unknown]

    def cast_names(self) -> list[str]:
        """Return the float tensors whose dtype in files differs from the model's."""
        return []

    @abstractmethod
    def shape(self, name: str) -> tuple[int, ...]:
        """Return the shape of a stored tensor, loaded or not."""

    def nbytes(self, *names: str) -> int:
        """Return the bytes of stored tensors in the dtype of the run."""
        return sum(prod(self.shape(name)) for name in names) * self.dtype.itemsize

    def stored_bytes(self, *names: str) -> int:
        """Return the bytes of tensors in their files."""
        return self.nbytes(*names)

    @property
    def layer_bytes(self) -> int:
        """Bytes of the largest decoder layer."""
        return max(self.nbytes(*self.of_layer[layer]) for layer in self.layers)

    def needed(self, part: str) -> list[str]:
        """Return the tensors that the forwards need in a layer, or from the last layer through the head."""
        return self.outside if part == self.head else self.of_layer[part]

    @property
    def tied_modules(self) -> frozenset[str]:
        """Names of the modules that share a tensor with an earlier module."""
        return frozenset(name.rpartition(".")[0] for name in self.tied)

    def tensor(self, name: str) -> Tensor:
        """Return a tensor that is loaded."""
        module, _, leaf = self._paths[name].rpartition(".")
        found: Tensor = getattr(self.model.get_submodule(module), leaf)
        return found

    def module(self, name: str) -> nn.Module:
        """Return a module by its published name."""
        return self.model.get_submodule(self._module_paths[name])

    def modules(self) -> Iterator[tuple[str, nn.Module]]:
        """Yield all modules by name, in module order."""
        yield from self._modules("")

    def inside(self, layer: str) -> dict[str, str]:
        """Return the published name of each module of a layer by its name in the layer's class."""
        path = self._module_paths[layer]
        return {name: self.published.module(f"{path}.{name}") for name, _ in self.layers[layer].named_modules() if name}

    def bias(self, module: str) -> Tensor | None:
        """Return the bias of a loaded linear or norm, None if it has none."""
        found: Tensor | None = getattr(self.module(module), "bias", None)
        return None if found is None else found.detach()

    def attentions(self, part: str = "") -> dict[str, nn.Module]:
        """Return the patched attention modules, of one layer or all, by name."""
        return {
            name: module
            for name, module in self._modules(part)
            if isinstance(getattr(module, "fa_quantizer", None), FAQuantizer)
        }

    def linears(self, part: str = "") -> dict[str, nn.Linear]:
        """Return the linears, of one layer, of the head or all, by module name in module order.

        Subclasses of torch's linear may compute something else. A weight that is published under another name than its
        module, or as a part of another tensor, has no place for scales. Such modules are left out.
        """
        return {
            name: module
            for name, module in self._modules(part)
            if type(module) is nn.Linear and f"{name}.weight" in self._paths and f"{name}.weight" not in self.copied_for
        }

    def matrices(self, part: str = "") -> list[str]:
        """Return the modules whose weight has two dimensions, without embeddings: linears, and routers of transformers 5."""
        return [
            name
            for name, module in self._modules(part)
            if isinstance(weight := module._parameters.get("weight"), Tensor)
            and weight.dim() == 2
            and not isinstance(module, nn.Embedding)
            and f"{name}.weight" in self._paths
        ]

    def _modules(self, part: str) -> Iterator[tuple[str, nn.Module]]:
        path = self._module_paths[part]
        for inner, module in self.model.get_submodule(path).named_modules(prefix=path):
            yield self.published.module(inner), module


def _decoder_layers(model: nn.Module) -> dict[str, nn.Module]:
    """Return the decoder layers by name: the members of the largest ModuleList.

    Buffers count as well: simulated linears hold nothing else.
    """

    def size(item: tuple[str, nn.Module]) -> int:
        return sum(tensor.numel() for tensor in item[1].state_dict().values())

    lists = [(name, module) for name, module in model.named_modules() if isinstance(module, nn.ModuleList)]
    if not lists:
        raise UnsupportedError(f"{type(model).__name__}: no list of decoder layers found")
    # The list of one layer's experts is smaller than the list of all layers that it is in.
    name, layers = max(lists, key=size)
    if not isinstance(layers, nn.ModuleList) or not len(layers):
        config: Any = model.config
        raise UnsupportedError(f"{config.name_or_path}: {type(model).__name__} has no decoder layers")
    return {f"{name}.{index}": layer for index, layer in enumerate(layers)}


def _path_of(model: nn.Module, wanted: nn.Module | None) -> str | None:
    return next((name for name, module in model.named_modules() if module is wanted), None)


def _tied_names(model: nn.Module) -> dict[str, str]:
    """Return the names that share a parameter with an earlier name: alias -> first name."""
    first: dict[int, str] = {}
    tied = {}
    # remove_duplicate=False: otherwise torch omits the names that share a parameter.
    for name, parameter in model.named_parameters(remove_duplicate=False):
        if first.setdefault(id(parameter), name) != name:
            tied[name] = first[id(parameter)]
    return tied
