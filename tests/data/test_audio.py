"""Audio of every kind becomes float32, mono, 16 kHz, and keeps its pitch and its loudness."""

import os
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

import mmlib.data.audio
from mmlib.data.audio import RATE, read_audio, seconds
from mmlib.data.augment import AUDIO_DRAWS, Augment, change_audio
from mmlib.data.store import to_int16


def tone(rate: int, hertz: float = 440, length: float = 0.5, loud: float = 0.5) -> np.ndarray:
    return (loud * np.sin(2 * np.pi * hertz * np.arange(round(rate * length)) / rate)).astype(
        np.float32
    )


def strongest(x: torch.Tensor) -> float:
    """The frequency with the most energy, in Hz."""
    return float(
        torch.fft.rfft(x * torch.hann_window(len(x)), n=1 << 17).abs().argmax() * RATE / (1 << 17)
    )


@pytest.mark.parametrize(
    "subtype",
    ["PCM_16", "PCM_24", "PCM_32", "PCM_U8", "FLOAT", "DOUBLE", "ALAW", "ULAW", "IMA_ADPCM"],
)
def test_every_wav_encoding_sounds_the_same(tmp_path, subtype):
    soundfile.write(tmp_path / "x.wav", tone(RATE), RATE, subtype=subtype)
    x = read_audio(tmp_path / "x.wav")
    assert x.dtype == torch.float32 and x.ndim == 1
    n = min(len(x), RATE // 2)
    assert abs(len(x) - RATE // 2) < 600  # ADPCM fills its last block
    assert (x[:n] - torch.from_numpy(tone(RATE))[:n]).abs().mean() < 0.02


@pytest.mark.parametrize("format", ["MP3", "FLAC", "OGG", "AIFF"])
def test_a_file_is_read_by_what_it_holds_not_by_its_name(tmp_path, format):
    soundfile.write(tmp_path / "x.bin", tone(44_100), 44_100, format=format)
    (tmp_path / "x.bin").rename(tmp_path / "x.wav")
    x = read_audio(tmp_path / "x.wav")
    assert abs(strongest(x) - 440) < 3 and abs(len(x) - RATE // 2) < 2500  # MP3 adds silence
    assert abs(seconds(tmp_path / "x.wav") - 0.5) < 0.2


@pytest.mark.parametrize(
    "rate", [8000, 11_025, 11_127, 16_000, 22_050, 32_000, 44_100, 48_000, 96_000]
)
def test_any_rate_comes_to_16_khz_with_its_pitch_length_and_loudness(rate):
    x = read_audio(tone(rate, 1000), rate)
    assert abs(len(x) - RATE / 2) <= 2
    assert abs(strongest(x) - 1000) < 1
    assert abs(x[1000:-1000].square().mean().sqrt() - 0.5 / 2**0.5) < 0.005


def test_resampling_agrees_with_torchaudio():
    from torchaudio.functional import resample

    random = np.random.default_rng(0)
    # little above 2 kHz
    slow = np.convolve(random.normal(size=22_050), np.hanning(32), mode="same").astype(np.float32)
    slow /= 2 * np.abs(slow).max()
    expected = resample(torch.from_numpy(slow), 22_050, RATE, lowpass_filter_width=64)
    torch.testing.assert_close(
        read_audio(slow, 22_050)[100:-100], expected[100:-100], atol=5e-3, rtol=0
    )


def test_what_would_alias_is_removed():
    heard = read_audio(tone(48_000, 11_000), 48_000)  # it would come back as 5 kHz
    assert heard[500:-500].abs().max() < 0.01


def test_channels_are_averaged(tmp_path):
    left, right = tone(RATE), np.zeros(RATE // 2, np.float32)
    soundfile.write(tmp_path / "x.wav", np.stack([left, right], axis=1), RATE)
    x = read_audio(tmp_path / "x.wav")
    torch.testing.assert_close(x, torch.from_numpy(left / 2), atol=1e-3, rtol=0)
    torch.testing.assert_close(
        read_audio(np.stack([left, right])), read_audio(np.stack([left, right], axis=1))
    )


def test_short_and_loud_clips(tmp_path):
    soundfile.write(tmp_path / "x.wav", tone(8000, length=0.05), 8000)
    assert len(read_audio(tmp_path / "x.wav")) == 800
    assert len(read_audio(np.array([0.5]))) == 1
    assert read_audio(tone(44_100, loud=3.0), 44_100).abs().max() == 1


def test_arrays_of_every_type_agree():
    expected = read_audio(tone(RATE))
    for source in (
        torch.from_numpy(tone(RATE)),
        tone(RATE).astype(np.float64),
        (tone(RATE) * 32768).round().astype(np.int16),
        ((tone(RATE) + 1) * 127.5).round().astype(np.uint8),
    ):
        torch.testing.assert_close(read_audio(source), expected, atol=0.005, rtol=0)


@pytest.mark.parametrize(
    "array, word",
    [
        (np.zeros(0), "empty"),
        (np.array([0.0, np.nan]), "NaN"),
        (np.array([np.inf]), "NaN"),
        (np.zeros((2, 2, 2)), "shape"),
        (np.array(["a"]), "type"),
    ],
)
def test_an_array_that_is_no_sound_is_refused_with_the_reason(array, word):
    with pytest.raises(ValueError, match=word):
        read_audio(array)


@pytest.mark.parametrize(
    "fault",
    [MemoryError(), RuntimeError("decoder"), TypeError(), OverflowError("too large")],
    ids=lambda fault: type(fault).__name__,
)
def test_whatever_a_sound_decoder_raises_is_a_reason(tmp_path, monkeypatch, fault):
    def read(*_, **__):
        raise fault

    soundfile.write(tmp_path / "x.wav", tone(RATE), RATE)
    for place, name in ((soundfile.SoundFile, "read"), (mmlib.data.audio, "_resample")):
        with monkeypatch.context() as patched, pytest.raises(ValueError) as caught:
            patched.setattr(place, name, read)
            read_audio(tmp_path / "x.wav")
        said = str(fault) or type(fault).__name__
        assert ("memory" if isinstance(fault, MemoryError) else said) in str(caught.value)


def test_a_header_that_sends_the_library_nowhere_makes_no_noise(tmp_path, capfd, monkeypatch):
    monkeypatch.setattr(sys, "unraisablehook", sys.__unraisablehook__)  # pytest has its own
    soundfile.write(tmp_path / "x.aiff", np.zeros(300), RATE)
    data = (tmp_path / "x.aiff").read_bytes()
    data = data[:38] + b"\xff" + data[39:]  # the size of the chunk of samples
    (tmp_path / "x.aiff").write_bytes(data)
    for read in (read_audio, seconds):
        try:
            read(tmp_path / "x.aiff")
        except ValueError:
            pass
    assert capfd.readouterr() == ("", "")


def test_notes_of_the_mpeg_decoder_reach_nobody_and_standard_error_is_there_again(tmp_path, capfd):
    soundfile.write(
        tmp_path / "x.mp3", np.random.default_rng(0).uniform(-0.9, 0.9, 3000), 48_000, format="MP3"
    )
    data = (tmp_path / "x.mp3").read_bytes()
    (tmp_path / "x.mp3").write_bytes(data[:500] + bytes(40) + data[900:])

    def read(_: int) -> None:
        try:
            read_audio(tmp_path / "x.mp3")
        except ValueError:
            pass

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(read, range(100)))
    os.write(2, b"here")
    assert capfd.readouterr() == ("", "here")


def test_a_clip_in_memory_is_off_by_half_a_step_of_16_bits_at_most():
    clip = torch.cat(
        [
            torch.empty(10_000).uniform_(-1, 1, generator=torch.Generator().manual_seed(0)),
            torch.tensor([-1.0, 0.0, 1.0]),
        ]
    )
    kept = to_int16(clip).double() / 32767
    assert (kept - clip).abs().max() <= 0.51 / 32767 and abs((kept - clip).mean()) * 32767 < 0.02
    assert to_int16(clip)[-3:].tolist() == [-32767, 0, 32767]


def test_each_clip_gets_noise_of_its_own_drawn_by_its_own_number_and_loud_as_asked():
    only = Augment(**{field.name: 0 for field in fields(Augment)} | {"noise": 0.1})
    x = torch.full((4, RATE), 0.5)
    lengths = torch.full((4,), RATE)
    u = torch.full((4, AUDIO_DRAWS), 0.5)
    u[:, 3] = torch.tensor([0.1, 0.7, 0.1, 0.0])  # from which place of the noise
    u[:, 4] = torch.tensor([1.0, 1.0, 0.5, 1.0])  # how loud
    noise = change_audio(x, lengths, u, only)[0] - x  # (4, L)
    alike = torch.corrcoef(noise).fill_diagonal_(0)
    assert alike[0, 2] > 0.999 and alike[[0, 0, 1, 1], [1, 3, 2, 3]].abs().max() < 0.05
    torch.testing.assert_close(noise.std(dim=1), 0.5 * 0.1 * u[:, 4], rtol=0.05, atol=0)


def test_broken_files_say_what_is_wrong(tmp_path):
    (tmp_path / "empty.wav").touch()
    (tmp_path / "text.wav").write_text("not a sound at all, however long this line may be" * 20)
    soundfile.write(tmp_path / "none.wav", np.zeros(0), RATE)
    soundfile.write(tmp_path / "nan.wav", np.array([0.1, np.nan, 0.1]), RATE, subtype="FLOAT")
    for name, word in {
        "empty": "0 bytes",
        "text": "not an audio file",
        "none": "no samples",
        "nan": "NaN",
    }.items():
        with pytest.raises(ValueError, match=word):
            read_audio(tmp_path / f"{name}.wav")
    with pytest.raises(ValueError, match="not an audio file"):
        seconds(tmp_path / "text.wav")
    with pytest.raises(ValueError, match="rate"):
        read_audio(tone(RATE), 0)


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("format", ["WAV", "FLAC", "OGG", "MP3", "AIFF"])
def test_a_descriptor_and_a_file_object_give_the_same_samples_or_refusal(
    tmp_path, monkeypatch, format, channels
):
    """Whole, cut off, with another byte in the header, behind junk. All descriptors are closed."""
    rng, file = np.random.default_rng(0), tmp_path / "x.wav"
    soundfile.write(file, rng.normal(0, 0.1, (3000, channels)), RATE, format=format)
    data = file.read_bytes()
    cut = [data[: int(len(data) * share)] for share in (0.001, 0.01, 0.5, 0.9)]
    changed = [data[:i] + bytes([rng.integers(256)]) + data[i + 1 :] for i in range(0, 60, 4)]
    opened = Path("/proc/self/fd")

    def outcome(by_descriptor: bool) -> bytes | str:
        monkeypatch.setattr(mmlib.data.audio, "BY_DESCRIPTOR", by_descriptor)
        try:
            return read_audio(file).numpy().tobytes()
        except ValueError as error:
            return str(error)

    before = len(list(opened.iterdir())) if opened.exists() else 0
    for content in [data, *cut, *changed, b"junk" + data]:
        file.write_bytes(content)
        assert outcome(True) == outcome(False)
    assert not opened.exists() or len(list(opened.iterdir())) == before


def test_one_channel_is_taken_as_it_is(tmp_path):
    samples = np.random.default_rng(0).normal(0, 0.1, 1000).astype(np.float32)
    soundfile.write(tmp_path / "x.wav", samples, RATE, subtype="FLOAT")
    for source in (samples, tmp_path / "x.wav"):
        assert read_audio(source).numpy().tobytes() == samples.tobytes()
    read_audio(samples).zero_()
    assert samples.any(), "what was given is not shared with what comes back"
