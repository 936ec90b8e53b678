"""What a user can be called."""

import re

from bastion.errors import ConfigurationError

USER = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")


def check_user(user: str) -> None:
    """Refuse what no user can be called.

    Raises:
        ConfigurationError: it is that.
    """
    if not USER.fullmatch(user):
        raise ConfigurationError(
            f"{user[:64]!a} is no name of a user",
            "use up to 64 of a-z, 0-9, dots, dashes and underscores, a letter or digit first",
        )
