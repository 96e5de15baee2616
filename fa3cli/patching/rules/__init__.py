"""Reads rules from TOML files: they say, by class name, what the search for attention cannot find."""
