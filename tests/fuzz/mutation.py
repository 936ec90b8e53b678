"""Change bytes as the weather, an old program or somebody hostile would; the same seed makes the same changes."""

import random
from collections.abc import Callable, Sequence
from typing import Final

INTERESTING: Final = (
    b"\0", b"\xff", b"\0\0\0\0", b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"\x80\0\0\0", b"\0\0\x80\0", b"\0\1\0\0",
    b"\n", b"\r\n", b"..", b"../", b"/", b"%n", b"\x1b[2J", b"\xc3", b"\xe2\x80\xae", b"\xef\xbb\xbf", b"'", b'"',
    b"\\", b"=", b",", b"@", b"+", b" ", b"-1", b"0", b"99999999999999999999",
)  # fmt: skip
MAX_CHANGES: Final = 8
MAX_REPEATED_BYTES: Final = 70_000


class Mutator:
    """Makes changes by a random generator of its own; `random` may be used for choices beside them."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self._changes: Sequence[Callable[[bytearray], None]] = (
            self._flip, self._set, self._insert, self._insert_interesting, self._replace_interesting, self._delete,
            self._copy, self._repeat, self._cut, self._swap,
        )  # fmt: skip

    def mutate(self, data: bytes) -> bytes:
        """Return the data with one to eight changes."""
        changed = bytearray(data)
        for _ in range(self.random.randint(1, MAX_CHANGES)):
            self.random.choice(self._changes)(changed)
        return bytes(changed)

    def sometimes(self, data: bytes, probability: float = 0.5) -> bytes:
        """Return the data, changed or not."""
        return self.mutate(data) if self.random.random() < probability else data

    def shuffled(self, items: Sequence[bytes]) -> list[bytes]:
        """Return the items with some left out, repeated or in another place."""
        taken = list(items)
        for _ in range(self.random.randint(0, 3)):
            action = self.random.randrange(3)
            if action == 0 and taken:
                del taken[self.random.randrange(len(taken))]
            elif action == 1 and taken:
                taken.insert(self.random.randint(0, len(taken)), self.random.choice(taken))
            else:
                self.random.shuffle(taken)
        return taken

    def _place(self, data: bytearray) -> int:
        return self.random.randint(0, len(data))

    def _span(self, data: bytearray) -> slice:
        start = self._place(data)
        return slice(start, start + self.random.randint(0, min(64, len(data) - start)))

    def _flip(self, data: bytearray) -> None:
        if data:
            data[self.random.randrange(len(data))] ^= 1 << self.random.randrange(8)

    def _set(self, data: bytearray) -> None:
        if data:
            data[self.random.randrange(len(data))] = self.random.randrange(256)

    def _insert(self, data: bytearray) -> None:
        place = self._place(data)
        data[place:place] = self.random.randbytes(self.random.randint(1, 16))

    def _insert_interesting(self, data: bytearray) -> None:
        place = self._place(data)
        data[place:place] = self.random.choice(INTERESTING)

    def _replace_interesting(self, data: bytearray) -> None:
        place, new = self._place(data), self.random.choice(INTERESTING)
        data[place : place + len(new)] = new

    def _delete(self, data: bytearray) -> None:
        del data[self._span(data)]

    def _copy(self, data: bytearray) -> None:
        piece, place = data[self._span(data)], self._place(data)
        data[place:place] = piece

    def _repeat(self, data: bytearray) -> None:
        piece, place = data[self._span(data)][:8], self._place(data)
        data[place:place] = piece * self.random.choice((2, 10, 300, MAX_REPEATED_BYTES // 8))

    def _cut(self, data: bytearray) -> None:
        if self.random.random() < 0.3:  # seldom: what follows a cut is never seen
            del data[self._place(data) :]

    def _swap(self, data: bytearray) -> None:
        if len(data) > 1:
            one, other = self.random.randrange(len(data)), self.random.randrange(len(data))
            data[one], data[other] = data[other], data[one]
