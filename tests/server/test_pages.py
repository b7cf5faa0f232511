"""The chat page's routes: files, headers, what may load what, and the memory calculator's numbers."""

import hashlib
import json
import re
import subprocess
import sys
from importlib.resources import files

import httpx
import pytest
from serving import serving

WEB = files("qwen3.server") / "web"


def names(folder=WEB, prefix=""):
    for entry in folder.iterdir():
        if entry.is_dir():
            yield from names(entry, f"{prefix}{entry.name}/")
        else:
            yield f"{prefix}{entry.name}"


def get(url, path, **headers):
    return httpx.get(url + path, headers=headers)


def test_the_page_and_each_of_its_files_come_with_their_type_and_may_load_nothing_from_elsewhere(scripted_url):
    types = {"css": "text/css", "js": "text/javascript", "mjs": "text/javascript", "svg": "image/svg+xml"}
    paths = {f"/web/{name}": types[kind] for name in names() if (kind := name.rpartition(".")[2]) in types}
    assert len(paths) > 15
    for path, kind in {"/": "text/html", **paths}.items():
        response = get(scripted_url, path)
        assert (response.status_code, response.headers["content-type"].partition(";")[0]) == (200, kind), path
        policy = dict(part.strip().split(" ", 1) for part in response.headers["content-security-policy"].split(";"))
        assert policy["default-src"] == "'none'"
        assert policy["script-src"] == policy["style-src"] == policy["connect-src"] == "'self'"
        assert policy["frame-ancestors"] == policy["base-uri"] == policy["form-action"] == "'none'"
        assert "unsafe" not in response.headers["content-security-policy"]
        assert response.headers["x-content-type-options"] == "nosniff"
        assert response.headers["referrer-policy"] == "no-referrer"
        assert response.headers["cross-origin-opener-policy"] == "same-origin"
        assert response.headers["cross-origin-resource-policy"] == "same-origin"


@pytest.mark.parametrize(
    "path",
    [
        "/web/",
        "/web/nothing.js",
        "/web/index.html/x",
        "/web/../pages.py",
        "/web/%2e%2e/pages.py",
        "/web/..%2fpages.py",
        "/web//etc/passwd",
        "/web/vendor",
        "/web/vendor/manifest.json",
        "/web/vendor/..%5c..%5cpages.py",
    ],
)
def test_nothing_but_the_files_of_the_table_is_served(scripted_url, path):
    request = httpx.Request("GET", scripted_url + "/")
    request.url = request.url.copy_with(raw_path=path.encode())
    with httpx.Client() as client:
        response = client.send(request)
    assert response.status_code == 404
    assert response.json()["error"]["type"] == "not_found_error"


def test_a_file_that_the_browser_has_is_not_sent_again(scripted_url):
    tag = get(scripted_url, "/").headers["etag"]
    again = get(scripted_url, "/", **{"if-none-match": f'"other", W/{tag}'})
    assert (again.status_code, again.content) == (304, b"")
    assert again.headers["etag"] == tag
    assert get(scripted_url, "/", **{"if-none-match": '"other"'}).status_code == 200
    assert httpx.head(scripted_url + "/").status_code == 200


def test_the_page_holds_no_script_no_style_and_no_address_of_its_own():
    for name in names():
        if name.startswith("vendor/") or name.endswith(".svg"):
            continue
        text = (WEB / name).read_text("utf-8")
        assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|DOMParser|document\.write|\beval\(", text), name
        addresses = set(re.findall(r"https?://[\w./]+", text)) - {"http://www.w3.org/2000/svg"}
        assert not addresses, name
    page = (WEB / "index.html").read_text("utf-8")
    assert not re.search(r"<script(?![^>]* src=)|<style|\son\w+=|\sstyle=", page)


def test_the_libraries_are_those_of_the_manifest_with_their_licences():
    entries = json.loads((WEB / "vendor/manifest.json").read_text("utf-8"))
    for entry in entries:
        content = (WEB / "vendor" / entry["file"]).read_bytes()
        assert hashlib.sha256(content).hexdigest() == entry["sha256"], entry["file"]
        assert entry["version"] in content[:400].decode() or entry["package"] == "temml"
        for licence in entry["licence_files"]:
            assert "opyright" in (WEB / "vendor" / licence).read_text("utf-8")
    listed = {name for entry in entries for name in [entry["file"], *entry["licence_files"]]}
    assert listed | {"manifest.json"} == set(names(WEB / "vendor"))
    assert sum(len((WEB / "vendor" / name).read_bytes()) for name in listed) < 700_000


def test_the_page_learns_the_models_name_its_context_and_how_it_is_sampled(scripted, scripted_url):
    setup = get(scripted_url, "/web/setup.json").json()
    assert setup["model"]["name"] == "builtin"
    assert setup["model"]["max_context"] == scripted.max_context
    assert setup["model"]["thinking"] == "switch"
    for mode, thinks in (("thinking", True), ("plain", False)):
        defaults = scripted.defaults(thinks)
        assert setup["sampling"][mode] == {name: getattr(defaults, name) for name in setup["sampling"][mode]}


@pytest.mark.parametrize(
    ("model", "options"),
    [
        ("Qwen3-8B", {"weights": "q4_k_m", "kv": "int8", "batch": "2", "device": "cuda"}),
        ("Qwen3-30B-A3B", {}),
    ],
)
def test_the_calculators_numbers_are_those_of_qwen3_memory(scripted_url, model, options):
    flags = [f"--{name}={value}" for name, value in ({"weights": "bf16"} | options).items()]
    command = [sys.executable, "-m", "qwen3", "memory", model, "--json", "--context", "1k,40960", *flags]
    told = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    told |= json.loads(subprocess.run([*command, "--cards"], check=True, capture_output=True, text=True).stdout)
    query = {"model": model, "context": [1024, 40960], **options}
    report = httpx.get(f"{scripted_url}/v1/memory", params=query).raise_for_status().json()
    assert report == {name: told[name] for name in report}
    assert report["estimates"]
    assert report["machines"]


def test_the_calculators_choices_begin_with_the_served_model(scripted_url):
    choices = get(scripted_url, "/v1/memory/choices").json()
    assert choices["models"][:2] == ["builtin", "Qwen3-0.6B"]
    assert {"bf16", "q4_k_m"} <= set(choices["weights"])
    assert "int8" in choices["kv"]


def test_without_a_name_the_calculator_takes_the_served_model(scripted, scripted_url):
    report = httpx.get(f"{scripted_url}/v1/memory?context=512").json()
    assert (report["model"], report["parameters"]) == ("builtin", scripted.config.num_parameters)


@pytest.mark.parametrize(
    ("query", "status", "param"),
    [
        ("", 400, "context"),
        ("context=0", 400, "context"),
        ("context=262145", 400, "context"),
        ("context=1e3", 400, "context"),
        ("context=9" + "9" * 400, 400, "context"),
        ("&".join(["context=1"] * 65), 400, "context"),
        ("context=1&batch=0", 400, "batch"),
        ("context=1&batch=513", 400, "batch"),
        ("context=1&device=tpu", 400, "device"),
        ("context=1&weights=q2", 400, None),
        ("context=1&kv=q2", 400, None),
        ("context=1&model=../../etc", 404, "model"),
    ],
)
def test_a_faulty_question_to_the_calculator_is_refused(scripted_url, query, status, param):
    response = httpx.get(f"{scripted_url}/v1/memory?{query}")
    assert (response.status_code, response.json()["error"]["param"]) == (status, param)


def test_a_browser_gives_the_key_as_a_password_and_only_our_own_page_may_spend_it(scripted):
    key = httpx.BasicAuth("anyone", "secret")
    own, other = {"sec-fetch-site": "same-origin"}, {"sec-fetch-site": "cross-site"}
    with serving(scripted, api_keys=["other", "secret"]) as url:
        for path in ("/", "/web/main.js", "/web/setup.json", "/web/nothing"):
            refusal = httpx.get(url + path)
            assert refusal.status_code == 401
            assert refusal.headers["www-authenticate"].startswith("Basic realm=")
            assert httpx.get(url + path, auth=("anyone", "wrong")).status_code == 401
            assert httpx.get(url + path, auth=key).status_code == (404 if path.endswith("nothing") else 200)
            assert httpx.get(url + path, headers={"authorization": "Bearer secret"}).status_code != 401
        for path in ("/v1/models", "/v1/memory/choices", "//", "/web", "/webs"):
            refusal = httpx.get(url + path, auth=key)
            assert (refusal.status_code, refusal.headers["www-authenticate"]) == (401, "Bearer")
            assert httpx.get(url + path, auth=key, headers=other).status_code == 401
            assert httpx.get(url + path, auth=key, headers=own).status_code != 401
            assert httpx.get(url + path, auth=("", "wrong"), headers=own).status_code == 401
        for damaged in ("!", "c2VjcmV0", "OnNlY3JldA", "/////w=="):
            assert httpx.get(url + "/", headers={"authorization": f"Basic {damaged}"}).status_code == 401
