"""The validation corpus: its first words, their tokens in windows, and their losses.

Word losses make models with different tokenizers comparable: the loss of a word is the sum of the
losses of its tokens, and every token belongs to exactly one word, so that the word losses of a text
add up to its total loss.
"""

import hashlib
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from neuneu.core.errors import CheckpointError, DataError, UserError
from neuneu.core.storage import copy_of
from neuneu.scoring.engines.packing import Prompts

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


Int64Array = npt.NDArray[np.int64]

# For `str` patterns `\s` is `str.isspace`, so these are the words of `str.split()`.
_WORD: Final = re.compile(r"\S+")


@dataclass(frozen=True, kw_only=True)
class Corpus:
    """The text whose losses describe a checkpoint: documents with `n_words` words in total."""

    name: str
    documents: tuple[str, ...]
    n_words: int

    @cached_property
    def hash(self) -> str:
        """Sixteen hex digits that identify the text and its division into documents."""
        digest = hashlib.sha256()
        for document in self.documents:
            content = document.encode("utf-8", "surrogatepass")
            digest.update(len(content).to_bytes(8, "little"))
            digest.update(content)
        return digest.hexdigest()[:16]


@dataclass(frozen=True, kw_only=True)
class CorpusLosses:
    """Losses of a checkpoint on a corpus.

    `word_losses` is (W,) nats, the sum over the tokens of each word. `nats_per_token`,
    `nats_per_word` and `bits_per_byte` are the same total, divided differently.
    """

    word_losses: npt.NDArray[np.float32]
    n_tokens: int
    nats_per_token: float
    nats_per_word: float
    bits_per_byte: float


@dataclass(frozen=True, kw_only=True)
class EncodedCorpus:
    """A corpus as prompts for one tokenizer and window.

    The tokens to score of all prompts are in order the T tokens of the corpus, each once.
    `token_words` is the (T,) word index of each token.
    """

    prompts: Prompts
    token_words: npt.NDArray[np.int64]
    n_words: int
    n_bytes: int

    def losses(self, logprobs: npt.NDArray[np.floating]) -> CorpusLosses:
        """Sum up the losses of a scored corpus.

        Args:
            logprobs: (T,) log-probabilities of its tokens in nats.

        Raises:
            CheckpointError: A log-probability is not finite.
            ValueError: There is not one for each token.
        """
        if len(logprobs) != len(self.token_words):
            raise ValueError(
                f"expected {len(self.token_words)} log-probabilities, found {len(logprobs)}."
            )
        token_losses = -logprobs.astype(np.float64)
        if not np.isfinite(token_losses).all():
            at = int(np.argmin(np.isfinite(token_losses)))
            raise CheckpointError(
                f"corpus token {at}: the loss is {token_losses[at]}; expected a finite number. "
                "The checkpoint's weights are probably not finite."
            )
        total = float(token_losses.sum())
        return CorpusLosses(
            word_losses=word_sums(token_losses, self.token_words, n_words=self.n_words).astype(
                np.float32
            ),
            n_tokens=len(token_losses),
            nats_per_token=total / len(token_losses),
            nats_per_word=total / self.n_words,
            bits_per_byte=total / math.log(2) / self.n_bytes,
        )


def load_corpus(path: str | Path, *, max_words: int) -> Corpus:
    """Read the first `max_words` whitespace-separated words of a corpus.

    The document that reaches the limit is cut after its last word; documents without words are left
    out.

    Args:
        path: Anything that `read_documents` reads.
        max_words: Maximum number of words, at least 1.

    Raises:
        DataError: The corpus cannot be read, has another layout, or has no words.
        UserError: `max_words` is less than 1.
    """
    if max_words < 1:
        raise UserError(f"max_words: expected at least 1, found {max_words}.")
    documents = []
    n_words = 0
    for text in read_documents(path):
        spans = word_spans(text, max_words=max_words - n_words)
        if len(spans) == 0:
            continue
        n_words += len(spans)
        if n_words == max_words:
            documents.append(text[: spans[-1, 1]])
            break
        documents.append(text)
    if not documents:
        raise DataError(f"corpus {path}: expected text, found no words.")
    return Corpus(name=Path(path).stem, documents=tuple(documents), n_words=n_words)


def read_documents(path: str | Path) -> Iterator[str]:
    """Yield the documents of a text source in order.

    Args:
        path: A parquet file with a string column `text` (others are ignored) or a UTF-8 `.txt`
        file,
            which is one document, local or `s3://`; or a local folder, whose `.parquet` and `.txt`
            files are read in the order of their paths.

    Raises:
        DataError: The source does not exist, cannot be read, or has another layout.
    """
    with copy_of(path) as local:
        if "://" in str(path) and not local.is_file():
            raise DataError(f"text {path}: no such file.")
        yield from _read(local)


def _read(path: Path) -> Iterator[str]:
    if path.is_dir():
        files = sorted(p for p in path.rglob("*") if p.suffix in {".parquet", ".txt"})
        if not files:
            raise DataError(f"text {path}: expected .parquet or .txt files, found none.")
        for file in files:
            yield from _read(file)
    elif not path.is_file():
        raise DataError(f"text {path}: no such file or folder.")
    elif path.suffix == ".parquet":
        yield from _read_parquet(path)
    elif path.suffix == ".txt":
        try:
            yield path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(f"text {path}: expected UTF-8 text, found {error}.") from error
    else:
        raise DataError(f"text {path}: expected .parquet, .txt or a folder, found {path.suffix!r}.")


def prefix_token(tokenizer: "PreTrainedTokenizerBase") -> int:
    """Return the token that precedes a text: the tokenizer's bos, or else its eos.

    Raises:
        CheckpointError: It has neither.
    """
    for token in (tokenizer.bos_token_id, tokenizer.eos_token_id):
        if token is not None:
            return int(token)
    raise CheckpointError(
        f"tokenizer {tokenizer.name_or_path!r}: expected a bos or eos token to precede the first "
        "token of a text, found neither; set bos_token in tokenizer_config.json."
    )


def encode_corpus(
    corpus: Corpus,
    tokenizer: "PreTrainedTokenizerBase",
    *,
    prefix_token: int,
    max_tokens: int,
) -> EncodedCorpus:
    """Tokenise a corpus into prompts that together score each of its tokens once.

    A document starts with the prefix token, and no special tokens are added. A document longer than
    the window continues in windows without the prefix, like the rolling windows of
    lm-evaluation-harness: the first half of each repeats tokens already scored, as context.

    Args:
        corpus: Text to tokenise.
        tokenizer: Fast tokenizer of the model, which provides character offsets.
        prefix_token: See `prefix_token`.
        max_tokens: Maximum prompt length, as `Scorer.max_prompt_tokens`; at least 2.

    Raises:
        UserError: `max_tokens` is less than 2.
        CheckpointError: The tokenizer provides no offsets, or no token for a document.
    """
    if max_tokens < 2:
        raise UserError(f"max_tokens: expected a window of at least 2 tokens, found {max_tokens}.")
    if not tokenizer.is_fast:
        raise CheckpointError(
            f"tokenizer {tokenizer.name_or_path!r}: expected a fast tokenizer (tokenizer.json), "
            "which provides character offsets; convert it with transformers."
        )
    batch = tokenizer(
        list(corpus.documents),
        add_special_tokens=False,
        return_offsets_mapping=True,
        return_attention_mask=False,
        verbose=False,
    )
    prompts: list[npt.NDArray[np.int32]] = []
    n_scored: list[int] = []
    words = []
    first_word = 0
    for i, document in enumerate(corpus.documents):
        ids = np.array(batch["input_ids"][i], np.int32)
        if not len(ids):
            raise CheckpointError(
                f"corpus {corpus.name}: document {i} has words but no tokens; expected a "
                "tokenizer that covers its characters."
            )
        spans = word_spans(document)
        words.append(token_words(spans, batch["offset_mapping"][i]) + first_word)
        first_word += len(spans)
        for prompt, count in windows(ids, prefix_token=prefix_token, max_tokens=max_tokens):
            prompts.append(prompt)
            n_scored.append(count)
    return EncodedCorpus(
        prompts=Prompts.of(prompts, n_scored),
        token_words=np.concatenate(words),
        n_words=first_word,
        n_bytes=sum(len(text.encode("utf-8", "surrogatepass")) for text in corpus.documents),
    )


def windows(
    ids: npt.NDArray[np.int32], *, prefix_token: int, max_tokens: int
) -> Iterator[tuple[npt.NDArray[np.int32], int]]:
    """Cut a document into (prompt, number of last tokens to score), each token scored once.

    The first prompt is the prefix and up to `max_tokens - 1` tokens, all scored. Each later prompt
    has `max_tokens // 2` tokens of context, followed by new tokens that fill the window.
    """
    end = min(len(ids), max_tokens - 1)
    yield np.concatenate([np.array([prefix_token], np.int32), ids[:end]]), end
    context = max_tokens // 2
    while end < len(ids):
        start, end, done = end - context, min(end + max_tokens - context, len(ids)), end
        yield ids[start:end], end - done


def _read_parquet(path: Path) -> Iterator[str]:
    try:
        file = pq.ParquetFile(path)
    except (OSError, pa.ArrowInvalid) as error:
        raise DataError(f"text {path}: expected parquet, found {error}.") from error
    with file:
        if "text" not in file.schema_arrow.names:
            raise DataError(
                f"text {path}: expected a column 'text', found {file.schema_arrow.names}."
            )
        row = 0
        for batch in file.iter_batches(columns=["text"], batch_size=1024):
            for text in batch.column(0).to_pylist():
                if not isinstance(text, str):
                    raise DataError(
                        f"text {path}: row {row}: expected text, found {text!r}; drop the row."
                    )
                yield text
                row += 1


def word_spans(text: str, *, max_words: int | None = None) -> Int64Array:
    """Return the spans of the whitespace-separated words of a text.

    Args:
        text: Any text.
        max_words: Maximum number of words; None takes all.

    Returns:
        (W, 2) start and end of each word in characters, as in `text[start:end]`.
    """
    spans = [match.span() for match in islice(_WORD.finditer(text), max_words)]
    return np.array(spans, dtype=np.int64).reshape(-1, 2)


def token_words(spans_W2: Int64Array, offsets_T2: npt.ArrayLike) -> Int64Array:
    """Assign each token to a word, in linear time.

    A token belongs to the word with its last non-space character, so a token that spans two words
    belongs to the second. A token without such a character (whitespace only, or an empty span from
    a tokenizer that trims offsets) belongs to the next word, or after the last word to the last.

    Args:
        spans_W2: Spans from `word_spans`; W >= 1.
        offsets_T2: (T, 2) start and end of each token, in characters of the same text.

    Returns:
        (T,) word index of each token.

    Raises:
        ValueError: There are no words.
    """
    offsets = np.asarray(offsets_T2, dtype=np.int64).reshape(-1, 2)
    n_words = len(spans_W2)
    if n_words == 0:
        raise ValueError(
            f"expected a text with at least one word, found 0 for {len(offsets)} tokens."
        )
    # The last word that starts before the token ends, unless it ends before the token starts.
    last = np.searchsorted(spans_W2[:, 0], offsets[:, 1], side="left") - 1
    inside = (last >= 0) & (spans_W2[np.maximum(last, 0), 1] > offsets[:, 0])
    return np.where(inside, last, np.minimum(last + 1, n_words - 1))


def word_sums(
    values_T: npt.ArrayLike, words_T: Int64Array, *, n_words: int
) -> npt.NDArray[np.float64]:
    """Sum token values by word: (n_words,) in double precision, 0 for a word without tokens."""
    values = np.asarray(values_T, dtype=np.float64)
    return np.bincount(words_T, weights=values, minlength=n_words).astype(np.float64)
