"""A second device type, to find what takes the CPU for granted: host memory under another name, counted and limited."""
