"""Patches and quantizes one folder with the installed transformers: `python -m … FOLDER CALIB OUTPUT`."""

from __future__ import annotations

import sys
from pathlib import Path

from fa3cli import api, patching

if __name__ == "__main__":
    folder, calib, output = map(Path, sys.argv[1:])
    patching.patch(folder)
    api.quantize(folder, output, calib=calib)
