"""How the files of :mod:`trust.fuzz` are damaged."""

from __future__ import annotations

import re

from hypothesis import strategies as st

_TOKEN = re.compile(rb'"[^"\n]*"|-?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?|true|false|null')
_TOKENS = [
    *(
        b"null",
        b"true",
        b"-1",
        b"0",
        b"1",
        b"2.5",
        b"1e400",
        b"-1e30",
        b"NaN",
        b"Infinity",
        b'"x"',
        b'""',
        b"[]",
        b"{}",
    ),
    *(b"[1, 2]", b'{"a": 1}', b"9" * 400, b"9" * 5000, b"[" * 5000, b",", b"\n", b"x", b"\xff", b"\0"),
]
_NUMBERS = [0, 1, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 0x7FFFFFFFFFFFFFFF, 1 << 20]


# What is wrong: which kind of damage, in which part of the file, where in it, and a number for the rest.
DAMAGE = st.lists(
    st.tuples(st.integers(0, 8), st.integers(0, 3), st.integers(0, 1 << 32), st.integers(0, 1 << 32)),
    min_size=1,
    max_size=3,
)


def damaged(whole: bytes, damage: list[tuple[int, int, int, int]]) -> bytes:
    """A file in which up to three things are wrong, more often near its ends than in its middle.

    :param whole: the file
    :param damage: an example of :data:`DAMAGE`
    """
    data = whole
    for kind, part, where, number in damage:
        size = len(data)
        first, last = {0: (0, 400), 1: (size - 200, size)}.get(part, (0, size))
        first, last = max(0, first), min(size, last)
        place = first + where % (last - first + 1)
        if kind <= 1:
            data = data[:place] + bytes([number % 256]) + data[place + 1 :]
        elif kind == 2:
            width = (2, 4, 8)[number % 3]
            value = _NUMBERS[number % len(_NUMBERS)] % (1 << 8 * width)
            data = data[:place] + value.to_bytes(width, "little") + data[place + width :]
        elif kind == 3:
            data = data[:place] + data[place + 1 + number % 40 :]
        elif kind == 4:
            data = data[:place] + number.to_bytes(5, "little")[: 1 + number % 5] + data[place:]
        elif kind == 5:
            data = data[:place] + data[max(0, place - 1 - number % 200) :]
        elif kind == 6:
            data = data[:place]
        else:  # of text: a number, a word, or a value of JSON is another one
            tokens = list(_TOKEN.finditer(data[:100_000]))
            if tokens:
                token = tokens[where % len(tokens)]
                data = data[: token.start()] + _TOKENS[number % len(_TOKENS)] + data[token.end() :]
    return data
