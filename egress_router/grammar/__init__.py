"""Text to frozen values, and nothing else: no module here uses a socket, a file or the environment."""
