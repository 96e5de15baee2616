"""Reports on an export: gathers its facts as data, and writes them as one html page."""
