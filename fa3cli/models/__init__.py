"""Opens models: their folders, weights, code and devices; one decoder layer is in memory at a time."""
