"""Seeded mutation of all that comes from outside, against the parsers and a running server (threats B14, H1, H4)."""
