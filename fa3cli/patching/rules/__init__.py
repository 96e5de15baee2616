"""Rules: what the search for the place cannot find, said by class name in TOML files."""
