"""Statistics of what flows through a model, updated sample by sample."""
