"""`python -m fa3cli` is the `fa3` command."""

from fa3cli.cli import main

if __name__ == "__main__":
    main()
