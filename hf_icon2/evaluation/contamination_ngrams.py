"""Words of a text, and which n-grams of prompts stand in it: exact, at a few microseconds per hundred words."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from functools import cache

Ngram = tuple[str, ...]

# Chinese and Japanese put no spaces between words; each of these characters counts as a word.
_UNSPACED = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\U00020000-\U0003ffff"
_EMOJI = "\U0001f000-\U0001fbff"  # and other symbols; letters and digits among them become plain ones in NFKC
_BETWEEN_WORDS = "PSZC"  # Unicode categories: punctuation, symbols, separators, control


def words(text: str) -> list[str]:
    """The words that n-grams are made of.

    Case, punctuation, symbols and white space do not count: a word is what stands between them, in Unicode's
    compatibility form (NFKC) and case-folded. Chinese characters and Japanese kana are words of their own; other
    languages without spaces, such as Thai, have few and long words, and overlaps of theirs are missed.
    """
    return _pattern().findall(unicodedata.normalize("NFKC", text).casefold())


class PromptNgrams:
    """The n-grams of prompts, and where they occur.

    A prompt whose texts all have fewer than n words has one n-gram: its longest text, whole.

    Every n-gram is looked up at its rarest word only, and compared as a whole there: nothing is found that is not
    there, and nothing is missed.

    Args:
        prompts: Per prompt its texts, such as the turns of a user.
        n: Words of an n-gram, 1 or more.

    Attributes:
        prompts: How many there are.
        owners: Per n-gram the prompts that have it, by their places.
        short: Prompts with fewer than n words.
        empty: Prompts without a word.
    """

    def __init__(self, prompts: Iterable[Sequence[str]], n: int) -> None:
        self.n = n
        self.owners: defaultdict[Ngram, set[int]] = defaultdict(set)
        self.short: set[int] = set()
        self.empty: set[int] = set()
        self.prompts = 0
        counts: Counter[str] = Counter()
        for place, texts in enumerate(prompts):
            self.prompts += 1
            split = [words(text) for text in texts]
            for gram in self._ngrams(place, split):
                self.owners[gram].add(place)
            counts.update(word for text in split for word in text)
        self._lookups = _lookups(self.owners, counts)

    def found(self, text: str) -> list[Ngram]:
        """N-grams of prompts that occur in a text, each as often as a word of it leads there, in reading order."""
        split, lookups, owners = words(text), self._lookups, self.owners
        places = [place for place, word in enumerate(split) if word in lookups]
        return [
            gram
            for place in places
            for before, length in lookups[split[place]]
            if before <= place and (gram := tuple(split[place - before : place - before + length])) in owners
        ]

    def _ngrams(self, place: int, split: Sequence[Sequence[str]]) -> Iterator[Ngram]:
        longest = max(split, key=len, default=())
        if len(longest) >= self.n:
            yield from (
                tuple(text[start : start + self.n])
                for text in split
                for start in range(len(text) - self.n + 1)
            )
        elif longest:
            self.short.add(place)
            yield tuple(longest)
        else:
            self.empty.add(place)


def _lookups(ngrams: Iterable[Ngram], counts: Counter[str]) -> dict[str, list[tuple[int, int]]]:
    """Per word that stands for an n-gram: how many words stand before it there, and the n-gram's length.

    That word is the one that the prompts have least often; of equals the longest, which texts have least often.
    """
    found: defaultdict[str, set[tuple[int, int]]] = defaultdict(set)
    for gram in ngrams:
        rarest = min(gram, key=lambda word: (counts[word], -len(word)))
        found[rarest].add((gram.index(rarest), len(gram)))
    return {word: sorted(places, reverse=True) for word, places in found.items()}


@cache
def _pattern() -> re.Pattern[str]:
    """Of one word. Beyond the first 65,536 characters all are parts of words, but for Chinese ones and emoji."""
    between = [code for code in range(0x10000) if unicodedata.category(chr(code))[0] in _BETWEEN_WORDS]
    excluded = "".join(f"\\u{code:04x}" for code in between)
    return re.compile(f"[{_UNSPACED}]|[^{excluded}{_UNSPACED}{_EMOJI}]+")
