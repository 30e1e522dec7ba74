"""A sound file, or samples -> float32 waveform, mono, 16 kHz, -1..1."""

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

RATE = 16_000
WINDOW = (
    4 * RATE
)  # a longer clip is cut at random in training and becomes several windows in evaluation
LOWEST = 100  # Hz: below, there is nothing to hear, and a few bytes become minutes of sound
HOURS = (
    4  # a longer clip is refused: its header lies about its rate or length, or it needs gigabytes
)


def read_audio(source: Any, rate: int | None = None) -> Tensor:
    """A path, or samples at ``rate`` Hz (16,000 unless told; (L,), (L, channels) or (channels, L),
    float or integer) -> (L,) float32.

    A file is opened by what it holds, not by its name: MP3 data in a .wav file is read. Channels
    are averaged. Raises ValueError with the reason: no sound file, no samples, over 4 hours, below
    100 Hz, NaN.
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
        raise ValueError(f"not a sound file that can be read ({reason})") from error
    except ValueError:
        raise
    except Exception as error:  # a decoder may raise anything
        reason = str(error) or type(error).__name__
        raise ValueError(f"the clip cannot be decoded ({reason})") from error


class _File(io.BufferedReader):
    """A file in which a damaged header may send libsndfile to a place that does not exist.

    An error inside its calls would be printed, not raised.
    """

    def seek(self, offset: int, whence: int = 0, /) -> int:
        """The place reached: where there is no such place, the one before."""
        try:
            return super().seek(offset, whence)
        except (OSError, ValueError, OverflowError):
            return self.tell()


class _Quiet:
    """While a thread is in this block, nothing reaches the standard error of the process.

    libmpg123 writes its notes there, without the name of the file.
    """

    def __init__(self) -> None:
        self.lock, self.inside, self.kept = threading.Lock(), 0, -1

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


def _quiet(file: io.BufferedReader) -> AbstractContextManager:
    """``_QUIET`` for an MPEG stream, which alone makes notes; other files need no such thing."""
    start = file.peek(3)[:3]
    mpeg = start == b"ID3" or (start[:1] == b"\xff" and start[1:2] >= b"\xe0")
    return _QUIET if mpeg and sys.__stderr__ is not None else nullcontext()


def _to_mono(samples: np.ndarray, rate: int) -> Tensor:
    """(L, channels) at ``rate`` -> (L',) float32 at 16 kHz."""
    if samples.size == 0:
        raise ValueError("the clip is empty: no samples")
    _check_length(len(samples), rate)
    with np.errstate(over="ignore", invalid="ignore"):  # told below, in words
        mono = _resample(samples.mean(axis=1, dtype=np.float32), rate)  # (L, channels) -> (L,)
    if not np.isfinite(mono).all():
        raise ValueError("the clip has NaN, infinity or far too large numbers in it")
    return torch.from_numpy(np.clip(mono, -1, 1).astype(np.float32, copy=False))


def seconds(path: str | Path) -> float:
    """Length of a sound file, from its header where it has one; ValueError where it is no sound
    file.
    """
    info = read_header(path)
    return info.frames / info.samplerate


def read_header(path: str | Path) -> Any:
    """soundfile's info of a sound file: format, subtype, samplerate, channels, frames;
    ValueError where it is none.
    """
    import soundfile

    try:
        with _File(io.FileIO(path)) as file, _quiet(file):
            return soundfile.info(file)
    except Exception as error:  # as in ``read_audio``
        reason = str(error) or type(error).__name__
        raise ValueError(f"not a sound file that can be read ({reason})") from error


def _read_file(path: str | Path) -> tuple[np.ndarray, int]:
    import soundfile

    # a file object has no name to be misled by
    with _File(io.FileIO(path)) as file, _quiet(file), soundfile.SoundFile(file) as sound:
        _check_length(sound.frames, sound.samplerate)
        return sound.read(dtype="float32", always_2d=True), sound.samplerate


def _check_length(frames: int, rate: int) -> None:
    if not LOWEST <= rate <= 10_000_000:
        raise ValueError(f"sample rate {rate} Hz, expected {LOWEST} to 10,000,000")
    if frames > HOURS * 3600 * rate:
        raise ValueError(
            f"the clip lasts {frames / rate / 3600:,.0f} hours at {rate} Hz, expected at most "
            f"{HOURS}: "
            "correct the rate or the length in its header, or cut it into pieces"
        )


def _from_array(source: Any) -> np.ndarray:
    """-> (L, channels) float32; integers are scaled by their full range."""
    samples = source.detach().cpu().numpy() if isinstance(source, Tensor) else np.asarray(source)
    if samples.ndim not in (1, 2) or samples.dtype.kind not in "fiu":
        raise ValueError(
            f"sound of shape {samples.shape} and type {samples.dtype}, "
            "expected numbers of shape (L,), (L, channels) or (channels, L)"
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
    """(L,) at ``rate`` -> 16 kHz by a polyphase filter that removes what would alias."""
    if rate == RATE:
        return x
    from scipy.signal import resample_poly

    ratio = Fraction(RATE, rate).limit_denominator(
        1000
    )  # 11,127 Hz asks for 16000/11127: a near fraction is off by under one in a million
    if ratio == 0:
        raise ValueError(f"sample rate {rate} Hz is too high to bring to {RATE}")
    return resample_poly(
        x,
        ratio.numerator,
        ratio.denominator,
        window=_filter(max(ratio.numerator, ratio.denominator)),
    )


@lru_cache(maxsize=32)
def _filter(longer: int) -> np.ndarray:
    """The low-pass that scipy would design anew for every clip: it depends on the larger side of
    the ratio only.
    """
    from scipy.signal import firwin

    return firwin(20 * longer + 1, 1 / longer, window=("kaiser", 5.0)).astype(np.float32)
