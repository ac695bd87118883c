"""Measurements beside the programs that people would use instead; each ratio comes from one run."""
