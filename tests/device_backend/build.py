"""Compiles the test device into build/device_backend, once per torch version and source."""

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
    """Return why the device is not available on this machine; None if it is."""
    if not sys.platform.startswith("linux"):
        return "the test device is built on Linux only"
    if _cached().is_file():
        return None
    missing = [name for name in (os.environ.get("CXX", "c++"), "ninja") if shutil.which(name) is None]
    return f"the test device must be compiled, and {missing[0]} is not installed" if missing else None


def library() -> Path:
    """Return the shared library; compile it if necessary."""
    library = _cached()
    if not library.is_file():
        from torch.utils import cpp_extension

        library.parent.mkdir(parents=True, exist_ok=True)
        # Built in a temporary folder, then moved: a killed build leaves no lock and no incomplete file.
        with tempfile.TemporaryDirectory(dir=_CACHE) as folder:
            cpp_extension.load(
                _NAME, [str(_SOURCE)], extra_cflags=["-O1"], build_directory=folder, is_python_module=False
            )
            os.replace(Path(folder) / f"{_NAME}.so", library)
    return library


_NAME = "fa3_test_device"


def _cached() -> Path:
    environment = f"{torch.__version__} {platform.machine()} {torch._C._GLIBCXX_USE_CXX11_ABI}".encode()
    digest = hashlib.sha256(environment + _SOURCE.read_bytes()).hexdigest()[:16]
    return _CACHE / f"{_NAME}-{digest}.so"
