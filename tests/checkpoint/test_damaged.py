"""Damaged and hostile checkpoints: each a clear error in under a second, never a crash or a read past the file."""

import json
import random
import time

import numpy as np
import pytest

from qwen3.checkpoint.generation_config import load_generation_config
from qwen3.checkpoint.load import load_model
from qwen3.checkpoint.names import expected_tensors
from qwen3.checkpoint.safetensors import CheckpointError, SafetensorsFile
from qwen3.config import ConfigError, ModelConfig

CONFIG = {
    "architectures": ["Qwen3ForCausalLM"],
    "model_type": "qwen3",
    "vocab_size": 16,
    "hidden_size": 8,
    "intermediate_size": 12,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 4,
    "max_position_embeddings": 64,
    "rms_norm_eps": 1e-6,
    "rope_theta": 1e6,
    "tie_word_embeddings": True,
    "eos_token_id": [3, 5],
    "torch_dtype": "float32",
}
SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
EMBEDDING, NORM = "model.embed_tokens.weight", "model.norm.weight"


def packed(header: bytes | dict, data: bytes) -> bytes:
    """A safetensors file as its specification says, written without any library."""
    header = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(header).to_bytes(8, "little") + header + data


def unpacked(raw: bytes) -> tuple[dict, bytes]:
    size = int.from_bytes(raw[:8], "little")
    return json.loads(raw[8 : 8 + size]), raw[8 + size :]


def weights(names=None) -> bytes:
    header, data = {}, b""
    rng = np.random.default_rng(0)
    for name, shape in expected_tensors(ModelConfig.from_dict(CONFIG)).items():
        if names is None or name in names:
            values = rng.standard_normal(shape, np.float32).tobytes()
            header[name] = {"dtype": "F32", "shape": list(shape), "data_offsets": [len(data), len(data) + len(values)]}
            data += values
    return packed(header, data)


@pytest.fixture
def directory(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    (tmp_path / SINGLE).write_bytes(weights())
    return tmp_path


@pytest.fixture
def sharded(directory):
    (directory / SINGLE).unlink()
    names = list(expected_tensors(ModelConfig.from_dict(CONFIG)))
    shards = {"one.safetensors": names[:5], "two.safetensors": names[5:]}
    for shard, held in shards.items():
        (directory / shard).write_bytes(weights(held))
    weight_map = {name: shard for shard, held in shards.items() for name in held}
    (directory / INDEX).write_text(json.dumps({"metadata": {"total_size": 7}, "weight_map": weight_map}))
    return directory


def refused(directory, message) -> None:
    start = time.perf_counter()
    with pytest.raises((CheckpointError, ConfigError), match=message) as caught:
        load_model(directory)
    assert time.perf_counter() - start < 1
    assert str(directory) in str(caught.value)


def test_the_undamaged_directories_load(directory, sharded):
    assert load_model(sharded).config.num_hidden_layers == 1
    (directory / SINGLE).write_bytes(weights())
    (directory / INDEX).write_text("the single file counts")
    load_model(directory)


# ---- The bytes of a file --------------------------------------------------------------------------------------

WHOLE = weights()
HEADER, DATA = unpacked(WHOLE)
HEADER_TEXT = json.dumps(HEADER).encode()
BYTES = {
    "empty": (b"", "0 bytes, too few"),
    "seven bytes": (WHOLE[:7], "7 bytes, too few"),
    "cut in the header": (WHOLE[:100], "header claims .* truncated"),
    "cut by half": (WHOLE[: len(WHOLE) // 2], "truncated: download it again"),
    "cut by one byte": (WHOLE[:-1], "ends at .* truncated"),
    "a byte too much": (WHOLE + b"\0", "1 bytes at its end belong to no tensor"),
    "twice the file": (WHOLE * 2, "bytes at its end belong to no tensor"),
    "header length of all ones": (b"\xff" * 8 + WHOLE[8:], "18,446,744,073,709,551,615 bytes, more than"),
    "header length above the bound": ((10**8 + 1).to_bytes(8, "little") + WHOLE[8:], "100,000,001 bytes, more than"),
    "header length zero": (bytes(8) + WHOLE[8:], "not valid JSON"),
    "header length short by one": (packed(HEADER_TEXT[:-1], b"}" + DATA), "not valid JSON"),
    "header not UTF-8": (packed(b"\xff\xfe" + HEADER_TEXT, DATA), "not UTF-8"),
    "header of zeros": (packed(bytes(100), b""), "not valid JSON"),
    "header a list": (packed(b"[]", b""), "not hold a JSON object"),
    "header a number": (packed(b"1", b""), "not hold a JSON object"),
    "header nested deeply": (packed(b'{"a":' * 100_000, b""), "nested too deeply"),
    "lists nested deeply": (packed(b'{"a":' + b"[" * 1_000_000, b""), "nested too deeply"),
    "a shape of 5,000 digits": (packed(b'{"a":{"shape":[' + b"9" * 5000 + b"]}}", b""), "Exceeds the limit"),
    "NaN": (packed(b'{"a":{"shape":[NaN]}}', b""), "holds NaN"),
    "a name twice": (packed(HEADER_TEXT[:-1] + b"," + HEADER_TEXT[1:], DATA), "duplicate key 'model.embed_tokens"),
    "a field twice": (
        packed(HEADER_TEXT.replace(b'"dtype"', b'"shape": [1], "dtype"', 1), DATA),
        "duplicate key 'shape'",
    ),
    "no tensors": (packed(b"{}", b""), "13 missing"),
    "a pickle": (b"\x80\x02}q\x00X\x06\x00\x00\x00" * 50, "header claims"),
    "a page of an error": (b"<!DOCTYPE html><html>404 Not Found</html>", "header claims"),
}


@pytest.mark.parametrize("case", BYTES)
def test_damaged_bytes(directory, case):
    raw, message = BYTES[case]
    (directory / SINGLE).write_bytes(raw)
    refused(directory, message)


# ---- What the header says -------------------------------------------------------------------------------------


def entry(**changes):
    """A change of the embedding's entry."""
    return lambda header: header[EMBEDDING].update(changes)


def overlap(header):
    header[NORM]["data_offsets"] = header["model.layers.0.input_layernorm.weight"]["data_offsets"]


def swap_names(header):
    header[EMBEDDING], header[NORM] = header[NORM], header[EMBEDDING]


HEADERS = {
    "unknown dtype": (entry(dtype="F13"), "unknown dtype 'F13'"),
    "dtype a number": (entry(dtype=32), "unknown dtype '32'"),
    "dtype a list": (entry(dtype=["F32"]), "unknown dtype"),
    "shape a string": (entry(shape="16x8"), "not a list of counts"),
    "shape null": (entry(shape=None), "not a list of counts"),
    "shape negative": (entry(shape=[-16, -8]), "not a list of counts"),
    "shape of floats": (entry(shape=[16.0, 8.0]), "not a list of counts"),
    "shape of truths": (entry(shape=[True, True]), "not a list of counts"),
    "shape beyond 64 bits": (entry(shape=[2**63, 1]), "not a list of counts"),
    "shape that overflows to what fits": (entry(shape=[2**62, 4, 2**62, 4]), "need more than the file has"),
    "shape of 100,000 dimensions": (entry(shape=[2**62] * 100_000), "need more than the file has"),
    "shape of nothing": (entry(shape=[0, 2**62, 2**62]), "has 512 bytes but its shape and dtype need 0"),
    "shape too large by a row": (entry(shape=[17, 8]), "need 544"),
    "shape of one number": (entry(shape=[]), "need 4"),
    "dtype twice as wide": (entry(dtype="F64"), "need 1,024"),
    "offsets reversed": (entry(data_offsets=[512, 0]), "before it begins"),
    "offsets negative": (entry(data_offsets=[-512, 0]), "not two counts"),
    "three offsets": (entry(data_offsets=[0, 512, 512]), "not two counts"),
    "offsets null": (entry(data_offsets=None), "not two counts"),
    "offsets of floats": (entry(data_offsets=[0.0, 512.0]), "not two counts"),
    "offset past the file": (entry(data_offsets=[0, 10**12]), "ends at 1,000,000,000,000 but the file has"),
    "offsets that wrap": (entry(data_offsets=[2**63 - 512, 2**63 - 1]), "but the file has"),
    "overlap": (overlap, "overlaps"),
    "a gap": (lambda header: header.pop(EMBEDDING), "512 bytes before tensor .* belong to no tensor"),
    "a gap at the end": (lambda header: header.pop(NORM), "32 bytes at its end"),
    "a field missing": (lambda header: header[EMBEDDING].pop("dtype"), "not an object of dtype, shape"),
    "a field too much": (entry(scale=2), "not an object of dtype, shape"),
    "an entry of null": (lambda header: header.update({EMBEDDING: None}), "not an object of dtype"),
    "an entry a list": (lambda header: header.update({EMBEDDING: [1]}), "not an object of dtype"),
    "metadata a list": (lambda header: header.update(__metadata__=["pt"]), "__metadata__ is not"),
    "metadata of numbers": (lambda header: header.update(__metadata__={"format": 1}), "__metadata__ is not"),
    "metadata null": (lambda header: header.update(__metadata__=None), "__metadata__ is not"),
    "transposed": (
        entry(shape=[8, 16]),
        r"1 of another shape \(model.embed_tokens.weight is \[8, 16\], not \[16, 8\]\)",
    ),
    "names exchanged": (swap_names, "2 of another shape"),
    "integers": (entry(dtype="I32"), r"1 of a dtype that is not supported \(model.embed_tokens.weight is I32\)"),
    "float8": (entry(dtype="F8_E4M3", shape=[64, 8]), "is F8_E4M3"),
    "misnamed": (
        lambda header: header.update({"x\x1b[2J": header.pop(NORM)}),
        r"1 missing \(model.norm.weight\); 1 unexpected \('x.x1b",
    ),
    "a name that is no text": (lambda header: header.update({"\ud800": header.pop(NORM)}), "half a character"),
}


@pytest.mark.parametrize("case", HEADERS)
def test_lying_headers(directory, case):
    change, message = HEADERS[case]
    header = json.loads(HEADER_TEXT)
    change(header)
    (directory / SINGLE).write_bytes(packed(header, DATA))
    refused(directory, message)


def test_missing_and_unexpected_tensors_are_named_together_but_not_without_end(directory):
    header = {name + ".bias": info for name, info in HEADER.items()}
    (directory / SINGLE).write_bytes(packed(header, DATA))
    refused(directory, r"13 missing \(model.embed_tokens.weight, .* and 9 more\); 13 unexpected \(.*bias, ")


def with_head(directory, head: bytes, dtype="F32", shape=(16, 8)):
    end = len(DATA)
    stored = {"dtype": dtype, "shape": list(shape), "data_offsets": [end, end + len(head)]}
    (directory / SINGLE).write_bytes(packed(HEADER | {"lm_head.weight": stored}, DATA + head))


def test_a_stored_head_that_repeats_the_tied_embedding_is_accepted(directory):
    with_head(directory, DATA[:512])
    load_model(directory)


@pytest.mark.parametrize(
    ("head", "dtype", "shape", "message"),
    [
        (DATA[:511] + bytes(1), "F32", (16, 8), "lm_head.weight differs from .* set tie_word_embeddings to false"),
        (bytes(256), "BF16", (16, 8), r"lm_head.weight is BF16 \[16, 8\], but config.json ties it"),
        (DATA[:512], "F32", (8, 16), r"lm_head.weight is F32 \[8, 16\], but"),
    ],
)
def test_a_stored_head_that_is_not_the_tied_embedding_is_refused(directory, head, dtype, shape, message):
    with_head(directory, head, dtype, shape)
    refused(directory, message)


# ---- Directories ----------------------------------------------------------------------------------------------


def test_a_directory_without_config_is_refused(directory):
    (directory / "config.json").unlink()
    refused(directory, "has no config.json")
    refused(directory / "nowhere", "has no config.json")


@pytest.mark.parametrize(
    ("file", "message"),
    [
        ("pytorch_model.bin", r"pickles \(.bin, .pt\), which can run code .* take a release with safetensors"),
        ("model.pt", "pickles"),
        ("model.pth", "pickles"),
        ("model-q4.gguf", "name one of its GGUF files"),
        ("model-00001-of-00002.safetensors", "without model.safetensors.index.json: download the whole"),
        ("README.md", "neither model.safetensors nor"),
    ],
)
def test_a_directory_without_loadable_weights_says_what_to_do(directory, file, message):
    (directory / SINGLE).rename(directory / file)
    refused(directory, message)


@pytest.mark.parametrize("method", ["fp8", "awq", "gptq"])
def test_quantized_weights_are_refused_by_their_method(directory, method):
    (directory / "config.json").write_text(json.dumps(CONFIG | {"quantization_config": {"quant_method": method}}))
    refused(directory, f"quantized by '{method}' cannot be loaded yet; take the bfloat16")


def placed(name, shard):
    return lambda index: index["weight_map"].update({name: shard})


SHARD_NAMES = [
    "../one.safetensors",
    "/etc/passwd",
    "..",
    "",
    "a/b.safetensors",
    "a\\b.safetensors",
    "one.safetensors\0",
    "x" * 300 + ".safetensors",
    "pytorch_model.bin",
]
INDEXES = {
    **{repr(name)[:20]: (placed(NORM, name), "is not the name of a safetensors file") for name in SHARD_NAMES},
    "a name that is no text": (placed(NORM, "\ud800.safetensors"), "half a character"),
    "no weight_map": (lambda index: index.pop("weight_map"), "weight_map is not"),
    "weight_map a list": (lambda index: index.update(weight_map=[EMBEDDING]), "weight_map is not"),
    "a place that is a number": (placed(NORM, 2), "weight_map is not"),
    "empty weight_map": (lambda index: index.update(weight_map={}), "13 missing"),
    "a shard that is not there": (placed(NORM, "three.safetensors"), "three.safetensors of 3 shards missing"),
    "the wrong shard": (
        placed(NORM, "one.safetensors"),
        "holds tensor 'model.norm.weight', which .* places in 'one.saf",
    ),
    "a tensor that is nowhere": (
        placed("lm_head.weight", "two.safetensors"),
        "places tensor 'lm_head.weight' .* does not hold",
    ),
    "a tensor left out": (lambda index: index["weight_map"].pop(NORM), "holds tensor .* which .* does not mention"),
}


@pytest.mark.parametrize("case", INDEXES)
def test_lying_indexes(sharded, case):
    change, message = INDEXES[case]
    index = json.loads((sharded / INDEX).read_text())
    change(index)
    (sharded / INDEX).write_text(json.dumps(index))
    refused(sharded, message)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "not valid JSON"),
        ("[]", "not hold a JSON object"),
        ('{"weight_map": {}, "weight_map": {}}', "duplicate key 'weight_map'"),
        ('{"weight_map": {"a": "one.safetensors", "a": "two.safetensors"}}', "duplicate key 'a'"),
        ('{"a":' * 100_000, "nested too deeply"),
    ],
)
def test_damaged_indexes(sharded, text, message):
    (sharded / INDEX).write_text(text)
    refused(sharded, message)


def test_a_tensor_in_two_shards_is_refused(sharded):
    (sharded / "two.safetensors").write_bytes(WHOLE)
    refused(sharded, "two.safetensors holds tensor 'model.embed_tokens.weight', which .* places in 'one.safetensors'")


def test_a_truncated_shard_is_named(sharded):
    raw = (sharded / "two.safetensors").read_bytes()
    (sharded / "two.safetensors").write_bytes(raw[:-4])
    refused(sharded, "two.safetensors: tensor .* truncated")


def test_a_missing_shard_is_named(sharded):
    (sharded / "two.safetensors").unlink()
    refused(sharded, "two.safetensors of 2 shards missing")


def test_an_index_of_wrong_total_size_is_not_held_against_the_weights(sharded):
    load_model(sharded)


# ---- Configs --------------------------------------------------------------------------------------------------

CONFIG_TEXTS = {
    "empty": ("", "not valid JSON"),
    "cut": (json.dumps(CONFIG)[:-1], "not valid JSON"),
    "a list": ("[]", "not hold a JSON object"),
    "a key twice": ('{"vocab_size": 1, ' + json.dumps(CONFIG)[1:], "duplicate key 'vocab_size'"),
    "nested deeply": ('{"a":' * 100_000, "nested too deeply"),
    "5,000 digits": ('{"vocab_size": ' + "9" * 5000 + "}", "Exceeds the limit"),
    "NaN": ('{"rms_norm_eps": NaN}', "holds NaN"),
    "infinity": ('{"rms_norm_eps": -Infinity}', "holds -Infinity"),
    "infinite by overflow": (json.dumps(CONFIG).replace("1e-06", "1e999"), "1e999, which is beyond all floats"),
}


@pytest.mark.parametrize("case", CONFIG_TEXTS)
def test_damaged_configs(directory, case):
    text, message = CONFIG_TEXTS[case]
    (directory / "config.json").write_text(text)
    refused(directory, message)


def test_a_config_that_is_not_text_is_refused(directory):
    (directory / "config.json").write_bytes(b"\xff\xfe{\0}\0")
    refused(directory, "not UTF-8")


MOE = {
    "architectures": ["Qwen3MoeForCausalLM"],
    "model_type": "qwen3_moe",
    "num_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 4,
}
CONFIG_CHANGES = {
    "a billion layers": ({"num_hidden_layers": 10**9}, "num_hidden_layers 1000000000 .* is beyond"),
    "a billion experts": (MOE | {"num_experts": 10**9}, "is beyond"),
    "two layers": ({"num_hidden_layers": 2}, "11 missing"),
    "no layers": ({"num_hidden_layers": 0}, "num_hidden_layers 0 is not a positive"),
    "layers as a float": ({"num_hidden_layers": 1.0}, "num_hidden_layers 1.0 is not"),
    "layers as truth": ({"num_hidden_layers": True}, "num_hidden_layers True is not"),
    "layers as text": ({"num_hidden_layers": "1"}, "num_hidden_layers '1' is not"),
    "layers null": ({"num_hidden_layers": None}, "num_hidden_layers None is not"),
    "vocabulary beyond all": ({"vocab_size": 2**40}, "vocab_size .* is not a positive whole number below"),
    "vocabulary larger than the file": ({"vocab_size": 2**30}, r"is \[16, 8\], not \[1073741824, 8\]"),
    "heads that do not divide": ({"num_key_value_heads": 3}, "not a multiple"),
    "eps of 400 digits": ({"rms_norm_eps": 10**400}, "rms_norm_eps 1000"),
    "eps as text": ({"rms_norm_eps": "1e-6"}, "rms_norm_eps '1e-6' is not a finite number"),
    "theta null and scaling a list": ({"rope_scaling": [4.0]}, "is not an object"),
    "eos beyond the vocabulary": ({"eos_token_id": 16}, "eos_token_id 16 is not a token id"),
    "eos of lists": ({"eos_token_id": [[1]]}, r"eos_token_id \[1\] is not a token id"),
    "layer_types a number": ({"layer_types": 5}, "layer_types"),
    "mlp_only_layers a number": (MOE | {"mlp_only_layers": 5}, "mlp_only_layers 5"),
    "mlp_only_layers of text": (MOE | {"mlp_only_layers": ["0"]}, "mlp_only_layers"),
    "model_type a list": ({"model_type": ["qwen3"]}, "model_type .* is not a Qwen3 text model"),
    "model_type missing": ({"model_type": None}, "model_type None"),
    "quantization_config text": ({"quantization_config": "fp8"}, "quantization_config 'fp8' is not an object"),
    "tied as text": ({"tie_word_embeddings": "false"}, "tie_word_embeddings 'false' is not true or false"),
    "code to run": ({"auto_map": {"AutoModel": "evil.Model"}}, "auto_map.*refused"),
    "experts without a head_dim or heads": (
        MOE | {"head_dim": None, "num_attention_heads": 0},
        "num_attention_heads 0",
    ),
    "two counts of experts": (MOE | {"num_local_experts": 8}, "num_experts 4 and num_local_experts 8 disagree"),
    "two dtypes": ({"dtype": "bfloat16"}, "dtype 'bfloat16' and torch_dtype 'float32' disagree"),
}


@pytest.mark.parametrize("case", CONFIG_CHANGES)
def test_lying_configs(directory, case):
    change, message = CONFIG_CHANGES[case]
    (directory / "config.json").write_text(json.dumps(CONFIG | change))
    refused(directory, message)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not valid JSON"),
        ('{"temperature": -1}', "temperature -1 is not a number from 0 up"),
        ('{"temperature": 1e999}', "1e999, which is beyond all floats"),
        ('{"temperature": true}', "temperature True is not"),
        ('{"top_p": 1.5}', "top_p 1.5 is not a number from 0 to 1"),
        ('{"top_k": 2.5}', "top_k 2.5 is not a whole number"),
        ('{"do_sample": "yes"}', "do_sample 'yes' is not true or false"),
        ('{"eos_token_id": []}', r"eos_token_id \[\] is not a token id or a list"),
        ('{"eos_token_id": ["1"]}', "eos_token_id .* is not a token id or a list"),
        ('{"repetition_penalty": 0}', "repetition_penalty 0 is not a positive number"),
    ],
)
def test_damaged_generation_configs(tmp_path, text, message):
    (tmp_path / "generation_config.json").write_text(text)
    with pytest.raises(CheckpointError, match=message):
        load_generation_config(tmp_path)


# ---- Any damage -----------------------------------------------------------------------------------------------


def damaged(raw: bytes, random: random.Random) -> bytes:
    """`raw` with a few bytes changed, taken out or put in."""
    out = bytearray(raw)
    for _ in range(random.randint(1, 4)):
        place = random.randrange(len(out))
        byte = random.choice([random.randrange(256), *b'{}[]",:0919.-eE\\'])
        match random.randrange(4):
            case 0 | 1:
                out[place] = byte
            case 2:
                out.insert(place, byte)
            case 3:
                del out[place : place + random.randint(1, 8)]
    return bytes(out)


@pytest.mark.parametrize("file", [SINGLE, "config.json", INDEX])
def test_random_damage_is_refused_or_harmless(sharded, file):
    """Harmless: damage to a tensor's own bytes, or to a value that may differ."""
    if file == SINGLE:
        (sharded / file).write_bytes(WHOLE)
    raw = (sharded / file).read_bytes()
    part = 8 + len(HEADER_TEXT) if file == SINGLE else len(raw)
    outcomes = set()
    generator = random.Random(file)
    for number in range(250):
        # Every tenth time the damage may be to the tensors' bytes.
        reach = part if number % 10 else len(raw)
        (sharded / file).write_bytes(damaged(raw[:reach], generator) + raw[reach:])
        try:
            load_model(sharded)
            outcomes.add("loaded")
        except (CheckpointError, ConfigError):
            outcomes.add("refused")
    assert outcomes == {"loaded", "refused"}


def test_a_file_replaced_by_a_shorter_one_after_the_check_is_refused(directory):
    file = SafetensorsFile(directory / SINGLE)
    (directory / SINGLE).write_bytes(WHOLE[:-100])
    with pytest.raises(CheckpointError, match="changed its length"):
        file.read(NORM)
