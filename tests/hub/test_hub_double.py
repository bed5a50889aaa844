"""The double itself: strict where the Hub is, and read the same way by a second, independent client."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from absent import skip_or_fail
from hub_double import running_hub
from hub_double.store import Repository
from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, HfFileSystem, get_session
from huggingface_hub.errors import (
    EntryNotFoundError,
    HfHubHTTPError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from publishable import contents, published, write

from stablerep_hf.hub import plan_publication, publish

PUBLISH = "import sys; from stablerep_hf.cli import main; sys.exit(main(['publish', *sys.argv[1:]]))"
DOWNLOAD = "import sys; from huggingface_hub import snapshot_download as s; print(s(sys.argv[1], repo_type='dataset'))"
NPM_CLIENT = "@huggingface/hub@2.17.5"


@pytest.fixture
def api(hub_here):
    api = HfApi()
    api.create_repo("alice/thing")
    return api


def add(api, path, content, **options):
    return api.create_commit("alice/thing", [CommitOperationAdd(path, content)], commit_message="add", **options)


class Sender:
    """What no client would send; returns the status of the answer."""

    def __init__(self, address: str, token: str = "hf_alice") -> None:
        self.address, self.headers = address, {"Authorization": f"Bearer {token}"}

    def lines(self, lines: list[dict], content_type: str = "application/x-ndjson") -> int:
        headers = self.headers | {"Content-Type": content_type}
        body = "\n".join(map(json.dumps, lines))
        return get_session().post(self.address, content=body, headers=headers).status_code

    def json(self, body: dict) -> int:
        return get_session().post(self.address, json=body, headers=self.headers).status_code

    def get(self) -> int:
        return get_session().get(self.address, headers=self.headers).status_code


def test_repositories_come_and_go(hub_here, api):
    with pytest.raises(HfHubHTTPError, match="already created"):
        api.create_repo("alice/thing")
    api.create_repo("lab/secret", repo_type="dataset", private=True)
    for token in ("hf_bob", False):
        with pytest.raises(RepositoryNotFoundError):
            HfApi(token=token).dataset_info("lab/secret")
    assert [entry.id for entry in HfApi(token="hf_bob").list_datasets()] == []
    assert [entry.id for entry in api.list_datasets(author="lab")] == ["lab/secret"]
    api.update_repo_settings("lab/secret", repo_type="dataset", private=False)
    assert HfApi(token="hf_bob").dataset_info("lab/secret").private is False
    api.delete_repo("lab/secret", repo_type="dataset")
    with pytest.raises(RepositoryNotFoundError):
        api.dataset_info("lab/secret")
    with pytest.raises(HfHubHTTPError, match="403"):
        HfApi(token="hf_bob").delete_repo("alice/thing")


def test_references_and_what_is_missing(hub_here, api):
    first = add(api, "a/b.txt", b"one").oid
    api.create_branch("alice/thing", branch="side")
    api.create_tag("alice/thing", tag="v1")
    second = add(api, "a/b.txt", b"two").oid
    add(api, "c.txt", b"three", revision="side")
    cache = hub_here.folder / "cache"
    read = {
        name: Path(api.hf_hub_download("alice/thing", "a/b.txt", revision=name, cache_dir=cache)).read_bytes()
        for name in ("main", "v1", first, second[:7], "side")
    }
    assert read == {"main": b"two", "v1": b"one", first: b"one", second[:7]: b"two", "side": b"one"}
    refs = api.list_repo_refs("alice/thing")
    assert ([branch.name for branch in refs.branches], [tag.name for tag in refs.tags]) == (["main", "side"], ["v1"])
    assert [commit.title for commit in api.list_repo_commits("alice/thing")] == ["add", "add", "initial commit"]
    with pytest.raises(RevisionNotFoundError):
        api.model_info("alice/thing", revision="v2")
    with pytest.raises(EntryNotFoundError):
        api.hf_hub_download("alice/thing", "none.txt", cache_dir=cache)
    with pytest.raises(HfHubHTTPError, match="409"):
        api.create_tag("alice/thing", tag="v1")
    api.delete_tag("alice/thing", tag="v1")
    api.delete_folder("a", "alice/thing", revision="side")
    assert hub_here.files("alice/thing", revision="side") == {"c.txt": b"three"}
    api.delete_branch("alice/thing", branch="side")
    with pytest.raises(RevisionNotFoundError):
        api.model_info("alice/thing", revision="side")
    with pytest.raises(RevisionNotFoundError):
        api.model_info("alice/thing", revision="v1")


def test_long_trees_come_in_pages(api):
    additions = [CommitOperationAdd(f"many/{number:03}.txt", b"x") for number in range(120)]
    api.create_commit("alice/thing", additions, commit_message="many")
    assert len(api.list_repo_files("alice/thing")) == 121
    assert [entry.path for entry in api.list_repo_tree("alice/thing")] == [".gitattributes", "many"]
    (found,) = api.get_paths_info("alice/thing", ["many/007.txt", "none"], expand=True)
    assert (found.size, found.last_commit.title) == (1, "many")


def test_files_are_read_in_ranges_from_another_host(hub_here, api):
    content = b"0123456789abcdefghijklmnop" * 2000
    add(api, "large.safetensors", content)
    add(api, "small.txt", content[:100])
    files = HfFileSystem(token="hf_alice", endpoint=hub_here.endpoint, skip_instance_cache=True)
    for name in ("large.safetensors", "small.txt"):
        with files.open(f"alice/thing/{name}", block_size=64) as file:
            file.seek(70)
            assert file.read(20) == content[70:90]
    assert hub_here.requests("GET", "/storage/download/")[-1][2] == 206, "a large file, after a redirect"
    assert hub_here.requests("GET", r"/resolve/\w+/small\.txt")[-1][2] == 206
    address = f"{hub_here.endpoint}/alice/thing/resolve/main/large.safetensors"
    answer = get_session().head(address, follow_redirects=False)
    assert answer.status_code == 302
    assert answer.headers["location"].partition("/storage")[0] != hub_here.endpoint


def test_repositories_are_listed_and_searched(hub_here, api):
    card = b"---\nlicense: mit\nlibrary_name: timm\ntags: [drawn]\n---\n"
    for name in ("alice/vit-small", "lab/vit-large", "alice/other"):
        api.create_repo(name)
    api.create_commit("lab/vit-large", [CommitOperationAdd("README.md", card)], commit_message="card")

    def found(**asked):
        return {model.id for model in api.list_models(**asked)}

    assert found(search="VIT") == {"alice/vit-small", "lab/vit-large"}
    assert found(search="vit", author="alice") == {"alice/vit-small"}
    for tag in ("drawn", "timm", "license:mit"):
        assert found(filter=tag) == {"lab/vit-large"}
    assert len(list(api.list_models(limit=2))) == 2


def test_a_space_has_a_runtime_variables_and_secrets(hub_here):
    api = HfApi()
    api.create_repo("alice/page", repo_type="space", space_sdk="gradio")
    assert api.get_space_runtime("alice/page").stage == "NO_APP_FILE"
    operations = [CommitOperationAdd("app.py", b"")]
    api.create_commit("alice/page", operations, repo_type="space", commit_message="app")
    assert (api.get_space_runtime("alice/page").stage, api.space_info("alice/page").sdk) == ("BUILDING", "gradio")
    api.add_space_variable("alice/page", "A", "b")
    assert api.get_space_variables("alice/page")["A"].value == "b"
    api.add_space_secret("alice/page", "KEY", "hidden")
    assert "hidden" not in get_session().get(
        f"{hub_here.endpoint}/api/spaces/alice/page/secrets", headers={"Authorization": "Bearer hf_alice"}
    ).text  # fmt: skip
    api.delete_space_variable("alice/page", "A")
    assert api.get_space_variables("alice/page") == {}
    with pytest.raises(ValueError, match='"sdk" must be one of'):
        card = b"---\ntitle: x\nsdk: painting\n---\n"
        operations = [CommitOperationAdd("README.md", card)]
        api.create_commit("alice/page", operations, repo_type="space", commit_message="card")


def test_a_commit_is_refused_whole(hub_here, api):
    parent = add(api, "a.txt", b"one").oid
    add(api, "a.txt", b"two")
    with pytest.raises(HfHubHTTPError, match="412"):
        add(api, "a.txt", b"three", parent_commit=parent)
    with pytest.raises(EntryNotFoundError):
        operations = [CommitOperationAdd("b.txt", b""), CommitOperationDelete("none.txt")]
        api.create_commit("alice/thing", operations, commit_message="half")
    assert hub_here.files("alice/thing") == {"a.txt": b"two"}


@pytest.mark.parametrize(
    "lines",
    [
        [],
        [{"key": "file", "value": {"path": "a", "content": ""}}],
        [{"key": "header", "value": {"summary": "s", "colour": "red"}}],
        [{"key": "header", "value": {"summary": "s"}}, {"key": "paint", "value": {}}],
        [{"key": "header", "value": {"summary": "s"}}, {"key": "file", "value": {"path": "../a", "content": ""}}],
        [
            {"key": "header", "value": {"summary": "s"}},
            {"key": "lfsFile", "value": {"path": "a", "algo": "sha256", "oid": "0" * 64}},
        ],
        [
            {"key": "header", "value": {"summary": "s"}},
            {"key": "file", "value": {"path": "README.md", "content": "---\nlicense: none\n---"}},
        ],
    ],
)
def test_commits_that_are_none(hub_here, api, lines):
    assert Sender(f"{hub_here.endpoint}/api/models/alice/thing/commit/main").lines(lines) == 400
    assert hub_here.files("alice/thing") == {}


HEADER = {"key": "header", "value": {"summary": "s"}}


def test_a_commit_is_refused_that_the_hub_would_not_take(hub_here, api):
    send = Sender(f"{hub_here.endpoint}/api/models/alice/thing/commit/main")
    assert send.lines([HEADER], content_type="text/plain") == 400
    twice = [{"key": "file", "value": {"path": "a", "content": text}} for text in "xy"]
    rotated = {"key": "file", "value": {"path": "a", "content": "eA==", "encoding": "rot13"}}
    binary = {"key": "file", "value": {"path": "a.safetensors", "content": "eA==", "encoding": "base64"}}
    elsewhere = {"key": "lfsFile", "value": {"path": "a", "algo": "sha256", "oid": "../../repos/models/alice/thing"}}
    for lines in (twice, [rotated], [binary], [elsewhere]):
        assert send.lines([HEADER, *lines]) == 400
    assert hub_here.files("alice/thing") == {}


def test_a_large_file_belongs_to_the_repository_it_was_sent_to(hub_here, api):
    """Whoever knows the sha256 of somebody's private file does not get it by naming it."""
    content = b"top secret" * 10
    theirs = HfApi(token="hf_bob")
    theirs.create_repo("bob/secret", private=True)
    addition = [CommitOperationAdd("a.bin", content), CommitOperationAdd("a.txt", content)]
    theirs.create_commit("bob/secret", addition, commit_message="s")
    oid = hashlib.sha256(content).hexdigest()
    stolen = {"key": "lfsFile", "value": {"path": "a", "algo": "sha256", "oid": oid, "size": len(content)}}
    assert Sender(f"{hub_here.endpoint}/api/models/alice/thing/commit/main").lines([HEADER, stolen]) == 400
    add(api, "mine.bin", content)
    assert hub_here.large.uploads == [oid, oid]


def test_who_may_only_read_changes_and_proposes_nothing(hub_here, api):
    for create_pr in (False, True):
        with pytest.raises(HfHubHTTPError, match="403"):
            add(HfApi(token="hf_alice_reads"), "a.bin", b"x", create_pr=create_pr)
    batch = f"{hub_here.endpoint}/alice/thing.git/info/lfs/objects/batch"
    body = {"operation": "upload", "objects": [{"oid": "0" * 64, "size": 1}]}
    assert Sender(batch, "hf_alice_reads").json(body) == 403
    assert hub_here.repository("alice/thing").pulls == []
    assert hub_here.large.uploads == []


def test_unknown_keys_and_parameters_are_refused(hub_here, api):
    host, one = hub_here.endpoint, f"{hub_here.endpoint}/api/models/alice/thing"
    file = {"path": "a", "size": 1, "sample": ""}
    for address, body in (
        (f"{host}/api/repos/create", {"name": "x", "colour": 1}),
        (f"{host}/api/repos/create", {"name": 1}),
        (f"{one}/paths-info/main", {"paths": ["a"], "colour": 1}),
        (f"{one}/paths-info/main", {}),
        (f"{one}/preupload/main", {"files": [file | {"size": "1"}]}),
        (f"{one}/preupload/main", {"files": [file | {"sample": "%%"}]}),
        (f"{one}/branch/x?colour=1", {}),
        (f"{one}/tag/main?colour=1", {"tag": "v1"}),
        (f"{one}/discussions?colour=1", {"title": "abc", "description": "", "pullRequest": True}),
    ):
        assert Sender(address).json(body) == 400, address
    for address in (f"{one}?colour=1", f"{host}/alice/thing/resolve/main/.gitattributes?colour=1"):
        assert Sender(address).get() == 400, address
    unsigned = f"{host}/storage/upload/models/alice/thing/{'0' * 64}/0/bad"
    assert get_session().put(unsigned, content=b"").status_code == 403


def test_the_state_outlives_the_server(tmp_path):
    with running_hub(tmp_path) as hub:
        made = hub.store.create(Repository("models", "alice/kept"))
    with running_hub(tmp_path) as hub:
        assert hub.repository("alice/kept") == made


def test_xet_uploads_and_downloads_by_the_real_client(tmp_path):
    files = contents("dataset", shards=2, size=200_000)
    folder = write(tmp_path / "data", files)
    with running_hub(tmp_path / "hub", xet=True) as hub:
        environment = hub.environment(tmp_path / "home", PYTHONPATH=os.pathsep.join(p for p in sys.path if p))
        for code, arguments in ((PUBLISH, (str(folder), "alice/thing")), (DOWNLOAD, ("alice/thing",))):
            done = subprocess.run(
                [sys.executable, "-c", code, *arguments], env=environment, capture_output=True, text=True, timeout=600
            )
            assert done.returncode == 0, done.stderr
        assert hub.files("alice/thing", "datasets") == published("dataset", "alice/thing", shards=2, size=200_000)
        assert not hub.requests("PUT"), "nothing went by LFS"
        assert len(hub.requests("GET", "xet-write-token")) >= 1
        assert len(hub.requests("GET", "xet-read-token")) >= 1
    downloaded = Path(done.stdout.strip())
    assert (downloaded / "data/train-00001-of-00002.parquet").read_bytes() == files[
        "data/train-00001-of-00002.parquet"
    ]


@pytest.fixture(scope="module")
def npm_library(pytestconfig) -> Path:
    """The npm client, installed once into pytest's cache."""
    folder = pytestconfig.cache.mkdir("npm")
    library = folder / "node_modules" / "@huggingface" / "hub" / "dist" / "index.mjs"
    if not (shutil.which("node") and shutil.which("npm")):
        skip_or_fail("node and npm are not here")
    if not library.exists():
        command = ["npm", "install", "--prefix", str(folder), "--no-audit", "--no-fund", NPM_CLIENT]
        done = subprocess.run(command, capture_output=True, text=True, timeout=280)
        if done.returncode:
            skip_or_fail(f"npm cannot install {NPM_CLIENT}: {done.stderr.strip()[-200:]}")
    return library


def test_the_npm_client_reads_it_the_same_way(hub_here, npm_library, tmp_path):
    files = contents("dataset")
    publish(plan_publication(write(tmp_path, files)), "alice/thing")
    program = Path(__file__).with_name("hub_client.mjs")
    done = subprocess.run(
        ["node", program, npm_library, hub_here.endpoint], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    repository = hub_here.repository("alice/from-npm")
    assert told == {
        "name": "alice",
        "commit": repository.head("main"),
        "files": [".gitattributes", "README.md", "weights.safetensors"],
        "same": True,
        "private": False,
        "listed": ["alice/from-npm"],
        "theirs": hashlib.sha256(files["data/train-00000-of-00003.parquet"]).hexdigest(),
        "refused": 403,
    }
    assert repository.find("main").tree["weights.safetensors"].large
