"""The guide's Python classes: a script written for them runs with its import lines changed."""
