"""Tests that public names are imported on first use, so that patched files and `fa3 --help` start fast."""

from __future__ import annotations

import logging
import subprocess
import sys
from pkgutil import iter_modules

import pytest

import fa3cli


@pytest.mark.parametrize("name", fa3cli.__all__)
def test_every_public_name_can_be_imported(name: str) -> None:
    assert getattr(fa3cli, name) is not None


def test_no_submodule_has_a_public_name() -> None:
    """Importing a submodule `fa3cli.export` would replace the function of that name by the module."""
    import fa3cli.exports.layout

    assert not {module.name for module in iter_modules(fa3cli.__path__)}.intersection(fa3cli.__all__)
    assert callable(fa3cli.export)


def test_the_public_logger_is_the_logger_of_the_package() -> None:
    assert fa3cli.logger is logging.getLogger("fa3cli")


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="'fa3cli' has no attribute 'quantise'"):
        _ = fa3cli.quantise


@pytest.mark.parametrize(
    "statement", ["import fa3cli", "from fa3cli import FAQuantizer, logger", "from fa3cli import patch"]
)
def test_importing_fa3cli_does_not_import_torch(statement: str) -> None:
    code = f"{statement}; import sys; print({{'torch', 'transformers', 'typer'}} & sys.modules.keys())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"
