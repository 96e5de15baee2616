"""The command line: the only rooms that print, prompt or exit."""

from __future__ import annotations

import atexit
import gc
import sys
from collections.abc import Callable

from fa3cli.cli.streams import Streams, open_streams
from fa3cli.errors import Fa3Error, MissingCapabilityError, brief

__all__ = ["main"]


def main() -> None:
    """Run `fa3`; errors become one message on stderr and the exit code their class carries."""
    # Python's last search for cycles would take a fifth of the time of a patch, and frees what is freed anyway.
    atexit.register(gc.freeze)
    with open_streams() as streams:
        code = _final_code(streams, _exit_code())
    sys.exit(code)


def _exit_code() -> int:
    """Run the command that sys.argv names, and return how it ended."""
    try:
        from fa3cli.cli.app import app

        _run(app)
    except SystemExit as ended:  # typer ends each command so
        return ended.code if isinstance(ended.code, int) else 0
    except Fa3Error as error:
        from fa3cli.cli.console import print_error

        print_error(error)
        return error.exit_code
    except OSError as error:  # a full disk, a folder without permission: the message names the file
        from fa3cli.cli.console import note

        note(f"error: {error}")
        return 6
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    return 0


def _final_code(streams: Streams, code: int) -> int:
    """Return the exit code, or that of a stdout that could not be written though all went well."""
    sys.stdout.flush()
    if streams.problem is None:
        return code
    print(f"error: stdout cannot be written ({streams.problem})", file=sys.stderr)
    print(
        "hint: what the command did is done, only its output is lost; write it somewhere else",
        file=sys.stderr,
    )
    return 6 if code in (0, 1) else code


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
