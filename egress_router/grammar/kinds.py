"""The kinds of rules: the words that `egress-router check` knows them by."""

KINDS = ("redirect", "http-proxy", "dns-proxy")
