"""The command line: the only rooms that print, prompt or exit."""

from __future__ import annotations

import sys

from fa3cli.errors import Fa3Error

__all__ = ["main"]


def main() -> None:
    """Run `fa3`; errors become one message on stderr and the exit code their class carries."""
    from fa3cli.cli.app import app

    try:
        app(prog_name="fa3")
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
