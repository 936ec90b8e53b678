"""Load, failures and attacks: the figures that docs/reliability.md promises, measured by `make load`."""
