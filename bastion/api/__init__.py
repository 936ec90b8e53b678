"""The HTTP API: live sessions listed, shown and ended, health, metrics; every answer and every error typed."""

from bastion.api.routes import create_api
from bastion.api.server import serve_api

__all__ = ["create_api", "serve_api"]
