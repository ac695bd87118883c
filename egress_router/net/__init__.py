"""What can be seen of this network namespace without privilege."""
