"""The command line: the only rooms that print, prompt or exit."""

from __future__ import annotations

import atexit
import gc
import sys
from collections.abc import Callable

from fa3cli.errors import Fa3Error, MissingCapabilityError, brief

__all__ = ["main"]


def main() -> None:
    """Run `fa3`; errors become one message on stderr and the exit code their class carries."""
    # Python's last search for cycles would take a fifth of the time of a patch, and frees what is freed anyway.
    atexit.register(gc.freeze)
    try:
        from fa3cli.cli.app import app

        _run(app)
    except Fa3Error as error:
        from fa3cli.cli.console import print_error

        print_error(error)
        sys.exit(error.exit_code)
    except OSError as error:  # a full disk, a folder without permission: the message names the file
        print(f"error: {error}", file=sys.stderr)
        sys.exit(6)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)


def _run(app: Callable[..., object]) -> None:
    """Run the app; that torch cannot load a device's package is an error of this machine."""
    try:
        app(prog_name="fa3")
    except RuntimeError as error:
        if "Failed to load the backend extension" not in str(error):
            raise
        raise MissingCapabilityError(
            f"torch cannot load a package for another device that is installed here ({brief(error.__cause__ or error)})",
            hint="for torch_npu, source CANN's set_env.sh; TORCH_DEVICE_BACKEND_AUTOLOAD=0 does without such packages",
        ) from error
