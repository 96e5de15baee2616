"""Runs the command line; only this package prints, prompts or exits."""

from __future__ import annotations

import atexit
import gc
import sys
from collections.abc import Callable

from fa3cli.cli.output_streams import Streams, open_streams
from fa3cli.errors import Fa3Error, MissingCapabilityError, brief

__all__ = ["main"]


def main() -> None:
    """Run `fa3`; errors become one message on stderr and the exit code their class carries."""
    # Garbage collection at exit would take a fifth of the time of a patch; the process frees its memory anyway.
    atexit.register(gc.freeze)
    with open_streams() as streams:
        code = _final_code(streams, _exit_code())
    sys.exit(code)


def _exit_code() -> int:
    """Run the command of sys.argv and return its exit code."""
    try:
        from fa3cli.cli.app import app

        _run(app)
    except SystemExit as ended:  # typer ends every command with SystemExit
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
    """Return the exit code; 6 if the command succeeded but stdout could not be written."""
    sys.stdout.flush()
    if streams.problem is None:
        return code
    print(f"error: stdout cannot be written ({streams.problem})", file=sys.stderr)
    print(
        "hint: the command has done its work, only its output is lost; write the output to another file",
        file=sys.stderr,
    )
    return 6 if code in (0, 1) else code


def _run(app: Callable[..., object]) -> None:
    """Run the app; if torch cannot load a device package, raise MissingCapabilityError."""
    try:
        app(prog_name="fa3")
    except RuntimeError as error:
        if "Failed to load the backend extension" not in str(error):
            raise
        raise MissingCapabilityError(
            f"torch cannot load a package for another device that is installed here ({brief(error.__cause__ or error)})",
            hint="for torch_npu, source CANN's set_env.sh; TORCH_DEVICE_BACKEND_AUTOLOAD=0 disables such packages",
        ) from error
