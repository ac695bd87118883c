"""Decisions, the same for all modes. Pure: values in, a verdict with its reason out."""
