"""When two texts are the same question: up to case and white space, or nearly, by shared n-grams."""

from __future__ import annotations

import unicodedata
import zlib
from collections import defaultdict

import numpy as np
from numpy.typing import NDArray

_HASHES = 64
_BANDS = 16  # of 4 hashes each: two texts with similarity 0.7 meet in some band with probability 0.988
_PRIME = 4294967311  # the smallest prime above 2^32


def normalized(text: str) -> str:
    """The text without differences of case, white space and Unicode form."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


class NearDuplicates:
    """A growing set of texts that knows whether a text is nearly there already.

    Similarity is the Jaccard index of the sets of word n-grams. Candidates come from MinHash bands and are
    then compared exactly, so nothing is dropped by an estimate; a near-duplicate is overlooked in about 1 %
    of cases.

    Args:
        threshold: Similarity from which texts count as the same; 0 to 1.
        ngram: Words per n-gram; a shorter text is one n-gram.
    """

    def __init__(self, threshold: float = 0.7, ngram: int = 3) -> None:
        if not 0 < threshold <= 1:
            raise ValueError(f"threshold must be above 0 and at most 1, got {threshold}")
        self.threshold = threshold
        self.ngram = ngram
        generator = np.random.default_rng(0)  # any fixed hash functions do
        self._factors = generator.integers(1, 2**31, size=(_HASHES, 1), dtype=np.uint64)
        self._offsets = generator.integers(0, 2**31, size=(_HASHES, 1), dtype=np.uint64)
        self._texts: list[NDArray[np.uint64]] = []
        self._buckets: dict[tuple[int, bytes], list[int]] = defaultdict(list)

    def add(self, text: str) -> bool:
        """Adds a text unless a similar one is there; returns whether it was added."""
        grams = self._grams(text)
        keys = self._bands(grams)
        candidates = {index for key in keys for index in self._buckets.get(key, ())}
        if any(_jaccard(grams, self._texts[index]) >= self.threshold for index in candidates):
            return False
        for key in keys:
            self._buckets[key].append(len(self._texts))
        self._texts.append(grams)
        return True

    def _grams(self, text: str) -> NDArray[np.uint64]:
        """Hashes of the text's distinct word n-grams, ascending."""
        words = normalized(text).split()
        last = max(len(words) - self.ngram, 0)
        grams = {" ".join(words[start : start + self.ngram]) for start in range(last + 1)}
        return np.array(sorted(zlib.crc32(gram.encode()) for gram in grams), dtype=np.uint64)

    def _bands(self, grams: NDArray[np.uint64]) -> list[tuple[int, bytes]]:
        # Factors and hashes stay below 2^31 and 2^32, so the products fit 64 bits.
        smallest = ((self._factors * grams + self._offsets) % np.uint64(_PRIME)).min(axis=1)
        return [(band, rows.tobytes()) for band, rows in enumerate(smallest.reshape(_BANDS, -1))]


def _jaccard(first: NDArray[np.uint64], second: NDArray[np.uint64]) -> float:
    shared = len(np.intersect1d(first, second, assume_unique=True))
    return shared / max(len(first) + len(second) - shared, 1)
