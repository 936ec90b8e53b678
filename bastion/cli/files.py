"""Files that a command makes: private, whole, and never in the place of another."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from bastion.errors import ConfigurationError


@contextmanager
def new_private_file(path: Path) -> Iterator[BinaryIO]:
    """Open a new file of mode 0600 for writing; it is removed again when its writing fails.

    Raises:
        ConfigurationError: there is a file of that name already.
    """
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    except FileExistsError as error:
        raise ConfigurationError(f"{path} exists and is not overwritten", "choose another name") from error
    try:
        with os.fdopen(handle, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
    except BaseException:
        path.unlink(missing_ok=True)
        raise
