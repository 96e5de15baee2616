"""Loads a pipeline with diffusers, in which some parts are given objects."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from fa3cli.errors import InvalidInputError
from fa3cli.models.untrusted.checked_folder import copy_checked
from fa3cli.models.untrusted.trust import without_trust_prompt
from fa3cli.patching.diffusion.index import INDEX
from fa3cli.pipelines.quiet import quiet

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline

__all__ = ["from_folder"]


def from_folder(
    pipeline_class: type[DiffusionPipeline],
    folder: Path,
    index: str,
    parts: Mapping[str, nn.Module],
    *,
    dtype: torch.dtype,
    trusted: bool,
) -> Any:
    """Load the pipeline of a folder according to `index`, the text of a model_index.json, with the given `parts`.

    Raises InvalidInputError if diffusers cannot load it.
    """
    import diffusers
    from packaging.version import Version

    # diffusers 0.42 renamed torch_dtype to dtype.
    dtype_key = "dtype" if Version(diffusers.__version__) >= Version("0.42") else "torch_dtype"
    # use_safetensors: otherwise diffusers reads pickled weights if it finds no others.
    options = {**parts, dtype_key: dtype, "local_files_only": True, "use_safetensors": True}
    if trusted:
        # Set only if needed: older versions of diffusers log that they ignore this argument.
        options["trust_remote_code"] = True
    with _readable(folder, index, trusted) as linked, quiet(), without_trust_prompt():
        try:
            return pipeline_class.from_pretrained(linked, **options)  # type: ignore[no-untyped-call]  # diffusers' has no types
        except Exception as error:  # the parts' own code may raise any error for a bad file
            message = " ".join(str(error).replace(str(linked), str(folder)).split())
            raise InvalidInputError(
                f"{folder}: diffusers {diffusers.__version__} cannot load the pipeline "
                f"({type(error).__name__}: {message[:300]})"
            ) from error


@contextmanager
def _readable(folder: Path, index: str, trusted: bool) -> Iterator[Path]:
    """Yield a temporary folder with this folder's files (code only if trusted) and `index` as model_index.json.

    diffusers looks up the classes of given parts, too, and does not find the class of a patched part.
    """
    with TemporaryDirectory(prefix="fa3-pipeline-") as place:
        readable = Path(place)
        for entry in folder.iterdir():
            if trusted:
                (readable / entry.name).symlink_to(entry.absolute())
            elif entry.is_dir() and not entry.name.startswith("."):
                (readable / entry.name).mkdir()
                # Only the folders of parts are copied: files beside them may be code.
                copy_checked(entry, readable / entry.name)
        # Remove the link first: writing through it would change the user's file.
        (readable / INDEX).unlink(missing_ok=True)
        (readable / INDEX).write_text(index, encoding="utf-8")
        yield readable
