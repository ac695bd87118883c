"""Measurements beside what people would use instead; each ratio comes from one run."""
