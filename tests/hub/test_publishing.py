"""Publishing against a Hub on loopback: what arrives, what never does, and what becomes of every accident."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time

import pytest
from hub_double import running_hub
from huggingface_hub import CommitOperationAdd, HfApi, set_client_factory
from huggingface_hub.utils._http import default_client_factory
from painters import Painter
from publishable import CARDS, UNWANTED, contents, published, write
from waiting import wait_until

from stablerep_hf import assets
from stablerep_hf.captions import CaptionSet
from stablerep_hf.cli import main
from stablerep_hf.errors import InputError
from stablerep_hf.hub import assemble_space, dataset_facts, plan_publication, publish, write_dataset_card
from stablerep_hf.synthesis import SynthesisPlan, export_parquet, synthesize

TYPES = {"model": "models", "dataset": "datasets", "space": "spaces"}


@pytest.fixture
def waits(monkeypatch):
    """Seconds that were waited for, without waiting."""
    waited: list[float] = []
    monkeypatch.setattr(time, "sleep", waited.append)
    return waited


def push(folder, repository="alice/thing", **options):
    return publish(plan_publication(folder), repository, **options)


# ---------------------------------------------------------------- what arrives


@pytest.mark.parametrize("kind", ["model", "dataset", "space"])
def test_a_folder_becomes_a_repository_in_one_commit(hub_here, tmp_path, kind):
    address = push(write(tmp_path, contents(kind)))
    assert hub_here.files("alice/thing", TYPES[kind]) == published(kind, "alice/thing")
    repository = hub_here.repository("alice/thing", TYPES[kind])
    first, last = repository.commits.values()
    assert (first.title, last.title) == ("initial commit", f"Publish {tmp_path.name}")
    assert address == f"{hub_here.endpoint}/{repository.prefix}alice/thing/commit/{last.id}"
    assert not repository.private
    assert repository.sdk == ("gradio" if kind == "space" else None)


def test_what_ships_in_this_project_can_be_published(hub_here, tmp_path):
    push(assets.generator_path(), "alice/generator")
    assert "unet/diffusion_pytorch_model.safetensors" in hub_here.files("alice/generator")
    push(assets.pictograms_path(), "alice/pictograms")
    assert sum(name.startswith("data/") for name in hub_here.files("alice/pictograms", "datasets")) == 3
    push(assets.encoder_path(), "lab/encoder")
    for name, type in (("alice/generator", "models"), ("alice/pictograms", "datasets"), ("lab/encoder", "models")):
        card = hub_here.files(name, type)["README.md"].decode()
        assert f'"{name}"' in card
        assert "path/to/this/folder" not in card, "its examples load the repository"
    space = assemble_space(tmp_path / "space", {"ENCODER": "lab/encoder", "DATASET": "alice/pictograms"})
    push(space, "alice/search", variables={"RESULTS": "5"})
    assert hub_here.repository("alice/search", "spaces").variables["RESULTS"]["value"] == "5"
    there = hub_here.files("alice/search", "spaces")
    assert {"README.md", "app.py", "requirements.txt", "config.yaml", "stablerep_hf/space/page.py"} <= set(there)
    (space / "stablerep_hf" / "space" / "map.js").unlink()
    push(space, "alice/search")
    assert set(there) - set(hub_here.files("alice/search", "spaces")) == {"stablerep_hf/space/map.js"}


def test_a_folder_is_published_from_python_as_by_the_command(hub_here, tmp_path, capsys):
    folder = write(tmp_path / "encoder", contents("model"))
    address = publish(folder, "alice/python", tag="v1")
    assert main(["publish", str(folder), "alice/command", "--tag", "v1"]) == 0
    said = capsys.readouterr().out.splitlines()
    assert said[-1] == f"Published: {hub_here.endpoint}/alice/command"
    assert address.startswith(f"{hub_here.endpoint}/alice/python/commit/")
    one, two = (hub_here.files(f"alice/{name}") for name in ("python", "command"))
    assert {name: content.replace(b"alice/python", b"alice/command") for name, content in one.items()} == two


def test_a_space_whose_encoder_is_nowhere_is_refused(hub_here, tmp_path, capsys, monkeypatch):
    folder = assemble_space(tmp_path / "space", {"ENCODER": "alice/nowhere"})
    with pytest.raises(InputError, match=r"alice/nowhere, which the Space shows, is not on the Hub"):
        publish(folder, "alice/search")
    assert not hub_here.requests("POST", "/api/repos/create")
    words = ["publish", "space", "alice/search", "--variables", "ENCODER=alice/nowhere", "--dry-run"]
    assert main(words) == 0
    assert "missing  alice/nowhere" in capsys.readouterr().out
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert main(words) == 0
    assert "not looked for, since the Hub cannot be asked" in capsys.readouterr().out


def test_photos_are_told_what_publishes_them(tmp_path):
    (tmp_path / "train" / "cat").mkdir(parents=True)
    (tmp_path / "train" / "cat" / "1.JPG").write_bytes(b"x")
    with pytest.raises(InputError, match=r"load_dataset\('imagefolder', data_dir=FOLDER\)` and its `push_to_hub"):
        plan_publication(tmp_path)


def test_what_must_never_be_published_is_not(hub_here, tmp_path):
    for kind in ("model", "dataset"):
        folder = write(tmp_path / kind, contents(kind) | dict.fromkeys(UNWANTED, b"unwanted"))
        publication = plan_publication(folder)
        assert set(publication.left_out) == set(UNWANTED)
        assert publication.num_bytes == sum(map(len, contents(kind).values()))
        push(folder)
        assert hub_here.files("alice/thing", TYPES[kind]) == published(kind, "alice/thing")


SECRETS = [
    b"hf_" + b"aB3" * 12, b"-----BEGIN RSA PRIVATE KEY-----", b"ghp_" + b"a1B2" * 9, b"github_pat_" + b"a1B2" * 9,
    b"AKIAIOSFODNN7EXAMPLE", b"sk-proj-" + b"a1B2" * 12, b"sk-" + b"a1B2" * 12, b"WANDB_API_KEY=" + b"01234567" * 5,
]  # fmt: skip


@pytest.mark.parametrize("secret", SECRETS, ids=lambda secret: secret[:8].decode())
def test_a_file_with_a_secret_in_it_stops_everything(hub_here, tmp_path, secret):
    write(tmp_path, contents("model") | {"notes.json": b'{"key": "%s"}' % secret})
    with pytest.raises(InputError, match=r"notes\.json .* holds what looks like"):
        push(tmp_path)
    assert not hub_here.requests()


@pytest.mark.parametrize("name", ["notes.TXT", "DATA.Json", "NOTICE", "logo.svg", "log.jsonl"])
def test_secrets_are_looked_for_in_every_file_that_is_not_binary(tmp_path, name):
    long = b"a line of text\n" * 69904 + b" " + SECRETS[0]  # over the end of a block of 1 MiB
    assert len(long) - len(SECRETS[0]) < 1 << 20 < len(long)
    with pytest.raises(InputError, match=f"{name} .* holds what looks like"):
        plan_publication(write(tmp_path, contents("model") | {name: long}))


def test_private_means_private(hub_here, tmp_path):
    write(tmp_path, contents("model"))
    push(tmp_path, private=True)
    assert hub_here.repository("alice/thing").private
    push(tmp_path, private=True)
    push(tmp_path, "alice/public")
    with pytest.raises(InputError, match="there already and public"):
        push(tmp_path, "alice/public", private=True)


def test_a_version_has_a_name_that_stays(hub_here, tmp_path):
    push(write(tmp_path, contents("model")), tag="v1")
    write(tmp_path, contents("model", seed=1))
    with pytest.raises(InputError, match="version 'v1' already"):
        push(tmp_path, tag="v1")
    assert hub_here.files("alice/thing") == published("model", "alice/thing")
    push(tmp_path, tag="v2")
    for version, seed in (("v1", 0), ("v2", 1)):
        assert hub_here.files("alice/thing", revision=version) == published("model", "alice/thing", seed=seed)


def test_a_tagged_version_is_finished_by_the_same_command(hub_here, tmp_path, waits):
    folder = write(tmp_path, contents("space"))
    for method, path in (("POST", "/variables"), ("POST", "/tag/")):
        hub_here.fail(method, path, status=500, times=99)
        with pytest.raises(InputError, match="injected 500"):
            push(folder, tag="v1", variables={"A": "b"})
        hub_here.faults.waiting.clear()
    for _ in range(2):  # what is done may be asked for again
        push(folder, tag="v1", variables={"A": "b"})
    repository = hub_here.repository("alice/thing", "spaces")
    assert repository.variables["A"]["value"] == "b"
    assert repository.tags == {"v1": repository.head("main")}
    write(folder, {"app.py": b"print('a page!')"})  # as long as the other
    with pytest.raises(InputError, match="version 'v1' already"):
        push(folder, tag="v1")


def test_a_new_version_takes_the_place_of_the_old_one(hub_here, tmp_path):
    push(write(tmp_path / "old", contents("dataset", shards=5)))
    HfApi().upload_file(
        path_or_fileobj=b"by hand", path_in_repo="notes.txt", repo_id="alice/thing", repo_type="dataset"
    )
    push(write(tmp_path / "new", contents("dataset", seed=1, shards=2)))
    left = hub_here.files("alice/thing", "datasets")
    assert left.pop("notes.txt") == b"by hand"
    assert left == published("dataset", "alice/thing", seed=1, shards=2)


def test_nothing_of_another_form_of_the_model_stays(hub_here, tmp_path, capsys):
    """What a loader would mix with the new version goes; what somebody added, and the state of a training, stays."""
    forms = ("onnx/model.onnx", "modules.json", "1_Pooling/config.json", "tokenizer.json", "vocab.txt")
    push(write(tmp_path / "dual", contents("model") | dict.fromkeys(forms, b"old")))
    others = ("results.json", "notes.txt", "last-checkpoint/model.safetensors", "last-checkpoint/config.json")
    operations = [CommitOperationAdd(name, b"theirs") for name in others]
    HfApi().create_commit("alice/thing", operations, commit_message="by hand")
    folder = write(tmp_path / "encoder", contents("model", seed=1))
    assert main(["publish", str(folder), "alice/thing", "--dry-run"]) == 0
    listed = re.findall(r"removed  (.+)", capsys.readouterr().out)
    assert set(hub_here.files("alice/thing")) >= set(listed) == set(forms), "a dry run changes nothing"
    push(folder)
    left = hub_here.files("alice/thing")
    assert {name: left.pop(name) for name in others} == dict.fromkeys(others, b"theirs")
    assert left == published("model", "alice/thing", seed=1)


@pytest.mark.parametrize("tags", ["", "tags: [stablerep]\n"])
def test_what_others_made_is_not_replaced(hub_here, tmp_path, capsys, tags):
    api = HfApi()
    api.create_repo("alice/thing", repo_type="dataset")
    precious = {"data/photos-0.parquet": b"precious", "README.md": f"---\nlicense: mit\n{tags}---\n".encode()}
    operations = [CommitOperationAdd(name, content) for name, content in precious.items()]
    api.create_commit("alice/thing", operations, repo_type="dataset", commit_message="by hand")
    folder = write(tmp_path, contents("dataset"))
    if tags:  # pushed by a training of ours, say
        push(folder)
        assert hub_here.files("alice/thing", "datasets") == published("dataset", "alice/thing")
        return
    with pytest.raises(InputError, match="not published with `stablerep publish` and would be replaced: choose"):
        push(folder)
    assert main(["publish", str(folder), "alice/thing", "--dry-run"]) == 2
    assert hub_here.files("alice/thing", "datasets") == precious
    push(folder, create_pr=True)  # which whoever looks at it may merge
    assert hub_here.files("alice/thing", "datasets") == precious


def test_publishing_again_changes_nothing_and_sends_nothing(hub_here, tmp_path):
    write(tmp_path, contents("dataset"))
    first = push(tmp_path)
    before = list(hub_here.large.uploads)
    assert push(tmp_path) == first
    assert hub_here.large.uploads == before
    assert len(hub_here.repository("alice/thing", "datasets").commits) == 2


def test_a_proposal_is_not_a_change(hub_here, tmp_path, monkeypatch, waits):
    push(write(tmp_path / "a", contents("model")))
    monkeypatch.setenv("HF_TOKEN", "hf_bob")
    folder = write(tmp_path / "b", contents("model", seed=1))
    address = push(folder, create_pr=True)
    assert address.endswith("/alice/thing/discussions/1")
    assert hub_here.files("alice/thing") == published("model", "alice/thing")
    assert hub_here.files("alice/thing", revision="refs/pr/1") == published("model", "alice/thing", seed=1)
    assert push(folder, create_pr=True) == address, "a second try goes on with the first proposal"
    assert len(hub_here.repository("alice/thing").pulls) == 1
    hub_here.fail("POST", "/discussions", lose_answer=True)
    for method, path in (("GET", "/whoami-v2"), ("GET", "/discussions")):
        hub_here.fail(method, path, status=503)
    monkeypatch.setenv("HF_TOKEN", "hf_alice")
    assert push(folder, create_pr=True).endswith("/discussions/2"), "it is waited for, and proposed once"
    assert len(hub_here.repository("alice/thing").pulls) == 2
    with pytest.raises(InputError, match="no model alice/other to propose"):
        push(folder, "alice/other", create_pr=True)
    with pytest.raises(InputError, match="only proposes"):
        push(folder, create_pr=True, tag="v1")


def test_large_files_go_up_in_parts(hub_here, tmp_path):
    hub_here.large.part_size = 30_000
    push(write(tmp_path, contents("model", size=100_000)))
    assert hub_here.files("alice/thing") == published("model", "alice/thing", size=100_000)
    assert len(hub_here.requests("PUT", "/storage/part/")) == 4


# ---------------------------------------------------------------- accidents that are got over


@pytest.mark.parametrize(
    ("method", "path", "how"),
    [
        ("PUT", "/storage/upload/", {"status": 500, "times": 2}),
        ("PUT", "/storage/upload/", {"drop_after": 65_536}),
        ("POST", "/objects/batch", {"status": 503}),
        ("POST", "/preupload/", {"status": 429, "headers": {"Retry-After": "7"}}),
        ("POST", "/commit/", {"status": 429, "headers": {"Retry-After": "7"}}),
        ("POST", "/commit/", {"status": 429, "headers": {"Retry-After": "86400"}}),
        ("POST", "/commit/", {"status": 500, "times": 3}),
        ("POST", "/commit/", {"lose_answer": True}),
        ("POST", "/repos/create", {"lose_answer": True}),
        ("POST", "/validate-yaml", {"status": 502, "times": 2}),
        ("GET", "/api/datasets/alice/thing", {"status": 504}),
        ("POST", "/tag/", {"lose_answer": True}),
    ],
    ids=lambda value: str(value),
)
def test_what_passes_is_waited_for(hub_here, tmp_path, waits, method, path, how):
    hub_here.fail(method, path, **how)
    large = {"size": 200_000}  # more than is read at once, so that a connection can be cut midway
    push(write(tmp_path, contents("dataset", **large)), tag="v1")
    assert hub_here.files("alice/thing", "datasets", "v1") == published("dataset", "alice/thing", **large)
    repository = hub_here.repository("alice/thing", "datasets")
    assert len(repository.commits) == 2, "one commit, however often it was asked for"
    assert waits
    assert how.get("status") != 429 or 7 <= max(waits) <= 300
    assert not [fault for fault in hub_here.faults.waiting if fault.times], "the fault did strike"


# ---------------------------------------------------------------- accidents that stop it


def somebody_commits(hub):
    repository = hub.repository("alice/thing", "datasets")
    tree = dict(repository.find("main").tree) | {"theirs.txt": hub.store.put_file(b"theirs")}
    repository.move("main", repository.add_commit(repository.head("main"), tree, "theirs", "", "bob").id)


@pytest.mark.parametrize(
    ("method", "path", "how", "says"),
    [
        ("PUT", "/storage/upload/", {"status": 507}, "507"),
        ("POST", "/objects/batch", {"status": 507}, "507"),
        ("PUT", "/storage/upload/", {"corrupt": True}, "BadDigest"),
        ("PUT", "/storage/upload/", {"status": 500, "times": 99}, "injected 500"),
        ("PUT", "/storage/upload/", {"drop_after": 65_536, "times": 99}, "what has arrived is kept"),
        ("POST", "/commit/", {"status": 429, "times": 99}, "injected 429"),
        ("POST", "/commit/", {"before": "somebody commits"}, "somebody changed the repository"),
    ],
    ids=lambda value: str(value),
)
def test_what_does_not_pass_is_one_sentence_and_no_half_commit(hub_here, tmp_path, waits, method, path, how, says):
    large = {"shards": 8, "size": 200_000}
    write(tmp_path, contents("dataset", **large))
    if "before" in how:
        how = {"before": lambda: somebody_commits(hub_here)}
    hub_here.fail(method, path, **how)
    with pytest.raises(InputError, match=r"^Publishing alice/thing stopped: ") as refusal:
        push(tmp_path)
    assert says in str(refusal.value)
    assert "\n" not in str(refusal.value)
    assert set(hub_here.files("alice/thing", "datasets")) <= {"theirs.txt"}
    hub_here.faults.waiting.clear()
    push(tmp_path)
    left = hub_here.files("alice/thing", "datasets")
    left.pop("theirs.txt", None)
    assert left == published("dataset", "alice/thing", **large)
    assert len(hub_here.large.uploads) == len(set(hub_here.large.uploads)) == 8, "no file arrived twice"


PUBLISH = "import sys; from stablerep_hf.cli import main; sys.exit(main(['publish', *sys.argv[1:]]))"


def test_killed_in_mid_upload_it_goes_on(hub, tmp_path):
    """kill -9 once five of twelve files are up: the repository stays empty, and no finished file goes up again."""
    folder = write(tmp_path / "data", contents("dataset", shards=12, size=300_000))
    environment = hub.environment(tmp_path / "home", PYTHONPATH=os.pathsep.join(p for p in sys.path if p))
    command = [sys.executable, "-c", PUBLISH, str(folder), "alice/thing"]
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    hub.fail("PUT", "/storage/upload/", times=5)  # these five pass
    hub.fail("PUT", "/storage/upload/", before=lambda: os.kill(process.pid, signal.SIGKILL))
    assert process.wait(200) == -signal.SIGKILL, process.stderr.read()
    assert hub.files("alice/thing", "datasets") == {}
    before = len(hub.large.uploads)
    assert 0 < before < 12
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    assert hub.files("alice/thing", "datasets") == published("dataset", "alice/thing", shards=12, size=300_000)
    assert len(hub.large.uploads) == len(set(hub.large.uploads)) == 12
    assert len(hub.repository("alice/thing", "datasets").commits) == 2


IN_PARTS = "import stablerep_hf.hub.publishing as p; p._SESSION_BYTES = 500_000; " + PUBLISH


@pytest.mark.parametrize("moment", [("GET", "/xet-write-token/"), ("POST", "/commit/")], ids=["upload", "commit"])
def test_killed_over_xet_it_goes_on(tmp_path, moment):
    """kill -9 as the third of three sessions begins, or before the commit: what was registered is not sent again."""
    how = {"shards": 6, "size": 300_000}
    folder = write(tmp_path / "data", contents("dataset", **how))
    with running_hub(tmp_path / "hub", xet=True) as hub:
        environment = hub.environment(tmp_path / "home", PYTHONPATH=os.pathsep.join(p for p in sys.path if p))
        command = [sys.executable, "-c", IN_PARTS, str(folder), "alice/thing"]
        process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        if moment[0] == "GET":
            hub.fail(*moment, times=2)
        # drop_after: a commit that was on its way counts as one that the kill kept back
        hub.fail(*moment, before=lambda: os.kill(process.pid, signal.SIGKILL), drop_after=0)
        assert process.wait(200) == -signal.SIGKILL, process.stderr.read()
        assert hub.files("alice/thing", "datasets") == {}
        wait_until(lambda: len(hub.xet.stores) == 3)  # the double answers a request though the client is dead
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=200)
        assert done.returncode == 0, done.stderr
        assert hub.files("alice/thing", "datasets") == published("dataset", "alice/thing", **how)
        assert len(hub.repository("alice/thing", "datasets").commits) == 2
        assert hub.xet.stored_bytes() < 1.02 * how["shards"] * how["size"], "what had arrived was sent again"
        assert not hub.requests("PUT"), "nothing went by LFS"


IMPATIENT = "import time; time.sleep = lambda seconds: None; " + PUBLISH


def test_accidents_over_xet(tmp_path):
    """A Hub that stays broken is one sentence and no commit; one that recovers, or loses its answer, is waited for."""
    folder = write(tmp_path / "data", contents("dataset"))
    with running_hub(tmp_path / "hub", xet=True) as hub:
        environment = hub.environment(
            tmp_path / "home",
            PYTHONPATH=os.pathsep.join(p for p in sys.path if p),
            HF_XET_CLIENT_RETRY_BASE_DELAY="10ms",
        )
        command = [sys.executable, "-c", IMPATIENT, str(folder), "alice/thing"]

        hub.fail("GET", "/xet-write-token/", status=500, times=99)
        refused = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=200)
        assert refused.returncode == 2, refused.stderr
        said = [line for line in refused.stderr.splitlines() if line.strip()]
        assert len(said) == 1
        assert "Publishing alice/thing stopped: " in said[0]
        assert "500" in said[0]
        assert hub.files("alice/thing", "datasets") == {}

        hub.faults.waiting.clear()
        hub.fail("GET", "/xet-write-token/", status=503, times=2)
        hub.fail("POST", "/commit/", lose_answer=True)
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=200)
        assert done.returncode == 0, done.stderr
        assert not [fault for fault in hub.faults.waiting if fault.times], "the faults did strike"
        assert hub.files("alice/thing", "datasets") == published("dataset", "alice/thing")
        assert len(hub.repository("alice/thing", "datasets").commits) == 2, "one commit, however often asked for"
        assert not hub.requests("PUT"), "nothing went by LFS"


# ---------------------------------------------------------------- input that cannot work


@pytest.mark.parametrize(
    ("token", "repository", "says"),
    [
        (None, "alice/thing", "needs a token"),
        ("hf_wrong", "alice/thing", "does not know the token"),
        ("hf_alice_reads", "alice/thing", "may not write there"),
        ("hf_bob", "alice/thing", "may not write there"),
        ("hf_alice", "al ice/th/ing", "give OWNER/NAME"),
        ("hf_alice", "alice/taken", "holds a diffusers pipeline"),
    ],
)
def test_wrong_names_and_tokens(hub_here, tmp_path, monkeypatch, token, repository, says):
    api = HfApi(token="hf_alice")
    api.create_repo("alice/taken")
    api.create_commit("alice/taken", [CommitOperationAdd("model_index.json", b"{}")], commit_message="another thing")
    known = {id: len(repository.commits) for (_, id), repository in hub_here.store.repositories.items()}
    if token is None:
        monkeypatch.delenv("HF_TOKEN")
        monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "none"))
    else:
        monkeypatch.setenv("HF_TOKEN", token)
    with pytest.raises(InputError, match=re.escape(says)) as refusal:
        push(write(tmp_path / "folder", contents("model")), repository)
    assert "\n" not in str(refusal.value)
    assert {id: len(r.commits) for (_, id), r in hub_here.store.repositories.items()} == known


@pytest.mark.parametrize(
    ("card", "says"),
    [
        ("---\nlicense: [mit\n---\n", "YAML that cannot be read"),
        ("---\n- a\n- b\n---\n", "YAML that cannot be read"),
        (CARDS["model"].replace("mit", "mine"), '"license" must be one of'),
    ],
)
def test_cards_that_the_hub_would_refuse(hub_here, tmp_path, card, says):
    write(tmp_path, contents("model") | {"README.md": card.encode()})
    with pytest.raises(InputError, match=re.escape(says)):
        push(tmp_path)
    assert not hub_here.store.repositories


def test_without_the_hub(hub_here, tmp_path, monkeypatch, waits):
    write(tmp_path, contents("model"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(InputError, match="HF_HUB_OFFLINE is set"):
        push(tmp_path)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(InputError, match=r"Publishing alice/thing stopped: .*refused"):
        push(tmp_path)
    assert 4 <= len(waits) <= 12


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    """A data set that `synthesize` drew, and the same exported."""
    folder = tmp_path_factory.mktemp("drawn")
    captions = CaptionSet.from_texts(f"thing number {index}" for index in range(6))
    plan = SynthesisPlan(captions, Painter().describe(), images_per_caption=2, captions_per_shard=2)
    synthesize(plan, Painter(), folder / "store", progress=False)
    write_dataset_card(folder / "store", dataset_facts(folder / "store", name="Painted", license="mit"))
    export_parquet(folder / "store", folder / "export")
    return folder


@pytest.mark.parametrize(("form", "remedy"), [("store", "--repair"), ("export", "export the data set again")])
def test_a_data_set_with_a_lost_or_damaged_shard_is_refused(drawn, tmp_path, form, remedy):
    folder = shutil.copytree(drawn / form, tmp_path / form)
    plan_publication(folder)
    shard = sorted((folder / "data").iterdir())[0]
    content = shard.read_bytes()
    shard.write_bytes(content[:-9] + bytes([content[-9] ^ 1]) + content[-8:])
    with pytest.raises(InputError, match=rf"{shard.name}. of .* has other bytes .*{remedy}"):
        plan_publication(folder)
    shard.rename(folder / "data" / "train-other.parquet")
    with pytest.raises(InputError, match=remedy):
        plan_publication(folder)


def test_a_model_without_its_weights_is_refused(tmp_path):
    model = {name: content for name, content in contents("model").items() if name != "model.safetensors"}
    with pytest.raises(InputError, match="no weights that can be published"):
        plan_publication(write(tmp_path / "a", model | {"pytorch_model.bin": b"a pickle"}))
    index = b'{"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}'
    parts = {"model.safetensors.index.json": index, "model-1.safetensors": b"part"}
    with pytest.raises(InputError, match=r"names model-2\.safetensors, which is not there"):
        plan_publication(write(tmp_path / "b", model | parts))
    generator = shutil.copytree(assets.generator_path(), tmp_path / "c")
    (generator / "vae" / "diffusion_pytorch_model.safetensors").rename(generator / "vae" / "model.bin")
    with pytest.raises(InputError, match="vae has no weights"):
        plan_publication(generator)


def test_names_and_links_that_the_hub_cannot_have(tmp_path):
    folder = write(tmp_path / "a", contents("model"))
    (folder / "cache.bin").symlink_to(tmp_path / "nowhere")
    assert plan_publication(folder).left_out == ("cache.bin",)
    (folder / "more.safetensors").symlink_to(tmp_path / "nowhere")
    with pytest.raises(InputError, match=r"more\.safetensors .* is a link to a file that is not there"):
        plan_publication(folder)
    folder = write(tmp_path / "b", contents("model") | {"café.txt": b"", os.fsdecode(b"caf\xe9.txt"): b""})
    with pytest.raises(InputError, match=r"'caf\\udce9\.txt', which is not UTF-8"):
        plan_publication(folder)


def test_any_client_of_huggingface_hub_is_waited_for(hub_here, tmp_path, waits):
    class Client(type(default_client_factory())):
        """Such as a proxy or certificates of one's own ask for."""

    set_client_factory(lambda: Client(follow_redirects=True, timeout=30))
    try:
        hub_here.fail("POST", "/commit/", lose_answer=True)
        push(write(tmp_path, contents("model")))
    finally:
        set_client_factory(default_client_factory)
    assert waits
    assert hub_here.files("alice/thing") == published("model", "alice/thing")


def test_folders_that_are_no_publication(tmp_path, monkeypatch):
    with pytest.raises(InputError, match="holds none of"):
        plan_publication(write(tmp_path / "a", {"notes.txt": b""}))
    with pytest.raises(InputError, match="has no card"):
        plan_publication(write(tmp_path / "b", {"config.json": b"{}"}))
    monkeypatch.setattr("stablerep_hf.hub.publication._MOST_FILES_IN_A_FOLDER", 4)
    with pytest.raises(InputError, match="has 5 files in 'data', and the Hub takes 4"):
        plan_publication(write(tmp_path / "c", contents("dataset", shards=5)))
    with pytest.raises(InputError, match="has no variables"):
        publish(plan_publication(write(tmp_path / "d", contents("model"))), "alice/thing", variables={"A": "b"})
