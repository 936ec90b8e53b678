"""Who asks, and whether they may: certificates, tokens, and the server's own words for no."""

from dataclasses import dataclass

from aiohttp import web

from tests.cluster.answers import Object, Refused
from tests.cluster.discovery import Resource
from tests.cluster.switches import HARNESS, Switches


@dataclass(frozen=True)
class Where:
    """What a path names."""

    resource: Resource
    namespace: str
    name: str
    subresource: str

    @property
    def words(self) -> str:
        """The resource as rights name it: `pods`, `pods/exec`."""
        return f"{self.resource.plural}/{self.subresource}" if self.subresource else self.resource.plural


class Rights:
    """The users of the stand-in: whoever has a certificate, and the bearer of the token."""

    def __init__(self, token: str, token_user: str) -> None:
        self.token = token
        self._token_user = token_user

    def user(self, request: web.Request, switches: Switches) -> str:
        """Return who asks.

        Raises:
            Refused: 401.
        """
        if request.headers.get("User-Agent") == HARNESS:
            return HARNESS
        authorization = request.headers.get("Authorization", "")
        assert request.transport is not None
        certificate = request.transport.get_extra_info("peercert")
        if not switches.token_expired:
            if authorization:
                if authorization == f"Bearer {self.token}":
                    return self._token_user
            elif certificate:
                return str(next(value for part in certificate["subject"] for key, value in part if key == "commonName"))
        raise Refused(401, "Unauthorized")

    def may(self, user: str, verb: str, words: str, switches: Switches) -> bool:
        """Tell whether a user may do `verb` to `words`, such as `create` to `pods/exec`."""
        if user == HARNESS:
            return True
        if (verb, words) in switches.forbid:
            return False
        return user != self._token_user or switches.rights is None or (verb, words) in switches.rights

    def require(self, user: str, verb: str, where: Where, switches: Switches) -> None:
        """Let pass what is allowed.

        Raises:
            Refused: 403.
        """
        if self.may(user, verb, where.words, switches):
            return
        resource = where.resource
        name = f' "{where.name}"' if where.name else ""
        scope = f'in the namespace "{where.namespace}"' if where.namespace else "at the cluster scope"
        message = f'{resource.full}{name} is forbidden: User "{user}" cannot {verb} resource "{where.words}" '
        message += f'in API group "{resource.group}" {scope}'
        details = {"name": where.name} if where.name else {}
        details |= ({"group": resource.group} if resource.group else {}) | {"kind": resource.plural}
        raise Refused(403, message, details)

    def review(self, user: str, body: Object, switches: Switches) -> Object:
        """Answer a SelfSubjectAccessReview."""
        asked = body["spec"].get("resourceAttributes") or {}
        words = asked.get("resource", "")
        if asked.get("subresource"):
            words = f"{words}/{asked['subresource']}"
        allowed = self.may(user, asked.get("verb", ""), words, switches)
        return body | {"status": {"allowed": allowed} | ({} if allowed else {"reason": "no rule allows it"})}
