"""The built-in model and a scripted one, each behind a server."""

import pytest
from serving import ScriptedEngine, client_of, script, serving

from qwen3 import LLM


@pytest.fixture(scope="session")
def builtin():
    """On the native kernels, whose requests share passes."""
    return LLM("builtin", weights="int8")


@pytest.fixture(scope="session")
def builtin_url(builtin):
    with serving(builtin) as url:
        yield url


@pytest.fixture(scope="session")
def scripted():
    llm = LLM("builtin")
    llm._engine = ScriptedEngine(llm.tokenizer, script)
    return llm


@pytest.fixture(scope="session")
def scripted_url(scripted):
    with serving(scripted) as url:
        yield url


@pytest.fixture(scope="session")
def client(scripted_url):
    return client_of(scripted_url)
