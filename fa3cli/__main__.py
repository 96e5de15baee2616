"""`python -m fa3cli` is the `fa3` command."""

# Both are loaded already: while the current folder is on the path, nothing else may be imported.
import os
import sys


def _leave_current_folder() -> None:
    """Take the current folder off sys.path where `-m` put it first: a torch.py among the weights is none of ours."""
    added = not (sys.flags.isolated or getattr(sys.flags, "safe_path", False))
    if added and __spec__ and sys.path and sys.path[0] in ("", os.getcwd()):
        del sys.path[0]


if __name__ == "__main__":
    _leave_current_folder()

    from fa3cli.cli import main

    main()
