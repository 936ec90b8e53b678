"""One suite for every runtime, and what only one of them has."""
