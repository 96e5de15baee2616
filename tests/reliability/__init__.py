"""The proof of reliability: hostile documents, failing system calls, kills and crowds (docs/reliability.md)."""
