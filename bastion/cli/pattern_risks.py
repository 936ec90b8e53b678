"""Find command patterns of a grant that allow the user more than they seem to."""

import re
from collections.abc import Iterator
from typing import Final

from bastion.cli.risky_programs import RISKS
from bastion.command_patterns import PLAIN, RESERVED, WILDCARDS

_VERSION: Final = "0123456789.-"
_REDIRECTION: Final = re.compile(r"> ?[^ ;&|]*[*?]")


def risks(pattern: str) -> Iterator[str]:
    """Yield a sentence for each program in the pattern whose arguments a wildcard leaves to the user."""
    for program, words in _programs(pattern):
        name = program.rpartition("/")[2]
        risk = RISKS.get(name) or RISKS.get(name.rstrip(_VERSION))
        if WILDCARDS & set(program):
            yield "the caller chooses the program"
        elif risk is not None and any(WILDCARDS & set(word) for word in words):
            yield f"the caller chooses arguments of {name}, which {risk}"
    if _REDIRECTION.search(pattern):
        yield "the caller chooses a file that is written"


def _programs(pattern: str) -> Iterator[tuple[str, list[str]]]:
    """Yield each program that a pattern runs, with its arguments."""
    words = pattern.split(" ")
    is_next = True
    for place, word in enumerate(words):
        is_operator = not set(word) <= PLAIN | WILDCARDS
        if is_next and word and not is_operator and word not in RESERVED and "=" not in word:
            yield word, words[place + 1 :]
            is_next = False
        elif "=" not in word:
            is_next = is_operator or word in RESERVED
