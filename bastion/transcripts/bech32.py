"""Bech32 (BIP 173) without its length limit, as age writes recipients and identities."""

_ALPHABET = "qpzry9x8gf2tvdw0s3jn54khce6mua7l"
_VALUES = {character: value for value, character in enumerate(_ALPHABET)}
_GENERATOR = (0x3B6A57B2, 0x26508E6D, 0x1EA119FA, 0x3D4233DD, 0x2A1462B3)
_LONGEST = 4096


def encode(prefix: str, payload: bytes) -> str:
    """Return the lower-case text for `payload` under the human-readable `prefix`."""
    values = _regroup(list(payload), 8, 5, pad=True)
    checked = _polymod([*_expand(prefix), *values, 0, 0, 0, 0, 0, 0]) ^ 1
    checksum = [checked >> 5 * (5 - index) & 31 for index in range(6)]
    return prefix + "1" + "".join(_ALPHABET[value] for value in [*values, *checksum])


def decode(text: str) -> tuple[str, bytes]:
    """Return the lower-case prefix and the payload.

    Raises:
        ValueError: the text is too long, of mixed case, has a wrong character, checksum or padding.
    """
    if len(text) > _LONGEST or text not in (text.lower(), text.upper()):
        raise ValueError("is too long or of mixed case")
    prefix, separator, data = text.lower().rpartition("1")
    if not separator or not prefix or any(character not in _VALUES for character in data):
        raise ValueError("has a character that no key has")
    values = [_VALUES[character] for character in data]
    if len(values) < 6 or _polymod([*_expand(prefix), *values]) != 1:  # noqa: PLR2004 - six is BIP 173's checksum length
        raise ValueError("has a wrong checksum")
    return prefix, bytes(_regroup(values[:-6], 5, 8, pad=False))


def _expand(prefix: str) -> list[int]:
    return [ord(character) >> 5 for character in prefix] + [0] + [ord(character) & 31 for character in prefix]


def _polymod(values: list[int]) -> int:
    check = 1
    for value in values:
        top = check >> 25
        check = (check & 0x1FFFFFF) << 5 ^ value
        for bit, generator in enumerate(_GENERATOR):
            check ^= generator if top >> bit & 1 else 0
    return check


def _regroup(values: list[int], width: int, into: int, *, pad: bool) -> list[int]:
    result, held, bits = [], 0, 0
    for value in values:
        held = (held << width | value) & 0xFFFF
        bits += width
        while bits >= into:
            bits -= into
            result.append(held >> bits & (1 << into) - 1)
    rest = held & (1 << bits) - 1
    if pad and bits:
        result.append(rest << into - bits & (1 << into) - 1)
    if not pad and (bits >= width or rest):
        raise ValueError("has wrong padding")
    return result
