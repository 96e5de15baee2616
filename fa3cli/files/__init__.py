"""The disk: every document is read, and every small file is written, through this room."""
