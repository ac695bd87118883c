"""Upstreams that lines name: their names are followed, their addresses checked and used in turn."""
