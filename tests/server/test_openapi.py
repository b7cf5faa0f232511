"""The OpenAPI document: that it is complete, and that the server keeps to it (schemathesis, from outside)."""

import subprocess
import sys
from pathlib import Path

import pytest
from serving import HTTP

# What the document cannot say, such as that a token id is within the vocabulary, is a 400; an unknown model a 404.
CONFIG = """
[checks.positive_data_acceptance]
expected-statuses = ["2xx", "400", "404"]
"""


@pytest.mark.slow
def test_the_server_keeps_to_its_document(scripted_url, tmp_path: Path):
    """All checks over every operation. `--phases coverage` has thousands of cases, and takes minutes."""
    config = tmp_path / "schemathesis.toml"
    config.write_text(CONFIG)
    program = "from schemathesis.cli import schemathesis; schemathesis()"
    options = ["--checks", "all", "--max-examples", "3", "--phases", "examples,fuzzing", "--generation-deterministic"]
    done = subprocess.run(
        [sys.executable, "-c", program, "--config-file", config, "run", f"{scripted_url}/openapi.json", *options],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="module")
def document(scripted_url):
    return HTTP.get(f"{scripted_url}/openapi.json").json()


def test_every_operation_says_what_it_is_and_what_it_answers(document):
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            assert "200" in operation["responses"], path
            assert "422" not in operation["responses"], path
            if path in ("/metrics", "/"):
                continue
            assert operation["responses"]["200"]["content"]["application/json"]["schema"], path
            errors = operation["responses"]["4XX" if method == "post" else "503"]["content"]["application/json"]
            assert errors["schema"], path


def test_the_largest_seed_of_the_document_is_a_seed(document, scripted_url):
    """The document's numbers are floats, among which 2**63 - 1 would be 2**63."""
    schemas = document["components"]["schemas"]
    for path, name in (("/v1/chat/completions", "ChatRequest"), ("/v1/responses", "ResponsesRequest")):
        (seed,) = (form for form in schemas[name]["properties"]["seed"]["anyOf"] if form["type"] == "integer")
        body = document["paths"][path]["post"]["requestBody"]["content"]["application/json"]["example"]
        for value in (seed["maximum"], seed["minimum"]):
            response = HTTP.post(scripted_url + path, json=body | {"seed": int(value)})
            assert response.status_code == 200, response.text


def test_every_request_has_an_example_that_works(document, scripted_url):
    for path, operations in document["paths"].items():
        body = operations.get("post", {}).get("requestBody", {}).get("content", {}).get("application/json")
        if body is not None:
            response = HTTP.post(scripted_url + path, json=body["example"])
            assert response.status_code == 200, (path, response.text)
