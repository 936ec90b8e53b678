"""The words in which an API server refuses, and its way of writing JSON."""

import json
from collections.abc import Mapping
from typing import Any, Final

from aiohttp import web

Object = dict[str, Any]

_REASONS: Final = {
    400: "BadRequest",
    401: "Unauthorized",
    403: "Forbidden",
    404: "NotFound",
    405: "MethodNotAllowed",
    409: "AlreadyExists",
    410: "Expired",
    415: "UnsupportedMediaType",
    422: "Invalid",
    500: "InternalError",
}


class Refused(Exception):
    """An answer that is no success; it becomes a Status object."""

    def __init__(self, code: int, message: str, details: Mapping[str, Any] | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.details = details

    def status(self) -> Object:
        """Return the Status object, its fields in the server's order."""
        body: Object = {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure"}
        body |= {"message": self.message, "reason": _REASONS[self.code]}
        if self.details is not None:
            body["details"] = dict(self.details)
        return body | {"code": self.code}


def not_found(resource: str, group: str, name: str) -> Refused:
    """Make the 404 for an object that does not exist."""
    kind = f"{resource}.{group}" if group else resource
    details = {"name": name, "group": group, "kind": resource} if group else {"name": name, "kind": resource}
    return Refused(404, f'{kind} "{name}" not found', details)


def go_json(body: Any) -> str:
    """Write JSON as Go's encoder does: no spaces, and the characters of HTML escaped."""
    text = json.dumps(body, separators=(",", ":"), ensure_ascii=False)
    for character in "&<>\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def answer(body: Any, status: int = 200) -> web.Response:
    """Answer with JSON and the newline that the API server puts behind it."""
    return web.Response(status=status, body=f"{go_json(body)}\n".encode(), content_type="application/json")
