"""The forward proxy: heads, policy, sessions."""
