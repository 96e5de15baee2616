"""Defines the commands that serve an export; targets choose one, runs, reports and docs show it."""

from __future__ import annotations

import shlex
from collections.abc import Collection
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from fa3cli.exports.geometry import read_geometry
from fa3cli.exports.json_documents import read_document
from fa3cli.exports.layout import DESCRIPTION_FILE
from fa3cli.files.reading import LARGE

__all__ = ["Served", "mindie_llm", "mindie_sd", "vllm", "vllm_ascend"]

_HALF = ("bfloat16", "float16")


@dataclass(frozen=True)
class Served:
    """An export to serve from `folder`. Its files are in `files`, from where a run will move them to `folder`."""

    folder: Path
    """An absolute path: some commands change the folder."""
    files: Path
    attentions: Collection[bool | None] = ()
    """For each layer, whether its attention has FA3 parameters; None if the layer has no attention that could."""

    @property
    def with_fa(self) -> bool:
        """Whether any layer has FA3 parameters."""
        return True in self.attentions

    @property
    def partly_fa(self) -> bool:
        """Whether some layers have FA3 parameters and others do not."""
        return self.with_fa and False in self.attentions

    @cached_property
    def dtype(self) -> str | None:
        """The dtype in config.json."""
        return read_geometry(read_document(self.files, "config.json").data or {}).dtype

    @cached_property
    def remote_code(self) -> bool:
        """Whether the model or its tokenizer has Python code of its own."""
        documents = (read_document(self.files, name) for name in ("config.json", "tokenizer_config.json"))
        return any((document.data or {}).get("auto_map") for document in documents)

    @cached_property
    def wrapped_norms(self) -> bool:
        """Whether AntiOutlier's norms have `.module.` tensors."""
        return any(".module." in name for name in read_document(self.files, DESCRIPTION_FILE, LARGE).data or {})


def vllm(export: Served) -> str:
    """Return the command of vLLM; it reads the dtype and the quantization, also of attention, in config.json."""
    return _joined("vllm serve", export, "", "--trust-remote-code")


def vllm_ascend(export: Served) -> str:
    """Return the command of vLLM-Ascend; it reads the form of linears and of C8 in the description."""
    # deq_scale has another form for each dtype, so a user who adds options must not change the dtype.
    dtype = f" --dtype {export.dtype}" if export.dtype in _HALF else ""
    return _joined("vllm serve", export, f" --quantization ascend{dtype}", "--trust-remote-code")


def mindie_llm(export: Served) -> str:
    """Return the command of MindIE-LLM's ATB models that answers a prompt; a service takes the folder from a file."""
    command = 'cd "$ATB_SPEED_HOME_PATH" && torchrun --nproc_per_node 1 -m examples.run_pa --model_path'
    return _joined(command, export, "", "--trust_remote_code")


def mindie_sd(export: Served, description: str) -> str:
    """Return the call that a pipeline's Python script needs: MindIE-SD has no command."""
    path = str(export.folder / description)
    return f"no command; in the pipeline's Python script: mindiesd.quantize(transformer, quant_des_path={path!r})"


def _joined(command: str, export: Served, options: str, trust: str) -> str:
    return f"{command} {shlex.quote(str(export.folder))}{options}" + (f" {trust}" if export.remote_code else "")
