"""Bytes between two connected sockets; nothing in here knows HTTP or DNS."""
