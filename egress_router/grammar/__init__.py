"""Text to frozen values, and nothing else: no module in here knows a socket, a file or the environment."""
