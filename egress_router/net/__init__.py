"""What anybody may see of this network namespace, without privilege."""
