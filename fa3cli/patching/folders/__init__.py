"""Reads, writes and restores the files of a patched folder."""
