"""Runs a job: passes over the layers, a journal to resume from, and the files of the result."""
