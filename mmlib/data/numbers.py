"""Which cells are numbers, and which were meant to be: decimal commas, units, one NA among 300."""

import re
from collections.abc import Sequence

_NUMBER = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?")
_DECIMAL_COMMA = re.compile(r"[-+]?\d*,\d+([eE][-+]?\d+)?")
_THOUSANDS = re.compile(r"[-+]?\d{1,3}([,.' ]\d{3})+([.,]\d+)?")
_UNIT = re.compile(r"(?P<before>[^\w\s.,+-]?)\s*(?P<number>[-+]?[\d.,' ]*\d)\s*(?P<after>[^\d]*)")
_MISSING = {"na", "n/a", "#n/a", "nan", "nil", "none", "null", "unknown", "missing", "inf", "-inf"}
_ODD_SPACES = dict.fromkeys(map(ord, "\u00a0\u2007\u2009\u202f"), " ") | {0x2212: "-", 0x2019: "'"}
LARGEST = 1e37  # of numbers: beyond, they and their differences are infinite in float32
LEAST_DOTS = 10  # cells with a dot, to tell thousands from decimals
LONGEST_UNIT, MOST_UNITS = 12, 3  # letters of a unit; different units of a column of numbers
HALF, NEARLY_ALL = 0.5, 0.9  # shares of the cells that are numbers, however they are written


def is_number(text: str) -> bool:
    """Whether a cell is a number that float32 can hold: 7, -0.5 or 1e3, but not 1_000 or NaN.

    >>> [is_number(cell) for cell in ("7", "-0.5", "1e3", "3,5", "5 kg", "NA")]
    [True, True, True, False, False, False]
    """
    return _NUMBER.fullmatch(text) is not None and abs(float(text)) < LARGEST


def continuous(numbers: Sequence[float], rows: int) -> bool:
    """Whether numbers in so many rows measure something, and do not only name a few classes.

    Some are not whole, or there are over 20 different ones that make over 5% of the rows.
    """
    whole = all(number.is_integer() for number in numbers)
    return not whole or len(set(numbers)) > max(20, 0.05 * rows)


def not_numbers(cells: Sequence[str], surely: bool = False, few: bool = False) -> dict[int, str]:
    """By place, what is wrong with each cell that keeps these cells from all being numbers.

    Nothing where they are names. Cells are numbers when ``surely``, or when a person would read so
    half of them, and those numbers are ``continuous``; with ``few``, also when nine in ten of them
    are numbers, however few different ones.

    >>> not_numbers(["1.5", "2,5", "7 kg", "NA"])[1]
    'a decimal comma: write 2.5'
    >>> not_numbers(["1.5", "2,5", "7 kg", "NA"])[2]
    "a number with 'kg': write 7 in every row, and the unit into the column's name"
    >>> not_numbers(["a", "b", "7"])
    {}
    """
    odd = {i: _read(cell) for i, cell in enumerate(cells) if not is_number(cell)}
    odd |= _dots_between_thousands(cells)
    units = {unit for _, unit, _ in odd.values() if unit}
    if len(units) > MOST_UNITS:  # names that begin or end with a number
        odd = {
            i: _strange(cells[i]) if unit else (x, unit, why) for i, (x, unit, why) in odd.items()
        }
    numbers = [float(cell) for i, cell in enumerate(cells) if i not in odd]
    numbers += [number for number, _, _ in odd.values() if number is not None]
    judged = sum(cell.lower() not in _MISSING for cell in cells)
    share = len(numbers) / max(1, judged)
    meant = share >= HALF and continuous(numbers, len(cells)) or few and share >= NEARLY_ALL
    if not surely and not (numbers and meant):
        return {}
    return {i: why for i, (_, _, why) in odd.items()}


def _read(cell: str) -> tuple[float | None, str, str]:
    """The number that a person reads in a cell that is none, its unit, and what is wrong."""
    plain = " ".join(cell.translate(_ODD_SPACES).split())
    if is_number(plain):
        return float(plain), "", f"a sign or space of another kind: write {plain}"
    if _DECIMAL_COMMA.fullmatch(plain):
        written = plain.replace(",", ".")
        also = f", or {plain.replace(',', '')} if the comma marks thousands"
        why = f"a decimal comma: write {written}{also * bool(_THOUSANDS.fullmatch(plain))}"
        return float(written), "", why
    if _THOUSANDS.fullmatch(plain):
        number = _without_thousands(plain)
        return float(number), "", f"marks between thousands: write {number}"
    found = _UNIT.fullmatch(plain)
    unit = "" if found is None else found["before"] + found["after"]
    if found is None or not 0 < len(unit) <= LONGEST_UNIT:
        return _strange(cell)
    inner = found["number"]
    read = float(inner) if is_number(inner) else _read(inner)[0]
    if read is None:
        return _strange(cell)
    cure = f"write {read:.10g} in every row, and the unit into the column's name"
    why = f"a number with {unit!r}: {cure}"
    return read, unit, why


def _dots_between_thousands(cells: Sequence[str]) -> dict[int, tuple[float | None, str, str]]:
    """As ``_read``, cells such as 1.234 beside 987: there a dot marks thousands.

    The sign is that every dot has one to three digits before it and three behind it, and that no
    number without a dot reaches 1,000.
    """
    dotted = [i for i, cell in enumerate(cells) if "." in cell]
    whole = [abs(int(cell)) for cell in cells if re.fullmatch(r"[-+]?\d+", cell)]
    marked = all(re.fullmatch(r"[-+]?[1-9]\d{0,2}\.\d{3}", cells[i]) for i in dotted)
    if len(dotted) < LEAST_DOTS or not whole or max(whole) >= 1000 or not marked:
        return {}
    why = "a dot that seems to mark thousands: write {} (if it is a decimal point, write {}0)"
    return {
        i: (float(cells[i]), "", why.format(cells[i].replace(".", ""), cells[i])) for i in dotted
    }


def _without_thousands(text: str) -> str:
    """The last mark is a decimal point where it is another one than the first."""
    marks = re.findall(r"[,.' ]", text)
    if len(set(marks)) == 1:
        return re.sub(r"[,.' ]", "", text)
    whole, fraction = text.rsplit(marks[-1], 1)
    return re.sub(r"[,.' ]", "", whole) + "." + fraction


def _strange(cell: str) -> tuple[None, str, str]:
    large = _NUMBER.fullmatch(cell) is not None
    return None, "", f"too large: at most {LARGEST:g}" if large else "not a number"
