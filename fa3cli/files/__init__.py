"""Reads documents and writes small files: all other packages access the disk for these through this one."""
