"""Kubernetes manifests -> what they give this program, each value with its place. Pure."""
