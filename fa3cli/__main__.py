"""Runs the `fa3` command as `python -m fa3cli`."""

# Python has loaded both modules already; while the current folder is on sys.path, nothing else may be imported.
import os
import sys


def _leave_current_folder() -> None:
    """Remove the current folder from sys.path if `-m` put it there: a torch.py beside weights must not be imported."""
    added = not (sys.flags.isolated or getattr(sys.flags, "safe_path", False))
    if added and __spec__ and sys.path and sys.path[0] in ("", os.getcwd()):
        del sys.path[0]


if __name__ == "__main__":
    _leave_current_folder()

    from fa3cli.cli import main

    main()
