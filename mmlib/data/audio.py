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

from mmlib.data.whole import check_whole, states_length

RATE = 16_000  # samples a second, of every waveform in a batch
# a longer clip is cut at random in training and becomes several windows in evaluation
WINDOW = 4 * RATE
LOWEST, HIGHEST = 100, 10_000_000  # Hz: below, a few bytes would become minutes of audio
# a longer clip is refused: its header gives a wrong rate or length, or it needs gigabytes
HOURS = 4
# on Windows libsndfile brings a C library of its own, which does not know Python's descriptors
BY_DESCRIPTOR = sys.platform != "win32"
BLOCK = 10_000_000  # numbers that are decoded at a time: a longer clip is read in blocks
LOUDEST = 4.0  # 12 dB over full scale: what is louder is in another scale, and not clipped
# From half a step of 16 bits (-96 dB) down to a step of 24 bits: neither heard nor silence.
FAINT, SILENT = 0.5 / 32767, 2.0**-24
SCALES = ("int8", "uint8", "int16", "uint16", "int32")  # of audio: their full range is -1..1


def read_audio(source: Any, rate: int | None = None) -> Tensor:
    """Read an audio file, or samples -> waveform (L,) float32 at 16 kHz in -1..1.

    Samples are (L,), (L, channels) or (channels, L), at ``rate`` Hz (16,000 by default): floats in
    -1..1, or integers of 8, 16 or 32 bits, scaled by their full range. Channels are averaged. A
    file is recognised by what it holds, not by its name: MP3 data in a .wav file is read. A little
    over full scale is clipped, as a player does.

    Raises ValueError with the reason: not an audio file, cut off, no samples, over 4 hours, below
    100 Hz, NaN, in another scale (far above 1, or so faint that 16 bits store silence), channels
    that cancel each other.

    >>> read_audio([[0.5, 0.1], [0.3, 0.1]])  # two samples of two channels
    tensor([0.3000, 0.2000])
    >>> read_audio(np.zeros(8_000, np.int16), rate=8_000).shape  # one second
    torch.Size([16000])
    """
    if not isinstance(source, (str, Path)):
        clip = _to_mono(_from_array(source), RATE if rate is None else rate)
        return clip.clone()  # never the caller's own memory
    if Path(source).stat().st_size == 0:
        raise ValueError("the file is empty (0 bytes)")
    import soundfile

    try:
        check_whole(source)
        return _read_file(source)
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
        mono = _mix(samples)
        _check_channels(samples, mono)
        return _in_range(_resample(mono, rate))


def _mix(samples: np.ndarray) -> np.ndarray:
    """(L, channels) -> (L,) float32, their mean; that of one channel is itself."""
    return samples[:, 0] if samples.shape[1] == 1 else samples.mean(axis=1, dtype=np.float32)


def _peak(samples: np.ndarray) -> float:
    """The largest magnitude; NaN where there is NaN."""
    return float(np.maximum(samples.max(initial=0), -samples.min(initial=0)))


def _check_channels(samples: np.ndarray, mono: np.ndarray) -> None:
    """Raise ValueError where of the channels (L, channels) next to nothing is left in their mean.

    That is a thousandth, -60 dB.
    """
    if samples.shape[1] > 1 and _peak(mono) < 1e-3 * _peak(samples):
        raise ValueError(
            "the channels cancel each other, so their mean is silence: one is inverted; turn its "
            "sign, or keep one channel"
        )


def _in_range(mono: np.ndarray) -> Tensor:
    """(L,) -> float32 in -1..1. Raises ValueError where it is in another scale."""
    peak = _peak(mono)
    if not np.isfinite(peak):
        raise ValueError("the clip has NaN, infinity or far too large numbers in it")
    if peak > LOUDEST:
        raise ValueError(
            f"samples up to {peak:,.6g}, expected -1..1: divide by the largest possible value "
            "(32,768 for 16 bits), or give integers"
        )
    if SILENT < peak < FAINT:
        raise ValueError(
            f"the loudest sample is at {20 * np.log10(peak):.0f} dB, which 16 bits store as "
            f"silence, expected at least {20 * np.log10(FAINT):.0f} dB: multiply it, or write zeros"
        )
    return torch.from_numpy((mono.clip(-1, 1) if peak > 1 else mono).astype(np.float32, copy=False))


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


def _read_file(path: str | Path) -> Tensor:
    with _File(io.FileIO(path)) as file, _quiet(file), _open(file) as audio:
        _check_length(audio.frames, audio.samplerate)
        if audio.frames * audio.channels > BLOCK:
            return _read_blocks(path, audio)
        samples = audio.read(dtype="float32", always_2d=True)
        _check_count(path, audio, len(samples))
        return _to_mono(samples, audio.samplerate)


def _check_count(path: str | Path, audio: Any, read: int) -> None:
    """Raise ValueError where a decoder found fewer samples than the header promises.

    An MP3 may end within its last granule of 576.
    """
    spare = min(576, audio.frames - 1) if audio.format == "MP3" else 0
    if read < audio.frames - spare and (audio.format != "MP3" or states_length(path)):
        raise ValueError(
            f"the file is cut off: its header promises {audio.frames:,} samples, and {read:,} can "
            "be decoded; get it again, or write what is left to a new file"
        )


def _read_blocks(path: str | Path, audio: Any) -> Tensor:
    """A long file -> (L',) float32 at 16 kHz, the same as at once, in the memory of the result.

    Each block is resampled together with what the filter reaches before and after it.
    """
    up, down = _ratio(audio.samplerate)
    margin = down * -(-(10 * max(up, down) + up) // (up * down))  # samples, a multiple of down
    out = np.zeros(-(-audio.frames * up // down), np.float32)
    held, begin, done, read = np.zeros(0, np.float32), 0, 0, 0  # held: samples begin..read
    while read < audio.frames:
        samples = audio.read(max(1, BLOCK // audio.channels), dtype="float32", always_2d=True)
        if not len(samples):
            break
        with np.errstate(over="ignore", invalid="ignore"):
            mono = _mix(samples)
            _check_channels(samples, mono)
            held, read = np.concatenate([held, mono]), read + len(samples)
            made = _resample(held, audio.samplerate)
        stop = read if read >= audio.frames else max(done, (read - margin) // down * down)
        first, last = (done - begin) * up // down, -(-(stop - begin) * up // down)
        out[done * up // down :][: last - first] = made[first:last]
        done, keep = stop, max(begin, stop - margin)
        held, begin = held[keep - begin :], keep
    _check_count(path, audio, read)
    return _in_range(out)


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
    """-> (L, channels) float32; integers are scaled by their full range.

    Raises ValueError for other shapes and types, and for numbers of 16 bits that are stored in 32.
    """
    samples = source.detach().cpu().numpy() if isinstance(source, Tensor) else np.asarray(source)
    if samples.ndim not in (1, 2) or samples.dtype.kind not in "fiu":
        raise ValueError(
            f"audio of shape {samples.shape} and type {samples.dtype}, expected numbers of shape "
            "(L,), (L, channels) or (channels, L)"
        )
    if samples.dtype.kind != "f" and samples.dtype.name not in SCALES:
        raise ValueError(
            f"samples of type {samples.dtype}, which says nothing about their scale: give int16 "
            "(astype(np.int16) of 16-bit numbers), int32, or floats in -1..1"
        )
    if samples.dtype == np.int32 and samples.any() and _peak(samples) < 2**15:
        raise ValueError(
            f"int32 samples up to {_peak(samples):,.0f}, expected up to 2,147,483,647: if they "
            "are of 16 bits, give samples.astype(np.int16)"
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

    up, down = _ratio(rate)
    return resample_poly(x, up, down, window=_filter(max(up, down)))


def _ratio(rate: int) -> tuple[int, int]:
    """16 kHz over ``rate``, in lowest terms."""
    # 11,127 Hz asks for 16000/11127: a near fraction is off by under one in a million
    ratio = Fraction(RATE, rate).limit_denominator(1000)
    if ratio.numerator == 0:
        raise ValueError(f"sample rate {rate} Hz is too high to bring to {RATE}")
    return ratio.numerator, ratio.denominator


@lru_cache(maxsize=32)
def _filter(longer: int) -> np.ndarray:
    """The low-pass filter of ``resample_poly``, which would design it again for every clip.

    It depends only on the larger side of the ratio.
    """
    from scipy.signal import firwin

    return firwin(20 * longer + 1, 1 / longer, window=("kaiser", 5.0)).astype(np.float32)
