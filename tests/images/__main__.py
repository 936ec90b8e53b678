"""Make the tests' images before the tests run: no test's time limit bears a download."""

import os
import sys

from tests.conftest import CACHE
from tests.images import NAMES, ImageUnavailable, make


def main() -> None:
    """Make every image that is not there yet; say which cannot be made, and leave it to the tests to skip or fail."""
    if os.geteuid() != 0:
        return  # the engine that takes them needs root too
    for name in NAMES:
        try:
            make(CACHE / "images", name)
        except ImageUnavailable as error:
            sys.stderr.write(f"prepare: no image {name}: {error}\n")


if __name__ == "__main__":
    main()
