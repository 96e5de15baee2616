"""Forwards of samples too large to wait in memory: between two layers their states lie on the disk.

A layer's turn begins each sample's forward anew. What the model computes before its layers is computed again, the
layers before this one are skipped, and the last of them returns what it returned: so the model's own code runs here too,
whatever it does between two layers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fa3cli.calibration.layer_synchronous import LayerSynchronousForwards
from fa3cli.calibration.layered_model import LayeredModel
from fa3cli.calibration.moving import each_tensor
from fa3cli.calibration.samples import AnySample
from fa3cli.calibration.tree_file import read_tree, write_tree
from fa3cli.errors import UnsupportedError

__all__ = ["ReplayedForwards"]


class ReplayedForwards:
    """The forwards of `samples`, by a name for each; `folder` gets a file for each and a layer.

    The states are there of two layers at a time. Raises UnsupportedError where a layer returns what no file can hold.
    """

    outputs: Sequence[Any] = ()
    arguments: Any = None

    def __init__(self, model: LayeredModel, samples: Mapping[str, AnySample], folder: Path) -> None:
        self._model, self._samples, self._folder = model, list(samples.items()), folder
        self._layers = list(model.layers.values())

    def advance(self, sample: int, index: int) -> None:
        """Take a sample through layer `index`, whose weights are loaded, as are those outside the layers."""
        self._file(sample, index - 2).unlink(missing_ok=True)
        kept = read_tree(self._file(sample, index - 1)) if index else {"forms": [], "output": None}
        # Copied out of the file, to lie as a layer's own would: kernels may go by that.
        output = each_tensor(lambda tensor: tensor.to(self._model.device, copy=True), kept["output"])
        inputs = self._samples[sample][1].inputs(self._model.device)
        earlier = [each_tensor(self._as_nan, form) for form in kept["forms"]]
        with LayerSynchronousForwards(
            self._model.model, self._layers, [inputs], skipped=index, outputs=[output], earlier=earlier
        ) as forward:
            del output
            forward.start()
            forward.advance(0, index)
            if index < len(self._layers) - 1:
                self._keep(sample, index, kept["forms"], forward.outputs[0])

    def stop(self, sample: int) -> None:
        """Do nothing: a forward that has passed the layer at hand is over."""

    def _keep(self, sample: int, index: int, forms: list[Any], output: Any) -> None:
        file = self._file(sample, index)
        try:
            write_tree(file, {"forms": [*forms, each_tensor(_form, output)], "output": output})
        except TypeError as error:
            raise UnsupportedError(
                f"{type(self._layers[index]).__name__} returns what its states' file can't hold ({error})"
            ) from error

    def _file(self, sample: int, index: int) -> Path:
        return self._folder / f"{index:05d}.{self._samples[sample][0]}.safetensors"

    def _as_nan(self, form: Tensor) -> Tensor:
        """Return as much NaN as an output of that form has values, in the memory of one."""
        value = torch.nan if form.is_floating_point() else 0
        return torch.full((), value, dtype=form.dtype, device=self._model.device).expand(form.shape[1:])


def _form(tensor: Tensor) -> Tensor:
    """Return a tensor's dtype and shape, as a tensor without values."""
    return torch.empty((0, *tensor.shape), dtype=tensor.dtype)
