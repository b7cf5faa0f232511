"""Text to token ids and back: byte-level BPE with 26 control tokens.

The BPE underneath (Hugging Face `tokenizers`) holds no control tokens. This module alone turns a control string into
its id, so text encoded with `control=False` can never contain one, whatever a user types.

Decoding is ours: a token is a byte string, a text is the concatenation of its tokens' bytes read as UTF-8.

Invariants
- Control tokens occupy the ids right after the BPE vocabulary, without gaps. Ids are looked up by name: the official
  vocabulary (151,643 + 26 ids) and a small one share this code.
- `decode(encode(text, control=...)) == NFC(text)`.
- Ids from `vocab_size` up (the embedding is padded to 151,936 rows) decode to nothing.
- A long text is encoded in pieces, to the ids that it has as a whole: memory beside the ids is that of a piece.

It does not know about messages or the chat format, only about spans of text and control strings.
"""

import base64
import codecs
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from itertools import groupby, pairwise
from pathlib import Path
from typing import Protocol

import numpy as np
import tokenizers
from tokenizers import models

from qwen3.text_split import PIECE_CHARS, SPLIT_PATTERN, check_limit, check_piece, fewest_tokens, pieces

# Name and `special` flag in the order of their ids. The flag is the official one: tokens that are not special are
# part of the visible text when special tokens are skipped, so parsers must look for ids and not for text.
CONTROL_TOKENS: Mapping[str, bool] = {
    "<|endoftext|>": True,
    "<|im_start|>": True,
    "<|im_end|>": True,
    "<|object_ref_start|>": True,
    "<|object_ref_end|>": True,
    "<|box_start|>": True,
    "<|box_end|>": True,
    "<|quad_start|>": True,
    "<|quad_end|>": True,
    "<|vision_start|>": True,
    "<|vision_end|>": True,
    "<|vision_pad|>": True,
    "<|image_pad|>": True,
    "<|video_pad|>": True,
    "<tool_call>": False,
    "</tool_call>": False,
    "<|fim_prefix|>": False,
    "<|fim_middle|>": False,
    "<|fim_suffix|>": False,
    "<|fim_pad|>": False,
    "<|repo_name|>": False,
    "<|file_sep|>": False,
    "<tool_response>": False,
    "</tool_response>": False,
    "<think>": False,
    "</think>": False,
}

_BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": False}
_SPLIT = {"type": "Split", "pattern": {"Regex": SPLIT_PATTERN}, "behavior": "Isolated", "invert": False}
# All of the official tokenizer.json but its vocabulary, merges and added tokens.
_PIPELINE = {
    "version": "1.0",
    "truncation": None,
    "padding": None,
    "normalizer": {"type": "NFC"},
    "pre_tokenizer": {"type": "Sequence", "pretokenizers": [_SPLIT, _BYTE_LEVEL]},
    "post_processor": _BYTE_LEVEL,
    "decoder": _BYTE_LEVEL,
}
_BPE = {
    "dropout": None,
    "unk_token": None,
    "continuing_subword_prefix": "",
    "end_of_word_suffix": "",
    "fuse_unk": False,
    "byte_fallback": False,
    "ignore_merges": False,
}
_EXACT = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}


def _byte_alphabet() -> list[str]:
    """The 256 characters that stand for bytes in a byte-level vocabulary: printable Latin-1 characters for
    themselves, the others moved up from U+0100 in order."""
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    moved = iter(range(0x100, 0x200))
    return [chr(byte if byte in printable else next(moved)) for byte in range(256)]


_CHAR_OF_BYTE = _byte_alphabet()
_BYTE_OF_CHAR = {ord(char): byte for byte, char in enumerate(_CHAR_OF_BYTE)}


class Span(Protocol):
    """A piece of a rendered prompt: see `qwen3.chat.Span`."""

    @property
    def text(self) -> str: ...
    @property
    def control(self) -> bool: ...
    @property
    def trained(self) -> bool: ...


class Tokenizer:
    """Encoder and decoder for one vocabulary. Make one with `load` or `from_vocab`."""

    def __init__(self, full: tokenizers.Tokenizer) -> None:
        """`full` has the control tokens as added tokens; raises ValueError if it is not of Qwen3's kind."""
        added = full.get_added_tokens_decoder()
        self.control_ids: dict[str, int] = {added[id].content: id for id in sorted(added)}
        self.special_ids = frozenset(id for id, token in added.items() if token.special)
        self._full = full
        # The model and its pipeline without the added tokens: for plain text.
        self._bpe = tokenizers.Tokenizer(full.model)
        self._bpe.normalizer, self._bpe.pre_tokenizer = full.normalizer, full.pre_tokenizer
        steps = [step and json.loads(step.__getstate__()) for step in (full.normalizer, full.pre_tokenizer)]
        self._can_cut = steps == [_PIPELINE["normalizer"], _PIPELINE["pre_tokenizer"]]
        self._first_control_id = self._bpe.get_vocab_size()
        self.vocab_size = self._first_control_id + len(added)
        # Longest first: where several match at one place, the longest wins, as in the official tokenizer.
        longest_first = sorted(self.control_ids, key=len, reverse=True)
        self._control_pattern = re.compile("(" + "|".join(map(re.escape, longest_first)) + ")")
        self._bytes_of = {id: name.encode() for name, id in self.control_ids.items()}
        self._check(added)

    def _check(self, added: Mapping[int, tokenizers.AddedToken]) -> None:
        if missing := [name for name in CONTROL_TOKENS if name not in self.control_ids]:
            raise ValueError(f"not a Qwen3 tokenizer: control tokens are missing: {', '.join(missing)}")
        for token in added.values():
            if token.lstrip or token.rstrip or token.single_word or token.normalized:
                raise ValueError(
                    f"added token {token.content!r} matches by lstrip, rstrip, single_word or normalized rules; "
                    "only exact control strings are supported"
                )
            if self._bpe.token_to_id(token.content) is not None:
                raise ValueError(
                    f"control token {token.content!r} is in the BPE vocabulary, where plain text could produce it; "
                    "add it after the vocabulary"
                )
        if sorted(added) != list(range(self._first_control_id, self.vocab_size)):
            raise ValueError(
                f"control tokens are misplaced: ids {self._first_control_id} to {self.vocab_size - 1} expected, after "
                f"the BPE vocabulary; found {sorted(added)}"
            )
        probe = " a\tÅ中\n😀 \x00'LL 10"
        if self.decode(self.encode(probe, control=False)) != probe:
            raise ValueError("not a byte-level BPE tokenizer: text does not survive encoding and decoding")

    # Making one

    @classmethod
    def load(cls, path: str | Path) -> "Tokenizer":
        """Read a tokenizer from a file, or from the first of these in a directory: `tokenizer.json`,
        `qwen.tiktoken`, `vocab.json` with `merges.txt`. All three give the same ids."""
        path = Path(path)
        if path.is_dir():
            names = ("tokenizer.json", "qwen.tiktoken", "vocab.json")
            found = next((path / name for name in names if (path / name).is_file()), None)
            if found is None:
                raise ValueError(
                    f"no tokenizer in {path}: expected tokenizer.json, qwen.tiktoken, or vocab.json with merges.txt"
                )
            path = found
        if not path.is_file():
            raise ValueError(f"no tokenizer at {path}: no such file or directory")
        if path.suffix == ".tiktoken":
            return cls.from_vocab(*_read_tiktoken(path))
        if path.name == "vocab.json":
            merges = path.with_name("merges.txt")
            if not merges.is_file():
                raise ValueError(f"{path} needs {merges.name} beside it, which is missing")
            with _faults_named(f"{path} or {merges.name} is not readable"):
                vocab, pairs = models.BPE.read_file(str(path), str(merges))
            return cls.from_vocab(vocab, pairs)
        with _faults_named(f"{path} is not a readable tokenizer.json"):
            full = tokenizers.Tokenizer.from_file(str(path))
        return cls(full)

    @classmethod
    def from_vocab(
        cls,
        vocab: Mapping[str, int],
        merges: Iterable[tuple[str, str]],
        control: Mapping[str, bool] = CONTROL_TOKENS,
    ) -> "Tokenizer":
        """Build from byte-level token strings with their ids, and merges in order of priority. The control tokens,
        names with their `special` flags, take the ids after the vocabulary."""
        if foreign := {ord(char) for char in set().union(*vocab)} - _BYTE_OF_CHAR.keys():
            char = ascii(chr(min(foreign)))
            raise ValueError(f"not a byte-level vocabulary: it holds {char}, which stands for no byte")
        empty = {"type": "BPE", "vocab": {}, "merges": []}
        full = tokenizers.Tokenizer.from_str(json.dumps({**_PIPELINE, "model": empty}))
        with _faults_named("vocabulary and merges do not fit together"):
            # Not through the JSON, which takes 0.5 s for Qwen3's vocabulary and not 0.2.
            full.model = models.BPE(dict(vocab), list(merges), **_BPE)
        added = [tokenizers.AddedToken(name, **_EXACT, special=is_special) for name, is_special in control.items()]
        full.add_tokens(added)
        return cls(full)

    def save(self, directory: str | Path) -> None:
        """Write `tokenizer.json` and `tokenizer_config.json`, which transformers' AutoTokenizer loads."""
        directory = Path(directory)
        directory.mkdir(parents=True, exist_ok=True)
        self._full.save(str(directory / "tokenizer.json"))
        control = [(name, id, id in self.special_ids) for name, id in self.control_ids.items()]
        config = {
            "add_bos_token": False,
            "add_prefix_space": False,
            "added_tokens_decoder": {
                str(id): {"content": name, **_EXACT, "special": special} for name, id, special in control
            },
            "additional_special_tokens": [name for name, _, special in control if special and name != "<|endoftext|>"],
            "bos_token": None,
            "clean_up_tokenization_spaces": False,
            "eos_token": "<|im_end|>",
            "errors": "replace",
            "pad_token": "<|endoftext|>",
            "split_special_tokens": False,
            "tokenizer_class": "Qwen2Tokenizer",
            "unk_token": None,
        }
        text = json.dumps(config, indent=2, ensure_ascii=False) + "\n"
        (directory / "tokenizer_config.json").write_text(text, encoding="utf-8")

    # Ids by name

    def id(self, control: str) -> int:
        """The id of a control string such as `<|im_end|>`."""
        if control not in self.control_ids:
            raise ValueError(f"{control!r} is not a control token; those are {', '.join(self.control_ids)}")
        return self.control_ids[control]

    @cached_property
    def eos_id(self) -> int:
        """`<|im_end|>`, which ends a chat turn."""
        return self.id("<|im_end|>")

    @cached_property
    def end_of_text_id(self) -> int:
        """`<|endoftext|>`, which ends a document, pads, and is the base model's eos."""
        return self.id("<|endoftext|>")

    # Text to ids

    def encode(self, text: str, *, control: bool = True, limit: int | None = None) -> list[int]:
        """Token ids of `text`. With `control`, control strings in it become control tokens, as in the official
        tokenizer; without, they stay plain text: use that for text from outside.

        Raises TokenLimitError for more than `limit` ids, as soon as that is sure: a text that is far too long costs
        little more than one that fits. With a limit also PieceError for a million characters that nothing parts."""
        ids: list[int] = []
        start = 0
        for found in self._control_pattern.finditer(text) if control else ():
            self._extend(ids, text[start : found.start()], limit)
            ids.append(self.control_ids[found[0]])
            start = found.end()
        self._extend(ids, text[start:], limit)
        return ids

    def encode_spans(self, spans: Iterable[Span], limit: int | None = None) -> list[int]:
        """Token ids of a rendered prompt; see `encode_trained`, and `encode` for the limit."""
        return self.encode_trained(spans, limit)[0]

    def encode_trained(self, spans: Iterable[Span], limit: int | None = None) -> tuple[list[int], list[bool]]:
        """Token ids of a rendered prompt, and for each id whether the model is trained to produce it.

        Adjacent text spans are joined before BPE, except where `trained` changes: there generation would begin, so
        the tokens on both sides are those that serving sees. A control span must be one control string.
        """
        ids: list[int] = []
        trained: list[bool] = []
        for (control, flag), run in groupby(spans, key=lambda span: (span.control, span.trained)):
            if control:
                ids += [self.id(span.text) for span in run]
            else:
                self._extend(ids, "".join(span.text for span in run), limit)
            trained += [flag] * (len(ids) - len(trained))
        return ids, trained

    def _extend(self, ids: list[int], text: str, limit: int | None) -> None:
        """Append the ids of plain text."""
        if not text.isascii() and (lone := re.search("[\ud800-\udfff]", text)):
            raise ValueError(f"text is not valid Unicode: lone surrogate at character {lone.start()}")
        if limit is not None and self._can_cut and len(text) > PIECE_CHARS:
            check_limit(len(ids) + fewest_tokens(text, self._longest_with), limit)
        for piece in pieces(text) if self._can_cut else [text]:
            if limit is not None:
                check_piece(piece)
            ids += self._bpe.encode(piece, add_special_tokens=False).ids if piece else []  # a call has its price
            check_limit(len(ids), limit)

    @cached_property
    def _longest_with(self) -> np.ndarray:
        """For each byte, the bytes of the longest token that it is in: int64 [256], 1 where it is in none."""
        longest = dict.fromkeys(_CHAR_OF_BYTE, 1)
        for token in sorted(self._bpe.get_vocab(), key=len):
            longest |= dict.fromkeys(token, len(token))
        return np.array([longest[char] for char in _CHAR_OF_BYTE])

    # Ids to text

    def token_bytes(self, id: int) -> bytes:
        """The bytes that a token stands for; for a control token its name; for an id past the vocabulary nothing."""
        known = self._bytes_of.get(id)
        if known is None:
            if id < 0:
                raise ValueError(f"token ids are not negative, got {id}")
            if id >= self.vocab_size:
                return b""  # not kept: there is no end of them
            token = self._bpe.id_to_token(id) or ""
            known = self._bytes_of[id] = bytes(_BYTE_OF_CHAR[ord(char)] for char in token)
        return known

    def decode(self, ids: Iterable[int], *, skip_control: bool = False) -> str:
        """Text of `ids`; bytes that are not UTF-8 become U+FFFD. `skip_control` leaves out all control tokens."""
        return b"".join(self._bytes(ids, skip_control)).decode("utf-8", "replace")

    def detokenizer(self, *, skip_control: bool = False) -> "Detokenizer":
        """A decoder for ids that arrive over time."""
        return Detokenizer(self, skip_control)

    def _bytes(self, ids: Iterable[int], skip_control: bool) -> Iterator[bytes]:
        if skip_control:
            ids = (id for id in ids if id < self._first_control_id)
        return map(self.token_bytes, ids)


class Detokenizer:
    """Incremental `Tokenizer.decode`: the pieces returned, joined, equal the text of all ids at once.

    It keeps at most the three bytes of an unfinished character and never looks back, so a token costs O(1).
    """

    def __init__(self, tokenizer: Tokenizer, skip_control: bool = False) -> None:
        self._tokenizer = tokenizer
        self._skip_control = skip_control
        self._utf8 = codecs.getincrementaldecoder("utf-8")("replace")

    def feed(self, ids: Iterable[int]) -> str:
        """The text that `ids` complete; an unfinished character waits for its remaining bytes."""
        return self._utf8.decode(b"".join(self._tokenizer._bytes(ids, self._skip_control)))

    @property
    def is_within_character(self) -> bool:
        """Whether a character waits for its remaining bytes."""
        return bool(self._utf8.getstate()[0])

    def finish(self) -> str:
        """What is left at the end, U+FFFD for an unfinished character; afterwards a new text may begin."""
        rest = self._utf8.decode(b"", final=True)
        self._utf8.reset()
        return rest


@contextmanager
def _faults_named(what: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # the library raises bare Exception whatever is wrong
        raise ValueError(f"{what}: {error}") from error


def _read_tiktoken(path: Path) -> tuple[dict[str, int], list[tuple[str, str]]]:
    """Vocabulary and merges from a file of base64 token bytes with their ranks."""
    ranks: dict[bytes, int] = {}
    for number, line in enumerate(path.read_bytes().splitlines(), start=1):
        try:
            token, rank = line.split()
            ranks[base64.b64decode(token, validate=True)] = int(rank)
        except ValueError as error:
            raise ValueError(f"{path}, line {number}: expected a base64 token and its rank") from error
    if sorted(ranks.values()) != list(range(len(ranks))):
        raise ValueError(f"{path}: ranks are not 0..{len(ranks) - 1} once each")
    by_rank = sorted(ranks, key=ranks.__getitem__)
    merges = [_last_merge(token, ranks) for token in by_rank if len(token) > 1]
    spell = dict(enumerate(_CHAR_OF_BYTE))
    return (
        {token.decode("latin-1").translate(spell): rank for token, rank in ranks.items()},
        [(left.decode("latin-1").translate(spell), right.decode("latin-1").translate(spell)) for left, right in merges],
    )


def _last_merge(token: bytes, ranks: Mapping[bytes, int]) -> tuple[bytes, bytes]:
    """The two tokens whose merge makes `token`. A rank is a merge's priority, so this is BPE on the token itself,
    stopped when two pieces are left."""
    pieces = [token[i : i + 1] for i in range(len(token))]
    while len(pieces) > 2:
        pairs = [ranks.get(left + right, len(ranks)) for left, right in pairwise(pieces)]
        i = pairs.index(min(pairs))
        pieces[i : i + 2] = [pieces[i] + pieces[i + 1]]
    return pieces[0], pieces[1]
