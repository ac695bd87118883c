"""The pair protocol: messages, answers and times in, commands out. Pure."""
