"""Compiles the test device, once for each torch version and source, into build/device_backend."""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
import sys
import tempfile
from pathlib import Path

import torch

__all__ = ["library", "reason_to_skip"]

_SOURCE = Path(__file__).with_name("device.cpp")
_CACHE = Path(__file__).parents[2] / "build" / "device_backend"


def reason_to_skip() -> str | None:
    """Say why the device cannot be had here; None where it can."""
    if not sys.platform.startswith("linux"):
        return "the test device is built on Linux only"
    if _cached().is_file():
        return None
    lacking = [name for name in (os.environ.get("CXX", "c++"), "ninja") if shutil.which(name) is None]
    return f"the test device has to be compiled, and {lacking[0]} is not installed" if lacking else None


def library() -> Path:
    """Return the shared library, compiled now if it is not there yet."""
    library = _cached()
    if not library.is_file():
        from torch.utils import cpp_extension

        library.parent.mkdir(parents=True, exist_ok=True)
        # In a folder of its own, then moved: a build that was killed leaves no lock and no half a file behind.
        with tempfile.TemporaryDirectory(dir=_CACHE) as folder:
            cpp_extension.load(
                _NAME, [str(_SOURCE)], extra_cflags=["-O1"], build_directory=folder, is_python_module=False
            )
            os.replace(Path(folder) / f"{_NAME}.so", library)
    return library


_NAME = "fa3_test_device"


def _cached() -> Path:
    made_of = f"{torch.__version__} {platform.machine()} {torch._C._GLIBCXX_USE_CXX11_ABI}".encode()
    digest = hashlib.sha256(made_of + _SOURCE.read_bytes()).hexdigest()[:16]
    return _CACHE / f"{_NAME}-{digest}.so"
