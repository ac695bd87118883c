"""The environment, read once at start into typed, frozen settings; every fault of it reported together."""
