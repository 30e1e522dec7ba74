"""Text -> tokens -> ids.

A token is a word of any script that has spaces, or one Chinese, Japanese or Korean character.
"""

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence

# each is a token of its own
_CHARACTERS = (
    "\u3005-\u3007\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af\uf900-\ufaff"
    "\U00020000-\U0003ffff"
)
# accents and vowel signs
_MARKS = (
    "\u0300-\u036f\u0591-\u05c7\u0610-\u061a\u064b-\u065f\u0900-\u0963\u0966-\u0dff\u0e30-\u0e4e"
)
# controls and joiners
_UNSEEN = "\x00-\x1f\x7f-\x9f\xad\u200b-\u200f\u202a-\u202e\u2060-\u206f\ufe00-\ufe0f\ufeff"
_LETTER = rf"(?:[^\W_{_CHARACTERS}]|[{_MARKS}])"
TOKEN = re.compile(rf"[^\W_{_CHARACTERS}]{_LETTER}*(?:'{_LETTER}+)*|[^\s{_UNSEEN}]")
_PLAIN = re.compile(r"[a-z0-9]+(?:'[a-z0-9]+)*|[!-~]")

PAD, UNKNOWN, BOS, EOS = range(4)
SPECIAL = ["<pad>", "<unknown>", "<bos>", "<eos>"]


def tokenize(text: str) -> list[str]:
    """Text -> its tokens in lower case.

    A token is a word (letters and digits, with apostrophes inside), one Chinese, Japanese or Korean
    character, or one visible symbol. Text is brought to Unicode form NFKC first, so that wide
    letters and composed accents have one spelling.

    >>> tokenize("It doesn't bark! 一只猫")
    ['it', "doesn't", 'bark', '!', '一', '只', '猫']
    """
    if text.isascii():  # most text, three times as fast
        return _PLAIN.findall(text.lower())
    return TOKEN.findall(unicodedata.normalize("NFKC", text).lower().replace("\u2019", "'"))


class Vocabulary:
    """Tokens and their ids: 0 padding, 1 unknown, 2 begin, 3 end, then ``words``.

    Raises ValueError where a word comes twice, or is one of the four special tokens.

    >>> vocabulary = Vocabulary.fit(["it purrs", "it barks"])
    >>> vocabulary.to_list()
    ['it', 'barks', 'purrs']
    >>> vocabulary.encode("It purrs loudly")
    [4, 6, 1]
    >>> vocabulary.decode([2, 4, 6, 1, 3, 0])
    ['it', 'purrs', '<unknown>']
    """

    def __init__(self, words: Sequence[str]):
        self.words = SPECIAL + list(words)
        self.ids = {word: i for i, word in enumerate(self.words)}
        if len(self.ids) != len(self.words):
            raise ValueError(
                "words has a word twice, or one of the special tokens; expected each once"
            )

    @classmethod
    def fit(cls, texts: Iterable[str], max_size: int = 20_000) -> "Vocabulary":
        """The tokens of ``texts``, which should be those of training rows only.

        The most frequent come first, ties by alphabet; at most ``max_size`` ids in all.
        """
        counts: Counter[str] = Counter()
        for text in texts:
            counts.update(tokenize(text))
        words = sorted(counts, key=lambda word: (-counts[word], word))
        return cls(words[: max_size - len(SPECIAL)])

    def __len__(self) -> int:
        return len(self.words)

    def encode(self, text: str) -> list[int]:
        """Ids of the tokens of ``text``; 1 for a token that the vocabulary does not have."""
        get = self.ids.get
        return [get(token, UNKNOWN) for token in tokenize(text)]

    def decode(self, ids: Iterable[int]) -> list[str]:
        """The tokens of ``ids``, up to the end token; padding and begin are left out."""
        tokens = []
        for i in map(int, ids):
            if i == EOS:
                break
            if i not in (PAD, BOS):
                tokens.append(self.words[i])
        return tokens

    def to_list(self) -> list[str]:
        """The words without the four special tokens.

        ``Vocabulary(vocabulary.to_list())`` is the same vocabulary.
        """
        return self.words[len(SPECIAL) :]
