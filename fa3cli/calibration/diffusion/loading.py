"""A pipeline loaded by diffusers, but for parts that are there already."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import nn

from fa3cli.calibration.checked_folder import copy_checked
from fa3cli.calibration.diffusion.quiet import quiet
from fa3cli.calibration.trust import never_asking
from fa3cli.errors import InvalidInputError
from fa3cli.patching.diffusion.index import INDEX

__all__ = ["from_folder"]


def from_folder(
    pipeline_class: type,
    folder: Path,
    index: str,
    parts: Mapping[str, nn.Module],
    *,
    dtype: torch.dtype,
    trusted: bool,
) -> Any:
    """Return the pipeline of a folder, loaded the way `index`, a model_index.json's text, says, with `parts` given.

    Raises InvalidInputError where diffusers can't load it.
    """
    import diffusers
    from packaging.version import Version

    dtype_key = "dtype" if Version(diffusers.__version__) >= Version("0.42") else "torch_dtype"
    options = {**parts, dtype_key: dtype, "local_files_only": True, "use_safetensors": True}
    if trusted:
        options["trust_remote_code"] = True
    with _readable(folder, index, trusted) as linked, quiet(), never_asking():
        try:
            return pipeline_class.from_pretrained(linked, **options)
        except Exception as error:  # each part's own code: what a file it cannot take raises is up to it
            said = " ".join(str(error).replace(str(linked), str(folder)).split())
            raise InvalidInputError(
                f"{folder}: diffusers {diffusers.__version__} cannot load the pipeline "
                f"({type(error).__name__}: {said[:300]})"
            ) from error


@contextmanager
def _readable(folder: Path, index: str, trusted: bool) -> Iterator[Path]:
    """Give a folder with everything in this one, but its code unless it is trusted, and another model_index.json.

    diffusers looks up the class of a part that is given, too, and doesn't find that of a patched one.
    """
    with TemporaryDirectory(prefix="fa3-pipeline-") as place:
        readable = Path(place)
        for entry in folder.iterdir():
            if trusted:
                (readable / entry.name).symlink_to(entry.absolute())
            elif entry.is_dir() and not entry.name.startswith("."):
                (readable / entry.name).mkdir()
                copy_checked(entry, readable / entry.name)
        (readable / INDEX).unlink(missing_ok=True)
        (readable / INDEX).write_text(index, encoding="utf-8")
        yield readable
