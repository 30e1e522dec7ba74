"""Is a sound file whole? What its header promises is compared with the bytes that are there.

Decoders do not ask: they read a WAV file that is cut off as a shorter clip.
"""

import os
import struct
from pathlib import Path
from typing import BinaryIO, NamedTuple

SPARE = 64  # bytes that may be missing: some writers count the header among the samples
UNKNOWN = 0x7FFF_0000  # from here on, a 32-bit size says "not known": it was written to a pipe
PAGE = 65_307  # bytes of the longest Ogg page
LAST = 0x04  # flag of an Ogg page: its stream ends here


class _Layout(NamedTuple):
    """How a format lays out its chunks: an id of four bytes, a size, the content."""

    first: int  # where the first chunk begins
    size: str  # of a chunk, for ``struct``
    even: bool  # a chunk of odd length is followed by a byte


LAYOUTS = {
    b"RIFF": _Layout(12, "<I", True),
    b"RIFX": _Layout(12, ">I", True),
    b"RF64": _Layout(12, "<I", True),
    b"FORM": _Layout(12, ">I", True),  # AIFF, AIFC, 8SVX
    b"caff": _Layout(8, ">q", False),
}
SAMPLES = (b"data", b"SSND", b"BODY")  # the ids of the chunk with the samples


def check_whole(path: str | Path) -> None:
    """Raise ValueError where a sound file ends before its header says so.

    Known are WAV, RF64, AIFF, CAF, AU and Ogg. A file of another format, or of a header that states
    no length, is taken as it is; FLAC and MP3 are checked as they are decoded.
    """
    with open(path, "rb") as file:
        kind, size = file.read(4), os.fstat(file.fileno()).st_size
        if kind == b"OggS":
            _check_last_page(file, size)
            return
        begin, promised = _find_samples(file, kind)
    there = max(0, size - begin)
    if promised - SPARE > there:
        raise ValueError(
            f"the file is cut off: its header promises {promised:,} bytes of samples, and it has "
            f"{there:,}; get it again, or write what is left to a new file"
        )


def states_length(path: str | Path) -> bool:
    """Whether an MP3 file says how long it is, in a header in its first frame.

    Without one, libsndfile only guesses its number of samples.
    """
    with open(path, "rb") as file:
        head = file.read(10)
        if head[:3] == b"ID3" and len(head) == 10:  # tags before the first frame, with their size
            size = sum(byte << shift for byte, shift in zip(head[6:], (21, 14, 7, 0), strict=True))
            file.seek(10 + size)
        else:
            file.seek(0)
        frame = file.read(2048)
    return any(name in frame for name in (b"Xing", b"Info", b"VBRI"))


def _find_samples(file: BinaryIO, kind: bytes) -> tuple[int, int]:
    """Where the samples begin, and how many bytes the header promises; 0 where it does not say."""
    if kind == b".snd":  # AU
        begin, promised = struct.unpack(">II", file.read(8).ljust(8, b"\0"))
        return (begin, promised) if promised < UNKNOWN else (0, 0)
    if kind not in LAYOUTS:
        return 0, 0
    begin, size, even = LAYOUTS[kind]
    width = 4 + struct.calcsize(size)
    long = 0  # RF64 has the size of its samples in a chunk before
    while True:
        file.seek(begin)
        head = file.read(width)
        if len(head) < width:
            return 0, 0
        name, (count,) = head[:4], struct.unpack(size, head[4:])
        begin += width
        if name in SAMPLES:
            known = kind == b"caff" or count < UNKNOWN
            return begin, count if known else long
        if name == b"ds64":
            long = struct.unpack("<8xQ", file.read(16).ljust(16, b"\0"))[0]
        if count < 0:  # damaged
            return 0, 0
        begin += count + (count % 2 if even else 0)


def _check_last_page(file: BinaryIO, size: int) -> None:
    """Raise ValueError where the last page of an Ogg file is not whole, or not marked as last."""
    file.seek(max(0, size - PAGE))
    end = file.read()
    page = end[max(0, end.rfind(b"OggS")) :]
    segments = page[26] if len(page) > 26 else 255  # their lengths follow, then their content
    whole = len(page) >= 27 + segments + sum(page[27 : 27 + segments])
    if page.startswith(b"OggS") and not (whole and page[5] & LAST):
        raise ValueError(
            "the file is cut off: its last page is not marked as the end of the stream; get it "
            "again, or write what is left to a new file"
        )
