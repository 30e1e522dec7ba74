"""Words of any script become tokens, a vocabulary those of its texts; ids come back as words."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmlib.data.store import MAX_TOKENS, Texts
from mmlib.data.text import BOS, EOS, PAD, SPECIAL, TOKEN, UNKNOWN, Vocabulary, tokenize


@pytest.mark.parametrize(
    "text, tokens",
    [
        ("Hello, World!", ["hello", ",", "world", "!"]),
        ("don't stop 'quoted' o\u2019clock", ["don't", "stop", "'", "quoted", "'", "o'clock"]),
        ("一只猫 sleeps", ["一", "只", "猫", "sleeps"]),
        ("京PL3N67", ["京", "pl3n67"]),
        ("ねこ 고양이", ["ね", "こ", "고", "양", "이"]),
        ("Ünïcode straße 007 NA", ["ünïcode", "straße", "007", "na"]),
        ("cafe\u0301 = caf\u00e9", ["café", "=", "café"]),
        ("ＡＢＣ１２，", ["abc12", ","]),
        ("a_b 3.5", ["a", "_", "b", "3", ".", "5"]),
        ("смотри नमस्ते", ["смотри", "नमस्ते"]),
        ("ok 👍\u200b\ufeff", ["ok", "👍"]),
        (" \t\n", []),
    ],
)
def test_tokens(text, tokens):
    assert tokenize(text) == tokens


@settings(max_examples=50, deadline=None)
@given(st.text(alphabet=st.characters(max_codepoint=127), max_size=40))
def test_the_fast_way_for_ascii_gives_the_same_tokens(text):
    assert tokenize(text) == TOKEN.findall(text.lower())


@settings(max_examples=50, deadline=None)
@given(st.text(max_size=40))
def test_tokens_hold_no_space_and_tokenising_them_again_changes_nothing(text):
    tokens = tokenize(text)
    assert all(token and not any(c.isspace() for c in token) for token in tokens)
    assert tokenize(" ".join(tokens)) == tokens


def test_vocabulary_is_most_frequent_first_ties_by_alphabet():
    vocabulary = Vocabulary.fit(["b a b", "c b a", "d"])
    assert vocabulary.words == [*SPECIAL, "b", "a", "c", "d"]
    assert Vocabulary.fit(["b a b", "c b a", "d"], max_size=6).to_list() == ["b", "a"]
    assert Vocabulary.fit(["d", "c b a", "b a b"]).words == vocabulary.words


def test_encode_decode_round_trip_and_unknown_words():
    vocabulary = Vocabulary.fit(["the cat sat", "一只猫"])
    ids = vocabulary.encode("The cat 猫 flew")
    assert ids[-1] == UNKNOWN and UNKNOWN not in ids[:-1]
    assert vocabulary.decode(ids) == ["the", "cat", "猫", "<unknown>"]
    assert vocabulary.decode([BOS, *ids[:2], EOS, *ids, PAD]) == ["the", "cat"]
    assert Vocabulary(vocabulary.to_list()).ids == vocabulary.ids


def test_a_word_twice_is_refused():
    with pytest.raises(ValueError, match="twice"):
        Vocabulary(["a", "a"])
    with pytest.raises(ValueError, match="special"):
        Vocabulary(["<pad>"])


def test_texts_are_kept_ragged_and_come_back_padded():
    vocabulary = Vocabulary.fit(["a b c d"])
    texts = Texts.encode(["a b c", "", "d", "a " * (MAX_TOKENS + 5)], vocabulary)
    ids, mask = texts.fetch(np.array([2, 1, 0]))
    assert ids.tolist() == [[7, 0, 0], [0, 0, 0], [4, 5, 6]]
    assert mask.sum(dim=1).tolist() == [
        1,
        0,
        3,
    ]
    assert texts.fetch(np.array([1]))[0].shape == (1, 1)
    assert texts.truncated == 1 and texts.fetch(np.array([3]))[0].shape == (1, MAX_TOKENS)


def test_a_text_of_just_the_longest_length_is_not_cut():
    vocabulary = Vocabulary.fit(["a"])
    texts = Texts.encode(["a " * (MAX_TOKENS + more) for more in (-1, 0, 1)], vocabulary)
    assert texts.truncated == 1
    lengths = texts.row_lengths(np.arange(3)).tolist()
    assert lengths == [MAX_TOKENS - 1, MAX_TOKENS, MAX_TOKENS]
