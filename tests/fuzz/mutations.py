"""Damage to bytes, to JSON and to lines of JSON: a pure function of what it is given.

Every function takes a ``random.Random``; the same seed gives the same damage, on every machine.
"""

import copy
import json
import struct

# What a header may claim, by the number of its bytes.
EXTREMES = (0, 1, 2, 127, 128, 255, 256, 2**15 - 1, 2**15, 2**16 - 1, 2**31 - 1, 2**31, 2**32 - 1)
EXTREMES = (*EXTREMES, 2**40, 2**63 - 1, 2**63, 2**64 - 1)
# Pieces that mean something to one reader or another.
WORDS = (b"NaN", b"-Infinity", b"1e999", b"9" * 400, b"9" * 5000, b'"', b"{", b"]", b"\0", b"\n")
WORDS = (*WORDS, b"\xff\xfe", b"\xef\xbb\xbf", b"\xed\xa0\x80", b"\\ud800", b"PK\x05\x06")
WORDS = (*WORDS, b"\x93NUMPY\x01\0", b"'<f8'", b"'|O'", b"'<i8'", b"(4611686018427387904,)", b"-1")


def _anywhere(data, random):
    # Headers are at the beginning, and of a zip file at the end.
    n = len(data)
    at = random.choice((random.randrange(n + 1), random.randrange(min(n, 64) + 1)))
    return random.choice((at, at, n - at))


def _range(data, random):
    start = _anywhere(data, random)
    return start, min(len(data), start + random.choice((1, 2, 4, 8, 16, 64, 256, 1024)))


def _flip_a_bit(data, random, other):
    at = min(_anywhere(data, random), len(data) - 1)
    data[at] ^= 1 << random.randrange(8)


def _change_bytes(data, random, other):
    start, end = _range(data, random)
    data[start:end] = random.randbytes(end - start)


def _cut(data, random, other):
    del data[_anywhere(data, random) :]


def _cut_the_start(data, random, other):
    del data[: _anywhere(data, random)]


def _insert(data, random, other):
    at = _anywhere(data, random)
    data[at:at] = random.randbytes(random.choice((1, 2, 7, 64)))


def _insert_a_word(data, random, other):
    start, end = _range(data, random)
    data[start : random.choice((start, end))] = random.choice(WORDS)


def _drop(data, random, other):
    start, end = _range(data, random)
    del data[start:end]


def _repeat(data, random, other):
    start, end = _range(data, random)
    data[start:start] = bytes(data[start:end]) * random.choice((1, 2, 100))


def _swap(data, random, other):
    (a, b), (c, d) = sorted((_range(data, random), _range(data, random)))
    if b <= c:
        data[a:d] = data[c:d] + data[b:c] + data[a:b]


def _zero(data, random, other):
    start, end = _range(data, random)
    data[start:end] = bytes(end - start)


def _claim(data, random, other):
    """An extreme number, in either order of bytes, as it may stand in a header."""
    kind = random.choice("BHIQ")
    value = random.choice(EXTREMES) % 2 ** (8 * struct.calcsize(kind))
    packed = struct.pack(random.choice("<>") + kind, value)
    at = _anywhere(data, random)
    data[at : at + len(packed)] = packed


def _claim_digits(data, random, other):
    """Another number where the text has one."""
    digits = [i for i, byte in enumerate(data) if 48 <= byte <= 57]
    if digits:
        at = random.choice(digits)
        data[at : at + 1] = str(random.choice(EXTREMES)).encode()


def _join(data, random, other):
    data += bytes(random.choice((data, other)))


def _splice(data, random, other):
    at = _anywhere(data, random)
    data[at:] = other[min(_anywhere(other, random), at) :]


OPERATIONS = (
    _flip_a_bit,
    _flip_a_bit,
    _change_bytes,
    _cut,
    _cut_the_start,
    _insert,
    _insert_a_word,
    _drop,
    _repeat,
    _swap,
    _zero,
    _claim,
    _claim,
    _claim_digits,
    _join,
    _splice,
)


def mutate_bytes(data, random, other=b""):
    """Damaged bytes.

    Args:
      data: what was whole.
      random: a ``random.Random``.
      other: another file, for what puts two together.

    Returns:
      bytes after one to four operations; they may be the same.
    """
    damaged = bytearray(data)
    for _ in range(random.choice((1, 1, 1, 2, 4))):
        if damaged:
            random.choice(OPERATIONS)(damaged, random, other or data)
    return bytes(damaged)


# --- JSON ----------------------------------------------------------------------------------


class Pairs(list):
    """A JSON object as a list of (key, value): a key may come twice."""


class Raw(str):
    """Text that is written as it is."""


RAW = ("NaN", "Infinity", "-Infinity", "1e999", "-1e999", "1e-999", "-0", "-0.0", "1E5", "0.1e1")
RAW = (*RAW, "9" * 400, "-" + "9" * 400, "9" * 5000, "1" + "0" * 4000, "01", "+1", "tru", "")
RAW = (*RAW, '"\\ud800"', '"\\udfff\\ud800"', '"\ud800"', '"\\u0000"', '"a\\nb\\r\\nc"', '"\n"')
RAW = (*RAW, '"unclosed', "[" * 100_000, '{"a":' * 100_000, "[" * 900 + "]" * 900, "//x", "'x'")
RAW = (*RAW, '"' + "x" * 100_000 + '"', "[" + "7," * 10_000 + "7]")
VALUES = (None, True, False, 0, 1, -1, 2, 0.5, -0.5, 1e300, 2**31, 2**32, 2**63, 2**64, -(2**63))
VALUES = (*VALUES, 10**18, "", "x", "0", "1", "cnn", "auto", "null", "\0", "\u2028", "\x1b[31m")
VALUES = (*VALUES, "é", "\U0001f600", "../../etc", "a\nb", "9" * 5000, "nan", "²", [], [0], ["x"])
VALUES = (*VALUES, [[]], [None], [-1], [2**64], [1.5], list(range(100)), Pairs(), Pairs([("a", 1)]))
VALUES = (*VALUES, Pairs([("", None)]), Pairs([("config", Pairs())]))


def _dump(value):
    if isinstance(value, Raw):
        return str(value)
    if isinstance(value, Pairs):
        return "{" + ", ".join(f"{_dump(key)}: {_dump(v)}" for key, v in value) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_dump, value)) + "]"
    return json.dumps(value)


def _places(value, found):
    """(container, index) of every value, outside first."""
    for i, entry in enumerate(value):
        inner = entry[1] if isinstance(value, Pairs) else entry
        found.append((value, i))
        if isinstance(inner, list):
            _places(inner, found)
    return found


def _get(place):
    container, i = place
    return container[i][1] if isinstance(container, Pairs) else container[i]


def _put(place, value):
    container, i = place
    container[i] = (container[i][0], value) if isinstance(container, Pairs) else value


def _another(value, random):
    if random.random() < 0.4:
        return Raw(random.choice(RAW))
    if type(value) in (int, float) and random.random() < 0.5:
        change = random.choice((lambda v: -v, lambda v: v + 1, lambda v: v * 10**9, float, str))
        return change(value)
    return copy.deepcopy(random.choice(VALUES))  # the next operation may change it


def _mutate_tree(root, random):
    """Changes a tree in place, once; the root is in a list of one."""
    places = _places(root, [])
    place = random.choice(places)
    value = _get(place)
    container, i = place
    action = random.choice(("change", "change", "change", "drop", "add", "double", "move", "wrap"))
    if action == "change":
        _put(place, _another(value, random))
    elif action == "drop" and container is not root:
        del container[i]
    elif action == "add" and container is not root:
        new = _another(value, random)
        key = random.choice(
            ("", "x", "seed ", "Seed", "\0", "a\nb", "x" * 10_000, Raw('"\\ud800"'))
        )
        container.insert(i, (key, new) if isinstance(container, Pairs) else new)
    elif action == "double" and isinstance(container, Pairs):
        container.append((container[i][0], random.choice((value, _another(value, random)))))
    elif action == "move":
        _put(place, copy.deepcopy(_get(random.choice(places))))
    elif action == "wrap":
        _put(place, random.choice(([value], Pairs([("x", value)]), _dump(value))))


def mutate_json(text, random):
    """JSON text with one to three of its values, keys or types changed.

    Args:
      text: what was whole.
      random: a ``random.Random``.

    Returns:
      str, seldom of JSON that a strict reader takes; it may hold lone surrogates.
    """
    root = [json.loads(text, object_pairs_hook=Pairs)]
    for _ in range(random.choice((1, 1, 1, 2, 3))):
        _mutate_tree(root, random)
    return _dump(root[0])


def mutate_lines(text, random):
    """Lines of JSON: one of them mutated, dropped, repeated, moved, cut or joined to the next."""
    lines = text.splitlines(keepends=True)
    for _ in range(random.choice((1, 1, 2))):
        if not lines:
            break
        i = random.randrange(len(lines))
        action = random.choice(("json", "json", "json", "drop", "repeat", "move", "cut", "join"))
        if action == "json":
            lines[i] = _json_or_same(lines[i], random)
        elif action == "drop":
            del lines[i]
        elif action == "repeat":
            lines.insert(i, lines[i])
        elif action == "move":
            lines.insert(random.randrange(len(lines)), lines.pop(i))
        elif action == "cut":
            lines[i] = lines[i][: random.randrange(len(lines[i]))]
        elif action == "join":
            lines[i] = lines[i].rstrip("\n")
    return "".join(lines)


def _json_or_same(line, random):
    try:
        return mutate_json(line, random) + "\n"
    except (ValueError, RecursionError):  # mutated before
        return line


def encode(text):
    """UTF-8; a lone surrogate becomes the three bytes that no decoder takes."""
    return text.encode("utf-8", "surrogatepass")
