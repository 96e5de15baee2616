"""Wraps a model on the meta device, and loads and frees its weights one decoder layer at a time."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from fa3cli.errors import InvalidInputError
from fa3cli.files.tensors import FLOATS, stored_dtype
from fa3cli.models.checkpoint import is_finite
from fa3cli.models.layered_model import LayeredModel
from fa3cli.models.published.converted_checkpoint import ConvertedCheckpoint
from fa3cli.models.published.names import PublishedNames
from fa3cli.models.published.weights import Weights

__all__ = ["StreamedModel"]

# Old transformers versions wrote these buffers, all versions compute them: they are not unexpected keys.
_COMPUTED = (r"rotary_emb\.inv_freq",)


class StreamedModel(LayeredModel):
    """A causal LM on the meta device and the checkpoint its layers are loaded from.

    Raises InvalidInputError if the checkpoint's names, shapes or kinds of dtypes are not the model's.
    """

    def __init__(
        self,
        model: nn.Module,
        checkpoint: Weights,
        dtype: torch.dtype,
        device: torch.device,
        layers: Mapping[str, nn.Module] | None = None,
        published: PublishedNames | None = None,
    ) -> None:
        super().__init__(model, dtype, device, layers, published)
        _move_buffers(model, device)
        self._expected = {self.published.tensor(path): tensor for path, tensor in model.state_dict().items()}
        conversions = self.published.conversions
        # Without files, for a plan, the weights are those of the model itself, and nothing is converted.
        self.checkpoint: Weights = (
            ConvertedCheckpoint(checkpoint, conversions, self._expected)
            if conversions and checkpoint.files
            else checkpoint
        )
        self._dtypes = {name: tensor.dtype for name, tensor in self._expected.items()}
        self._check_names()
        self._sort_names([name for name in self.names if name in self.checkpoint.tensors])
        # Also buffers, such as biases of routers: a resumed run would write their first values over the stored ones.
        self._assign({name: self.tensor(name).to("meta") for name in self.stored if not self.tensor(name).is_meta})
        self._find_copies()

    @property
    def has_weights(self) -> bool:
        """Whether the folder has files of weights; without them only a plan is possible."""
        return bool(self.checkpoint.files)

    @contextmanager
    def loaded(self, names: list[str], device: torch.device | None = None) -> Iterator[None]:
        """Hold these tensors in the model within the block, on its device or another.

        They have the dtype of the built model. On the CPU, tensors stored in that dtype share memory with the
        mapped file, and only the pages that are used are read.
        """
        read = self.checkpoint.read(names)
        # pop releases each stored tensor as soon as it is cast or moved.
        tensors = {name: self._cast(name, read.pop(name), device or self.device) for name in names}
        try:
            self._assign(tensors)
            # Only the model holds them now: a weight that smoothing replaces is freed at once.
            del tensors
            yield
        finally:
            # Freed after an error, too: weights that stay would add to the memory of all later layers.
            self._assign({name: self.tensor(name).to("meta") for name in names})

    def reload(self, names: list[str]) -> None:
        """Restore the stored values of loaded tensors, one after the other."""
        for name in names:
            self._assign({name: self._cast(name, self.checkpoint.read([name])[name], self.device)})

    def read_ahead(self, names: list[str]) -> None:
        """Start reading the tensors that will be loaded next into the system's page cache."""
        self.checkpoint.read_ahead(names)

    def require_tied_alike(self) -> None:
        """Raise InvalidInputError if the checkpoint holds different values for tensors that config.json ties."""
        for alias, name in self.tied.items():
            if alias in self.checkpoint.tensors:
                both = self.checkpoint.read([alias, name])
                if not torch.equal(both[alias], both[name]):
                    raise InvalidInputError(
                        f"{self.checkpoint.path(alias)}: {alias} differs from {name}, to which config.json ties it",
                        hint='transformers versions differ in which tensor they use: correct "tie_word_embeddings"',
                    )

    def shape(self, name: str) -> tuple[int, ...]:
        """Return the shape of a stored tensor, from its header."""
        return self.checkpoint.tensors[name].shape

    def stored_bytes(self, *names: str) -> int:
        """Return the bytes of tensors in their files."""
        return sum(self.checkpoint.tensors[name].nbytes for name in names)

    def cast_names(self) -> list[str]:
        """Return the float tensors whose stored dtype differs from the model's."""
        return [
            name
            for name in self.stored
            if self._dtypes[name].is_floating_point
            and self.checkpoint.tensors[name].dtype != stored_dtype(self._dtypes[name])
        ]

    def _cast(self, name: str, tensor: Tensor, device: torch.device) -> Tensor:
        wanted = self._dtypes[name]
        cast = tensor.to(device=device, dtype=wanted)
        # Only after a cast: `read` has checked the stored values, but they may overflow in a narrower dtype.
        if tensor.dtype != wanted and not is_finite(cast):
            raise InvalidInputError(
                f"{self.checkpoint.path(name)}: {name} does not fit {str(wanted).removeprefix('torch.')}, "
                f"its largest values are {tensor.aminmax().min:.3g} and {tensor.aminmax().max:.3g}",
                hint="choose a wider --dtype",
            )
        return cast

    def _assign(self, tensors: dict[str, Tensor]) -> None:
        # The alias is an attribute of another module, which would otherwise stay on the meta device.
        tied = {alias: tensors[name] for alias, name in self.tied.items() if name in tensors}
        for name, tensor in {**tensors, **tied}.items():
            # assign=True uses the tensor itself: without a copy, and a meta parameter cannot receive a copy.
            module, _, leaf = self._paths[name].rpartition(".")
            self.model.get_submodule(module).load_state_dict({leaf: tensor}, strict=False, assign=True)

    def _check_names(self) -> None:
        expected, held = self._expected, self.checkpoint.tensors
        # Of tied tensors, a checkpoint may hold only the first.
        missing = [name for name in expected if name not in held and self.tied.get(name) not in held]
        if missing:
            raise InvalidInputError(
                f"{self.checkpoint.folder}: the checkpoint lacks {missing[0]} ({len(missing)} such tensors)",
                hint="config.json and the safetensors files must be of the same model",
            )
        for name in expected.keys() & held.keys():
            if tuple(expected[name].shape) != held[name].shape:
                raise InvalidInputError(
                    f"{self.checkpoint.path(name)}: {name} has shape {list(held[name].shape)}, "
                    f"but config.json asks for {list(expected[name].shape)}"
                )
            if (held[name].dtype in FLOATS) != expected[name].is_floating_point():
                raise InvalidInputError(
                    f"{self.checkpoint.path(name)}: {name} has dtype {held[name].dtype}, but the model "
                    f"computes with {str(expected[name].dtype).removeprefix('torch.')}",
                    hint="fa3 quantizes float checkpoints, and this one is quantized already",
                )

    def _find_copies(self) -> None:
        """Find the stored tensors that the model has no tensor for; exports copy them."""
        conversions = self.published.conversions
        converted = {source for conversion in conversions for source in conversion.sources}
        self.copied_for = self.published.copied_for
        self.unknown = [
            name
            for name in self.checkpoint.tensors
            if name not in self._expected and name not in converted and not any(re.search(p, name) for p in _COMPUTED)
        ]

    def published_tensor(self, name: str) -> Tensor:
        """Return a published tensor as it is stored."""
        return self.checkpoint.read([name])[name]


def _move_buffers(model: nn.Module, device: torch.device) -> None:
    """Move a model's computed buffers to the device: not all forwards move the buffers that they use."""
    # Not Module.to: it would also move the parameters, which have no values yet.
    for module in model.modules():
        for name, buffer in module._buffers.items():
            if buffer is not None and not buffer.is_meta:
                module._buffers[name] = buffer.to(device)
