"""Sounds that a careless reader gets wrong: other scales, cut files, hours of many channels."""

import io
import tracemalloc

import numpy as np
import pytest
import soundfile
import torch

import mmlib.data.audio as audio
from mmlib.data.audio import RATE, read_audio
from mmlib.data.store import to_int16


def tone(loud=0.5, count=RATE):
    return loud * np.sin(2 * np.pi * 440 * np.arange(count) / RATE)


# ---- out of range


@pytest.mark.parametrize("channels", [1, 2])
def test_floats_in_the_scale_of_integers_are_refused_not_clipped(tmp_path, channels):
    loud = np.repeat(tone(12_000)[:, None], channels, axis=1)
    soundfile.write(tmp_path / "x.wav", loud, RATE, subtype="FLOAT")
    for source in (loud, loud.astype(np.float32), tmp_path / "x.wav"):
        with pytest.raises(ValueError, match=r"up to 12,?000.* -1\.\.1.*32,?768"):
            read_audio(source)


def test_a_little_over_full_scale_is_clipped_as_a_player_does():
    assert read_audio(tone(1.5)).abs().max() == 1


@pytest.mark.parametrize("kind", [np.int64, np.uint64, np.uint32])
def test_integers_without_a_scale_are_refused(kind):
    """np.array of a list of 16-bit samples is int64, whose full scale makes them silent."""
    with pytest.raises(ValueError, match=f"{kind.__name__}.*int16"):
        read_audio((tone(12_000) + 12_000).astype(kind))


def test_sixteen_bit_numbers_in_32_bits_are_refused_and_real_32_bits_are_read():
    with pytest.raises(ValueError, match=r"int32.*astype\(np\.int16\)"):
        read_audio(tone(12_000).astype(np.int32))
    torch.testing.assert_close(
        read_audio(tone(0.5 * 2**31).astype(np.int32)), read_audio(tone()), atol=1e-6, rtol=0
    )


@pytest.mark.parametrize("kind", [np.int16, np.int32, np.float32])
def test_silence_is_silence(kind):
    assert not read_audio(np.zeros(100, kind)).any()


def test_a_clip_that_16_bits_would_store_as_silence_is_refused(tmp_path):
    faint = tone(1e-5)  # -100 dB
    soundfile.write(tmp_path / "x.wav", faint, RATE, subtype="FLOAT")
    for source in (faint, tmp_path / "x.wav"):
        with pytest.raises(ValueError, match=r"-100 dB.*-96 dB"):
            read_audio(source)
    assert to_int16(read_audio(tone(2e-5))).any()


def test_channels_that_cancel_out_are_refused(tmp_path):
    inverted = np.stack([tone(), -tone()], axis=1)
    soundfile.write(tmp_path / "x.wav", inverted, RATE, subtype="FLOAT")
    for source in (inverted, tmp_path / "x.wav"):
        with pytest.raises(ValueError, match="channels cancel"):
            read_audio(source)
    half = np.stack([tone(), -tone(0.4)], axis=1)  # something is left
    assert 0.04 < read_audio(half).abs().max() < 0.06


# ---- cut off


def encoded(form, subtype=None, rate=RATE):
    random = np.random.default_rng(0)
    clip = np.clip(tone(0.3, 3 * RATE) + 0.05 * random.normal(size=3 * RATE), -1, 1)
    soundfile.write(file := io.BytesIO(), clip, rate, format=form, subtype=subtype)
    return file.getvalue()


KINDS = [
    ("WAV", "PCM_16"),
    ("WAV", "FLOAT"),
    ("WAV", "ALAW"),
    ("WAVEX", "PCM_16"),
    ("WAV", "IMA_ADPCM"),
    ("RF64", "PCM_16"),
    ("AIFF", "PCM_16"),
    ("AU", "PCM_16"),
    ("CAF", "PCM_16"),
    ("FLAC", None),
    ("OGG", "VORBIS"),
    ("OGG", "OPUS"),
    ("MP3", None),
]


@pytest.mark.parametrize("form, subtype", KINDS)
def test_a_file_cut_at_any_percent_is_refused_and_the_whole_is_read(tmp_path, form, subtype):
    data = encoded(form, subtype)
    path = tmp_path / "x.wav"
    path.write_bytes(data)
    assert len(read_audio(path)) > 2.9 * RATE
    for percent in range(1, 100):
        path.write_bytes(data[: len(data) * percent // 100])
        with pytest.raises(ValueError):
            read_audio(path)


def test_the_reason_says_how_much_is_missing(tmp_path):
    data = encoded("WAV", "PCM_16")
    (tmp_path / "x.wav").write_bytes(data[: len(data) // 2])
    with pytest.raises(ValueError, match=r"cut off: its header promises 96,000 bytes .* 47,9"):
        read_audio(tmp_path / "x.wav")


@pytest.mark.parametrize("size", [0xFFFFFFFF, 0x7FFFFFFF, 0x7FFFF000])
def test_a_wav_that_was_streamed_states_no_length_and_is_read(tmp_path, size):
    """A program that writes to a pipe cannot go back to fill in the length."""
    data = bytearray(encoded("WAV", "PCM_16"))
    place = data.index(b"data") + 4
    data[place : place + 4] = size.to_bytes(4, "little")
    (tmp_path / "x.wav").write_bytes(data)
    assert len(read_audio(tmp_path / "x.wav")) == 3 * RATE


def test_a_writer_that_counted_the_header_as_samples_is_forgiven(tmp_path):
    data = bytearray(encoded("WAV", "PCM_16"))
    place = data.index(b"data") + 4
    data[place : place + 4] = len(data).to_bytes(4, "little")
    (tmp_path / "x.wav").write_bytes(data)
    assert len(read_audio(tmp_path / "x.wav")) == 3 * RATE


def test_an_mp3_that_states_no_length_is_not_called_cut_off(tmp_path):
    """libsndfile guesses its length then: too long or too short."""
    data = encoded("MP3")
    second = data.index(data[:2], 4)  # the first frame only holds the header
    assert b"Xing" in data[:second] or b"Info" in data[:second]
    for end in (len(data), second + (len(data) - second) // 2):
        (tmp_path / "x.mp3").write_bytes(data[second:end])
        assert len(read_audio(tmp_path / "x.mp3"))
    tags = b"ID3\4\0\0\0\0\x02\0" + bytes(256)  # with a size of 7 bits a byte
    (tmp_path / "x.mp3").write_bytes(tags + data)
    assert len(read_audio(tmp_path / "x.mp3")) > 2.9 * RATE
    (tmp_path / "x.mp3").write_bytes(tags + data[: len(data) // 2])
    with pytest.raises(ValueError, match="cut off"):
        read_audio(tmp_path / "x.mp3")


def test_notes_of_an_odd_length_before_the_samples_are_stepped_over(tmp_path):
    data = encoded("WAV", "PCM_16")
    place = data.index(b"data")
    data = data[:place] + b"note" + (5).to_bytes(4, "little") + b"hello\0" + data[place:]
    (tmp_path / "x.wav").write_bytes(data)
    assert len(read_audio(tmp_path / "x.wav")) == 3 * RATE
    (tmp_path / "x.wav").write_bytes(data[:-1000])
    with pytest.raises(ValueError, match="cut off"):
        read_audio(tmp_path / "x.wav")


def test_bytes_after_the_samples_do_no_harm(tmp_path):
    for form, subtype in (("WAV", "PCM_16"), ("AIFF", "PCM_16"), ("MP3", None)):
        data = encoded(form, subtype)
        (tmp_path / "x").write_bytes(data + b"TAG" + bytes(125))
        assert len(read_audio(tmp_path / "x")) > 2.9 * RATE


# ---- long


@pytest.mark.parametrize("rate", [8000, 11_127, RATE, 22_050, 44_100, 48_000, 192_000])
def test_a_long_clip_read_in_blocks_is_the_clip_read_at_once(tmp_path, monkeypatch, rate):
    random = np.random.default_rng(0)
    samples = random.uniform(-0.3, 0.3, (2 * rate + 77, 2))
    soundfile.write(tmp_path / "x.flac", samples, rate)
    whole = read_audio(tmp_path / "x.flac")
    monkeypatch.setattr(audio, "BLOCK", rate // 2)
    blocks = read_audio(tmp_path / "x.flac")
    assert len(blocks) == len(whole)
    torch.testing.assert_close(blocks, whole, atol=1e-6, rtol=0)


def test_memory_is_that_of_the_mono_clip_not_of_its_channels(tmp_path, monkeypatch):
    with soundfile.SoundFile(tmp_path / "x.flac", "w", 48_000, 8) as file:
        for _ in range(60):
            file.write(np.full((48_000, 8), 0.25, np.float32))
    monkeypatch.setattr(audio, "BLOCK", 48_000)
    tracemalloc.start()
    clip = read_audio(tmp_path / "x.flac")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(clip) == 60 * RATE
    assert peak < 4 * 60 * RATE * 3 < 4 * 60 * 48_000 * 8
