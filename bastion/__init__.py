"""An SSH server that opens shells in running containers and keeps an encrypted record."""
