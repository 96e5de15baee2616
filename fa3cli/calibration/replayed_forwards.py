"""Replays the forwards of samples that are too large for the memory; states wait on the disk between two layers.

Each layer starts each sample's forward again. The model's code before its layers runs again, the layers before this one
are skipped, and the last of them returns its stored output. So the model's own code runs here, too, including code
between two layers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fa3cli.calibration.layer_synchronous import LayerSynchronousForwards
from fa3cli.errors import UnsupportedError
from fa3cli.models.layered_model import LayeredModel
from fa3cli.models.tensor_tree import map_tensors
from fa3cli.models.tree_file import read_tree, write_tree
from fa3cli.samples.sample import AnySample

__all__ = ["ReplayedForwards"]


class ReplayedForwards:
    """The forwards of `samples`, by name; `folder` gets one file per sample and layer.

    States of at most two layers exist at a time. Raises UnsupportedError if a layer's output cannot be written to a file.
    """

    outputs: Sequence[Any] = ()
    arguments: Any = None

    def __init__(self, model: LayeredModel, samples: Mapping[str, AnySample], folder: Path) -> None:
        self._model, self._samples, self._folder = model, list(samples.items()), folder
        self._layers = list(model.layers.values())

    def advance(self, sample: int, index: int) -> None:
        """Run a sample through layer `index`; its weights and those outside the layers are loaded."""
        # A run that stops in this layer needs the states of index - 1 again: only those of index - 2 can be removed.
        self._file(sample, index - 2).unlink(missing_ok=True)
        kept = read_tree(self._file(sample, index - 1)) if index else {"forms": [], "output": None}
        # Copied: kernels may depend on alignment and strides, which differ in the mapped file.
        output = map_tensors(lambda tensor: tensor.to(self._model.device, copy=True), kept["output"])
        inputs = self._samples[sample][1].inputs(self._model.device)
        earlier = [map_tensors(self._as_nan, form) for form in kept["forms"]]
        with LayerSynchronousForwards(
            self._model.model, self._layers, [inputs], skipped=index, outputs=[output], earlier=earlier
        ) as forward:
            # Only the forward holds the state now, and drops it when the layer returns.
            del output
            forward.start()
            forward.advance(0, index)
            if index < len(self._layers) - 1:
                self._keep(sample, index, kept["forms"], forward.outputs[0])

    def stop(self, sample: int) -> None:
        """Do nothing: a forward ends after each layer."""

    def _keep(self, sample: int, index: int, forms: list[Any], output: Any) -> None:
        file = self._file(sample, index)
        try:
            write_tree(file, {"forms": [*forms, map_tensors(_empty_like_shape, output)], "output": output})
        except TypeError as error:
            raise UnsupportedError(
                f"{type(self._layers[index]).__name__} returns values that cannot be written to a file ({error})"
            ) from error

    def _file(self, sample: int, index: int) -> Path:
        return self._folder / f"{index:05d}.{self._samples[sample][0]}.safetensors"

    def _as_nan(self, form: Tensor) -> Tensor:
        """Return NaN in the shape of an output, in the memory of one value."""
        value = torch.nan if form.is_floating_point() else 0
        return torch.full((), value, dtype=form.dtype, device=self._model.device).expand(form.shape[1:])


def _empty_like_shape(tensor: Tensor) -> Tensor:
    """Return a tensor without values that stores another tensor's dtype and shape: `[...] -> [0, ...]`."""
    return torch.empty((0, *tensor.shape), dtype=tensor.dtype)
