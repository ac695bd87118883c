"""Decisions of all modes. Pure: no socket, no clock, no environment."""
