"""Quantizes transformers models with FA3 for Ascend, without manual edits of modeling files.

Public names are imported on first use: a patched modeling file imports `FAQuantizer` and `logger`, and must not load
torch or the command line with them.
"""

# No imports here, not even of __future__: `python -m fa3cli` runs this module while the current folder, which may be a
# weights folder with modules of any name, is first on sys.path. __main__.py removes it.

__version__ = "0.1.0"

_EXPORTS = {
    "AntiOutlier": "fa3cli.guide.anti_outlier",
    "AntiOutlierConfig": "fa3cli.guide.configs",
    "Calibrator": "fa3cli.guide.calibrator",
    "FAQuantizer": "fa3cli.fa_quantizer",
    "QuantConfig": "fa3cli.guide.configs",
    "patch": "fa3cli.patching",
    "calibrate": "fa3cli.api",
    "compare": "fa3cli.api",
    "export": "fa3cli.api",
    "quantize": "fa3cli.api",
    "verify": "fa3cli.api",
}

__all__ = [
    "AntiOutlier",
    "AntiOutlierConfig",
    "Calibrator",
    "FAQuantizer",
    "QuantConfig",
    "calibrate",
    "compare",
    "export",
    "logger",
    "patch",
    "quantize",
    "verify",
]


TYPE_CHECKING = False  # type checkers treat this name as true; so typing is not imported
if TYPE_CHECKING:
    from logging import Logger

    logger: Logger


def __getattr__(name: str) -> object:
    from importlib import import_module

    if name == "logger":
        return import_module("logging").getLogger("fa3cli")
    if name not in _EXPORTS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_EXPORTS[name]), name)
