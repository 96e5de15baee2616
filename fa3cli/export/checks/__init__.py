"""The named checks of `fa3 verify`; importing this package registers all of them."""

from importlib import import_module

from fa3cli.export.checks.registry import CHECKS

__all__ = ["CHECKS"]

# In the order they run: a check comes after those whose findings it heeds.
for _name in ("files", "config", "description", "shapes", "numbers", "fallback"):
    import_module(f"{__name__}.{_name}")
