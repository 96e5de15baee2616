"""Patches every transformer of the installed diffusers: `python -m … FOLDER` prints the outcomes as json.

Transformers that tiny_pipelines can make are run by `run_transformer`; the others are patched and built without
weights, to count attention modules and quantizers.
"""

from __future__ import annotations

import importlib.util
import inspect
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

from fa3cli.errors import Fa3Error
from fa3cli.patching.diffusion.build import build
from fa3cli.patching.diffusion.library import PACKAGE, Diffusers, installed_diffusers
from fa3cli.patching.folders.receipt import Options
from fa3cli.patching.origins.origin import Origin
from tests.patching.diffusion.tiny_pipelines import TRANSFORMERS


def survey(folder: Path) -> dict[str, Any]:
    """The outcome of every transformer, by its class."""
    import diffusers

    library = installed_diffusers()
    found = {name: getattr(diffusers, name, None) for name in _names(library)}
    return {
        "version": library.version,
        "transformers": {
            name: _outcome(library, name, transformer, folder)
            for name, transformer in sorted(found.items())
            if inspect.isclass(transformer) and issubclass(transformer, torch.nn.Module)
        },
    }


def _names(library: Diffusers) -> list[str]:
    texts = [path.read_text("utf-8") for path in library.folder.glob("models/transformers/*.py")]
    return [name for text in texts for name in re.findall(r"^class (\w+)\(", text, re.MULTILINE)]


def _outcome(library: Diffusers, name: str, native: type, folder: Path) -> dict[str, Any]:
    try:
        path = library.transformer_file(name)
        made = build(library, Origin("installed", path, name, PACKAGE, component="transformer"), Options())
    except Fa3Error as error:
        # Lines and paths change with every version.
        reason = re.sub(rf"{re.escape(str(library.folder))}/", "", str(error))
        return {"refused": re.sub(r"^\S+/(\w+\.py):\d+: ", r"\1: ", reason)}
    module = folder / f"{path.stem}_{name}_fa3.py"
    module.write_text(made.patched.text, "utf-8")
    counts = _count(native), _count(_load(module, name))
    found = {"modules": counts[0][0], "quantizers": counts[1][1]} if all(counts) else {"unbuilt": True}
    if name in TRANSFORMERS:
        found["right"] = _run(name, folder / name)
    return found


def _load(path: Path, name: str) -> type:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    spec.loader.exec_module(module)
    return getattr(module, name)


def _count(model: type) -> tuple[int, int] | None:
    """The attention modules of a model with its default arguments, and the quantizers; None if it can't be built so."""
    try:
        with torch.device("meta"):
            modules = list(model().modules())
    except (AttributeError, NotImplementedError, RuntimeError, TypeError, ValueError):
        return None
    return (
        sum(getattr(module, "processor", None) is not None for module in modules),
        sum(hasattr(module, "fa_quantizer") for module in modules),
    )


def _run(name: str, folder: Path) -> bool:
    call = [sys.executable, "-m", "tests.patching.diffusion.run_transformer", name, str(folder)]
    done = subprocess.run(call, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(done.stderr[-2000:])
    found = json.loads(done.stdout.splitlines()[-1])
    return all(found[aspect] for aspect in ("modules", "plain", "powers", "once", "keys", "undone"))


if __name__ == "__main__":
    print(json.dumps(survey(Path(sys.argv[1]))))
