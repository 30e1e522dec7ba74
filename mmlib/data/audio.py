"""An audio file, or samples -> float32 waveform, mono, 16 kHz, -1..1."""

import io
import os
import sys
import threading
from contextlib import AbstractContextManager, nullcontext
from fractions import Fraction
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

RATE = 16_000  # samples a second, of every waveform in a batch
# a longer clip is cut at random in training and becomes several windows in evaluation
WINDOW = 4 * RATE
LOWEST, HIGHEST = 100, 10_000_000  # Hz: below, a few bytes would become minutes of audio
# a longer clip is refused: its header gives a wrong rate or length, or it needs gigabytes
HOURS = 4
# on Windows libsndfile brings a C library of its own, which does not know Python's descriptors
BY_DESCRIPTOR = sys.platform != "win32"


def read_audio(source: Any, rate: int | None = None) -> Tensor:
    """Read an audio file, or samples -> waveform (L,) float32 at 16 kHz in -1..1.

    Samples are (L,), (L, channels) or (channels, L), float or integer, at ``rate`` Hz (16,000 by
    default). Channels are averaged. A file is recognised by what it holds, not by its name: MP3
    data in a .wav file is read. Raises ValueError with the reason: not an audio file, no samples,
    over 4 hours, below 100 Hz, NaN.

    >>> read_audio([[0.5, 0.1], [0.3, 0.1]])  # two samples of two channels
    tensor([0.3000, 0.2000])
    >>> read_audio(np.zeros(8_000, np.int16), rate=8_000).shape  # one second
    torch.Size([16000])
    """
    if not isinstance(source, (str, Path)):
        return _to_mono(_from_array(source), RATE if rate is None else rate)
    if Path(source).stat().st_size == 0:
        raise ValueError("the file is empty (0 bytes)")
    import soundfile

    try:
        return _to_mono(*_read_file(source))
    except MemoryError as error:
        raise ValueError("the clip does not fit into memory") from error
    except (OSError, soundfile.SoundFileError) as error:
        reason = str(error).rpartition(": ")[2]
        raise ValueError(f"not an audio file that can be read ({reason})") from error
    except ValueError:
        raise
    except Exception as error:  # a decoder may raise anything
        reason = str(error) or type(error).__name__
        raise ValueError(f"the clip cannot be decoded ({reason})") from error


class _File(io.BufferedReader):
    """A file in which a damaged header may send libsndfile to a place that does not exist.

    An error raised inside its calls would be printed only, so none is raised there.
    """

    def seek(self, offset: int, whence: int = 0, /) -> int:
        """The place reached; where there is no such place, the file stays where it is."""
        try:
            return super().seek(offset, whence)
        except (OSError, ValueError, OverflowError):
            return self.tell()


class _Quiet:
    """While a thread is in this block, nothing reaches the standard error of the process.

    libmpg123 writes its notes there, without the name of the file.
    """

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.inside = 0  # threads in the block
        self.kept = -1  # a copy of the standard error

    def __enter__(self) -> None:
        with self.lock:
            self.inside += 1
            if self.inside == 1:
                self.kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
                os.dup2(nowhere, 2)
                os.close(nowhere)

    def __exit__(self, *_: object) -> None:
        with self.lock:
            self.inside -= 1
            if self.inside == 0:
                os.dup2(self.kept, 2)
                os.close(self.kept)


_QUIET = _Quiet()


def _quiet(file: io.BufferedReader) -> AbstractContextManager[object]:
    """``_QUIET`` for an MPEG stream: only its decoder writes notes."""
    start = file.peek(3)[:3]
    mpeg = start == b"ID3" or (start[:1] == b"\xff" and start[1:2] >= b"\xe0")
    return _QUIET if mpeg and sys.__stderr__ is not None else nullcontext()


def _to_mono(samples: np.ndarray, rate: int) -> Tensor:
    """(L, channels) at ``rate`` -> (L',) float32 at 16 kHz."""
    if samples.size == 0:
        raise ValueError("the clip is empty: no samples")
    _check_length(len(samples), rate)
    with np.errstate(over="ignore", invalid="ignore"):  # reported below, in words
        one = samples.shape[1] == 1  # its mean is itself
        mono = samples[:, 0] if one else samples.mean(axis=1, dtype=np.float32)  # (L,)
        mono = _resample(mono, rate)
    if not np.isfinite(mono).all():
        raise ValueError("the clip has NaN, infinity or far too large numbers in it")
    return torch.from_numpy(np.clip(mono, -1, 1).astype(np.float32, copy=False))


def seconds(path: str | Path) -> float:
    """Length of an audio file in seconds, from its header where it has one.

    Raises ValueError where it is not an audio file.
    """
    info = read_header(path)
    return info.frames / info.samplerate


def read_header(path: str | Path) -> Any:
    """soundfile's info of an audio file: format, subtype, samplerate, channels, frames.

    Raises ValueError where it is not an audio file.
    """
    import soundfile

    try:
        with _File(io.FileIO(path)) as file, _quiet(file):
            return soundfile.info(file)
    except Exception as error:  # as in ``read_audio``
        reason = str(error) or type(error).__name__
        raise ValueError(f"not an audio file that can be read ({reason})") from error


def _read_file(path: str | Path) -> tuple[np.ndarray, int]:
    with _File(io.FileIO(path)) as file, _quiet(file), _open(file) as audio:
        _check_length(audio.frames, audio.samplerate)
        return audio.read(dtype="float32", always_2d=True), audio.samplerate


def _open(file: _File) -> Any:
    """soundfile's SoundFile of an open file: soundfile would choose the decoder of a path by name.

    Given a descriptor, libsndfile reads by itself; given a file object, it calls Python for that.
    """
    import soundfile

    if not BY_DESCRIPTOR:
        return soundfile.SoundFile(file)
    os.lseek(file.fileno(), 0, os.SEEK_SET)  # ``_quiet`` has read ahead
    return soundfile.SoundFile(file.fileno(), "r", closefd=False)


def _check_length(frames: int, rate: int) -> None:
    if not LOWEST <= rate <= HIGHEST:
        raise ValueError(f"sample rate {rate} Hz, expected {LOWEST} to {HIGHEST:,}")
    if frames > HOURS * 3600 * rate:
        raise ValueError(
            f"the clip lasts {frames / rate / 3600:,.0f} hours at {rate} Hz, expected at most "
            f"{HOURS}: correct the rate or the length in its header, or cut it into pieces"
        )


def _from_array(source: Any) -> np.ndarray:
    """-> (L, channels) float32; integers are scaled by their full range."""
    samples = source.detach().cpu().numpy() if isinstance(source, Tensor) else np.asarray(source)
    if samples.ndim not in (1, 2) or samples.dtype.kind not in "fiu":
        raise ValueError(
            f"audio of shape {samples.shape} and type {samples.dtype}, expected numbers of shape "
            "(L,), (L, channels) or (channels, L)"
        )
    if samples.dtype.kind == "u":
        samples = samples.astype(np.float64) / (np.iinfo(samples.dtype).max / 2) - 1
    elif samples.dtype.kind == "i":
        samples = samples.astype(np.float64) / -float(np.iinfo(samples.dtype).min)
    if samples.ndim == 1:
        samples = samples[:, None]
    if samples.shape[0] < samples.shape[1]:
        samples = samples.T
    return samples.astype(np.float32, copy=False)


def _resample(x: np.ndarray, rate: int) -> np.ndarray:
    """(L,) at ``rate`` -> (L',) at 16 kHz, by a polyphase filter that removes what would alias."""
    if rate == RATE:
        return x
    from scipy.signal import resample_poly

    # 11,127 Hz asks for 16000/11127: a near fraction is off by under one in a million
    ratio = Fraction(RATE, rate).limit_denominator(1000)
    up, down = ratio.numerator, ratio.denominator
    if up == 0:
        raise ValueError(f"sample rate {rate} Hz is too high to bring to {RATE}")
    return resample_poly(x, up, down, window=_filter(max(up, down)))


@lru_cache(maxsize=32)
def _filter(longer: int) -> np.ndarray:
    """The low-pass filter of ``resample_poly``, which would design it again for every clip.

    It depends only on the larger side of the ratio.
    """
    from scipy.signal import firwin

    return firwin(20 * longer + 1, 1 / longer, window=("kaiser", 5.0)).astype(np.float32)
