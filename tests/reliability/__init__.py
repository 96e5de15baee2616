"""Tests reliability: hostile documents, failing system calls, kills and concurrent commands (docs/reliability.md)."""
