"""Names of the files of a W8A8 export for target modelslim."""

from __future__ import annotations

from fa3cli.exports.targets import TARGETS

__all__ = ["WEIGHT_FILE"]

WEIGHT_FILE = TARGETS["modelslim"].weight_file
