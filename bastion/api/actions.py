"""What was asked for and may take a while, kept for those who ask how it went."""

import secrets
from collections import OrderedDict
from datetime import datetime
from typing import Final, Literal

from pydantic import BaseModel, ConfigDict

MOST_KEPT: Final = 4096
_LARGEST_ID: Final = 2**53 - 1  # what JavaScript still counts


class AsyncAction(BaseModel):
    """An action in Cloud 66's words; `finished_at` and `finished_success` are null while it goes on."""

    model_config = ConfigDict(frozen=True)

    id: int
    user: str
    resource_type: Literal["session"] = "session"
    resource_id: str
    action: Literal["start-session"] = "start-session"
    started_via: Literal["api"] = "api"
    started_at: datetime
    finished_at: datetime | None = None
    finished_success: bool | None = None
    finished_message: str | None = None


class Actions:
    """The latest actions of this node, each with the stack and the service that were asked for."""

    def __init__(self) -> None:
        self._kept: OrderedDict[int, tuple[str, str, AsyncAction]] = OrderedDict()

    def new_id(self) -> int:
        """Return a number that nobody can guess and that is not in use."""
        while (number := secrets.randbelow(_LARGEST_ID) + 1) in self._kept:
            pass
        return number

    def keep(self, stack: str, service: str, action: AsyncAction) -> None:
        """Keep an action; the oldest make room."""
        self._kept[action.id] = stack, service, action
        while len(self._kept) > MOST_KEPT:
            self._kept.popitem(last=False)

    def find(self, stack: str, number: int) -> AsyncAction | None:
        """Return the action of that stack and number, while it is kept."""
        of, _, action = self._kept.get(number, ("", "", None))
        return action if of == stack else None

    def resources(self, stack: str, service: str) -> set[str]:
        """Return the uids of what was started by this name, which may be another than the service's own."""
        return {action.resource_id for *asked, action in self._kept.values() if asked == [stack, service]}
