"""The environment, read once at start into typed, frozen settings; all faults are reported together."""
