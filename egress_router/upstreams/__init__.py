"""Upstreams that lines name: followed by their names, checked, and served in turn."""
