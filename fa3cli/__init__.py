"""FA3 quantization of transformers models for Ascend, without editing files by hand.

Everything here is imported on first use, so that a patched modeling file, which imports
`FAQuantizer` and `logger`, pays for neither torch nor the command line.
"""

# Not even __future__: under `python -m fa3cli` this is run while the current folder, which may be one of weights, is
# the first on the path. __main__.py takes it off.

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


TYPE_CHECKING = False  # type checkers take it for true, and typing is not imported
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
