"""Whether training data holds the prompts of a benchmark: n-gram overlap, exact (Icon2, section 6: 13 words).

The paper gives the share of test prompts of which a 13-gram is in the training data. What counts as a word, and what
becomes of prompts that have fewer than 13, it leaves open; ours is in `contamination_ngrams`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence, Sized
from dataclasses import asdict, dataclass
from typing import Any

from tqdm.auto import tqdm

from hf_icon2.evaluation.contamination_ngrams import Ngram, PromptNgrams
from hf_icon2.evaluation.contamination_texts import prompt_texts, row_texts

_SHOWN = 5


@dataclass(frozen=True)
class Overlap:
    """A prompt that the data hold, in whole or in part.

    Args:
        prompt: Its place among the prompts, from 0.
        short: Whether it has fewer than n words, and was found as a whole.
        rows: In how many rows.
        row: Place of the first of them, from 0.
        ngram: What was found there first, as its words (lower case, no punctuation).
    """

    prompt: int
    short: bool
    rows: int
    row: int
    ngram: str


@dataclass(frozen=True)
class Contamination:
    """How far data and a set of prompts overlap.

    Args:
        n: Words of an n-gram.
        rows: Rows that were read.
        contaminated_rows: Rows with an n-gram of a prompt.
        rows_with_short: Rows with a whole prompt of fewer than n words; of these prompts, the shorter are the more
            likely to stand in any text.
        prompts: Prompts of n words or more.
        short_prompts: Prompts of fewer words.
        empty_prompts: Prompts without a word; nothing was looked for.
        overlaps: The prompts that were found.
        prompt_set: Name of the prompts.
    """

    n: int
    rows: int
    contaminated_rows: int
    rows_with_short: int
    prompts: int
    short_prompts: int
    empty_prompts: int
    overlaps: tuple[Overlap, ...]
    prompt_set: str | None = None

    @property
    def contaminated_prompts(self) -> int:
        """Prompts of n words or more of which an n-gram was found."""
        return sum(not item.short for item in self.overlaps)

    @property
    def short_prompts_found(self) -> int:
        """Prompts of fewer words that were found as a whole."""
        return sum(item.short for item in self.overlaps)

    @property
    def share_of_prompts(self) -> float | None:
        """The paper's figure: contaminated prompts among those of n words or more; None without any."""
        return _share(self.contaminated_prompts, self.prompts)

    @property
    def share_of_short_prompts(self) -> float | None:
        """Prompts found among those of fewer than n words; None without any."""
        return _share(self.short_prompts_found, self.short_prompts)

    @property
    def share_of_rows(self) -> float | None:
        """Rows with an n-gram of a prompt; None without rows."""
        return _share(self.contaminated_rows, self.rows)

    def to_dict(self) -> dict[str, Any]:
        """All figures, shares included, for JSON."""
        figures = {
            "prompt_set": self.prompt_set,
            "contaminated_prompts": self.contaminated_prompts,
            "share_of_prompts": self.share_of_prompts,
            "short_prompts_found": self.short_prompts_found,
            "share_of_short_prompts": self.share_of_short_prompts,
            "share_of_rows": self.share_of_rows,
        }
        return {**figures, **asdict(self), "overlaps": [asdict(item) for item in self.overlaps]}

    def __str__(self) -> str:
        lines = [
            f"{_of(self.contaminated_prompts, self.prompts)} prompts of {self.n} words or more share "
            f"{self.n} words in a row with the data",
            f"{_of(self.short_prompts_found, self.short_prompts)} shorter prompts stand in the data as a whole",
            f"{_of(self.contaminated_rows, self.rows)} rows hold {self.n} words of a prompt, "
            f"{self.rows_with_short} a whole shorter prompt",
        ]
        if not self.rows:
            lines.insert(0, "the data have no rows, so nothing was looked at")
        if self.empty_prompts:
            lines.append(f"{self.empty_prompts} prompts have no words and were not looked for")
        shown = sorted(self.overlaps, key=lambda item: (item.short, item.prompt))[:_SHOWN]
        lines += [f'prompt {item.prompt} in row {item.row}: "{item.ngram}"' for item in shown]
        if len(self.overlaps) > len(shown):
            lines.append(f"and {len(self.overlaps) - len(shown)} prompts more")
        return "\n".join(lines)


def contamination(
    dataset: Iterable[Any],
    prompts: Iterable[Any],
    *,
    n: int = 13,
    columns: Sequence[str] | None = None,
    prompt_column: str | None = None,
    prompt_set: str | None = None,
    progress: str | None = "rows read",
) -> Contamination:
    """Looks for the n-grams of prompts in every text of a dataset; all that is found is there word for word.

    An n-gram is n words in a row within one text, whatever their case and the punctuation between them. A prompt with
    fewer than n words is looked for as a whole, and counted apart. Memory is that of the prompts: rows are read one
    by one and forgotten.

    Args:
        dataset: Rows in one pass: a `datasets.Dataset` or `IterableDataset` (one split), texts, message lists, or
            columns by name. Of a row all texts count; of pairs, prompt, chosen and rejected.
        prompts: Texts, conversations (their user turns), or rows of a benchmark; see `prompt_column`.
        n: Words of an n-gram; 13 is the paper's, and GPT-3's.
        columns: Columns of the rows that count; None counts all.
        prompt_column: Column of the prompts where they are rows; None takes the first there is of prompt,
            instruction (with input), question, turns, messages, conversation and text.
        prompt_set: Name of the prompts, for reports and cards.
        progress: Name of the progress bar; None shows none.

    Raises:
        TypeError: If one text, a `DatasetDict` or a `DataFrame` is given, or columns are one text.
        ValueError: If n is below 1, there are no prompts or none with a word, a row lacks the columns, or no row
            holds a text, such as where there are only token ids.
    """
    ngrams = _prompt_ngrams(prompts, n, prompt_column)
    _check(dataset, "dataset", columns)
    contaminated = with_short = number = texts = 0
    rows_of: Counter[int] = Counter()
    first: dict[int, tuple[int, Ngram]] = {}
    total = len(dataset) if isinstance(dataset, Sized) else None
    for row in tqdm(dataset, desc=progress, total=total, disable=progress is None):
        of_row = list(row_texts(row, columns))
        texts += any(of_row)
        found = _found(ngrams, of_row)
        contaminated += any(len(gram) == n for gram in found)
        with_short += any(len(gram) < n for gram in found)
        for prompt, gram in _by_prompt(ngrams, found).items():
            rows_of[prompt] += 1
            first.setdefault(prompt, (number, gram))
        number += 1
    if number and not texts:
        raise ValueError(
            f"none of {number} rows holds a text, so nothing was looked at; give rows with texts, not token ids, and "
            "a dataset without a format such as pandas"
        )
    return Contamination(
        n=n,
        rows=number,
        contaminated_rows=contaminated,
        rows_with_short=with_short,
        prompts=ngrams.prompts - len(ngrams.short) - len(ngrams.empty),
        short_prompts=len(ngrams.short),
        empty_prompts=len(ngrams.empty),
        overlaps=tuple(
            Overlap(prompt, prompt in ngrams.short, rows_of[prompt], *_told(first[prompt]))
            for prompt in sorted(first)
        ),
        prompt_set=prompt_set,
    )


def decontaminate(
    dataset: Any,  # noqa: ANN401 - a Dataset or IterableDataset; datasets is not imported here
    prompts: Iterable[Any],
    *,
    n: int = 13,
    columns: Sequence[str] | None = None,
    prompt_column: str | None = None,
    short: bool = True,
) -> Any:  # noqa: ANN401
    """The rows of a `datasets.Dataset` or `IterableDataset` that hold no n-gram of any prompt.

    Args:
        dataset: The rows, of one split.
        prompts: As for `contamination`.
        n: As for `contamination`.
        columns: As for `contamination`.
        prompt_column: As for `contamination`.
        short: Whether rows go as well that hold a whole prompt of fewer than n words; very short ones ("hello") are
            in many rows that have nothing to do with them.
    """
    ngrams = _prompt_ngrams(prompts, n, prompt_column)
    _check(dataset, "dataset", columns)
    if not hasattr(dataset, "filter"):
        raise TypeError(
            f"dataset is a {type(dataset).__name__}, which has no filter; give a datasets.Dataset or IterableDataset"
        )
    least = 1 if short else n
    return dataset.filter(
        lambda row: all(len(gram) < least for gram in _found(ngrams, row_texts(row, columns)))
    )


def _prompt_ngrams(prompts: Iterable[Any], n: int, column: str | None) -> PromptNgrams:
    _check(prompts, "prompts")
    if n < 1:
        raise ValueError(f"n={n} words make no n-gram; allowed: 1 or more, usual: 13")
    ngrams = PromptNgrams((prompt_texts(prompt, column) for prompt in prompts), n)
    if not ngrams.prompts:
        raise ValueError("there are no prompts; give those that the data must not hold")
    if len(ngrams.empty) == ngrams.prompts:
        raise ValueError(f"none of {ngrams.prompts} prompts has a word; give their texts, not token ids")
    return ngrams


def _check(rows: object, name: str, columns: object = None) -> None:
    if isinstance(rows, str):
        raise TypeError(f"{name} is one text; give a list of texts or rows")
    if isinstance(rows, Mapping):
        raise TypeError(
            f"{name} is a mapping with {', '.join(map(str, rows))}; give one split of it, or a list of rows"
        )
    if hasattr(rows, "iterrows"):
        raise TypeError(
            f"{name} is a DataFrame, which gives the names of its columns, not its rows; give "
            "datasets.Dataset.from_pandas(...) of it"
        )
    if isinstance(columns, str) or (columns is not None and not columns):
        raise TypeError(f"columns={columns!r} is no list of names; give [name], or None for all columns")


def _found(ngrams: PromptNgrams, texts: Iterable[str]) -> list[Ngram]:
    return [gram for text in texts for gram in ngrams.found(text)]


def _by_prompt(ngrams: PromptNgrams, found: Sequence[Ngram]) -> dict[int, Ngram]:
    """The first n-gram of each prompt."""
    first: dict[int, Ngram] = {}
    for gram in found:
        for prompt in ngrams.owners[gram]:
            first.setdefault(prompt, gram)
    return first


def _told(found: tuple[int, Ngram]) -> tuple[int, str]:
    row, gram = found
    return row, " ".join(gram)


def _share(count: int, total: int) -> float | None:
    return count / total if total else None


def _of(count: int, total: int) -> str:
    share = _share(count, total)
    return f"{count} of {total}" + ("" if share is None else f" ({share:.4f})")
