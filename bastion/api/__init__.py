"""The HTTP API: sessions, keys and records for those who may, by a unix socket or with a token; every answer typed."""
