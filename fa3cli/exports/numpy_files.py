"""Writes save type numpy: the parameters as pickled dicts in the .npy files that the guide lists."""

from __future__ import annotations

import io
import pickle
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fa3cli.exports.layout import DESCRIPTION_FILE, FA_QUANT, LINEAR_TENSORS
from fa3cli.files.documents import read_json
from fa3cli.files.reading import LARGE
from fa3cli.files.tensors import open_tensors

__all__ = ["write_numpy"]


def write_numpy(folder: Path, weight_files: list[Path]) -> None:
    """Write the .npy files of an export whose description and safetensors files are in `folder`.

    Keys are module names, values torch tensors. quant_weight holds float weights too, and other float tensors under
    their full names; anti_fp_norm holds the norms with tensors of AntiOutlier. Read with
    `np.load(file, allow_pickle=True).item()`. Memory must hold the dict of a whole file: the format is one pickle.
    """
    description = read_json(folder / DESCRIPTION_FILE, LARGE)
    keys_by_file: dict[str, dict[str, str]] = defaultdict(dict)
    for name, kind in description.items():
        if "." in name:
            file, key = _file_and_key(name, kind, description)
            keys_by_file[file][name] = key
    for file, keys in keys_by_file.items():
        values: dict[str, Tensor] = {}
        for weights in weight_files:
            with open_tensors(weights) as shard:
                held = keys.keys() & shard.keys()
                # Copied: the values outlive the mapped file.
                values.update({keys[name]: shard.get_tensor(name).clone() for name in held})
        # Module order, as in the guide's files; a tied tensor is described but not stored.
        in_order = {key: values[key] for key in keys.values() if key in values}
        _save(folder / f"{file}.npy", np.array(in_order, dtype=object))


def _file_and_key(name: str, kind: str, description: Mapping[str, str]) -> tuple[str, str]:
    """Return the name of the .npy file and the key of a tensor in the description."""
    module, _, leaf = name.rpartition(".")
    if kind == FA_QUANT:
        return f"fa_quant_{leaf}", name
    if leaf in LINEAR_TENSORS.get(kind, ())[1:]:
        return leaf, module
    if f"{module}.module.weight" in description:
        return "anti_fp_norm", name
    return "quant_weight", module if leaf == "weight" else name


def _save(file: Path, array: np.ndarray) -> None:
    """Write an array as np.save does, but reproducibly: torch's own pickle of a tensor contains its address."""
    with file.open("wb") as stream:
        np.lib.format.write_array_header_1_0(stream, np.lib.format.header_data_from_array_1_0(array))
        _TensorPickler(stream, protocol=4).dump(array)


class _TensorPickler(pickle.Pickler):
    """Pickles a tensor as the bytes of torch.save, which torch unpickles without fa3."""

    def reducer_override(self, value: Any) -> Any:
        if not isinstance(value, Tensor):
            return NotImplemented
        stored = io.BytesIO()
        torch.save(value, stored)
        return torch.storage._load_from_bytes, (stored.getvalue(),)
