"""Pushes by the real huggingface_hub to a loopback Hub: one commit of what belongs to a bundle, or
a helpful error."""

import builtins
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import huggingface_hub.constants
import pytest

import train_v2_production
from generations.v1 import train_v1
from generations.v1_final import train_v1_final
from pipeline import hub
from pipeline.bundle import hub_transfer
from pipeline.bundle.hub_transfer import HubError, Place
from tests.fetching import foreign_hosts, nothing_leaves
from tests.hub_server import SIGNATURE, TOKEN, Fault, contents, loopback_hub, naps, small_bundle

pytest.importorskip("huggingface_hub")
FIXTURES = (foreign_hosts, loopback_hub, naps, nothing_leaves)
ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def bundle(tmp_path):
    return small_bundle(tmp_path / "v2")


def push(path, repo="user/repo", token=TOKEN, **options):
    place = Place(repo, **options)
    bundle = hub_transfer.read_bundle(path)
    return hub_transfer.push_bundle(bundle, place, hub.card_of(bundle, place), token)


def test_a_push_is_one_commit_of_the_bundle_s_files_and_the_model_card(loopback_hub, bundle):
    (bundle / "notes.txt").write_text("mine")
    url = push(bundle)
    repository = loopback_hub.repositories["user/repo"]
    (_, _, first), (oid, message, files) = repository.commits
    assert set(files) - set(first) == {*contents(bundle), "README.md"} - {"notes.txt"}
    assert {
        name: files[name] for name in contents(bundle) if name != "notes.txt"
    }.items() <= contents(bundle).items()
    assert url == f"{loopback_hub.url}/user/repo/commit/{oid}" and message == "v2 bundle"
    assert files["README.md"].startswith(b"---\nlibrary_name: keras\n")
    assert loopback_hub.told == []  # the storage behind a signed address is not told the token


def test_folders_and_passwords_of_an_older_bundle_are_cut_from_what_is_pushed(
    loopback_hub, tmp_path, caplog
):
    report = tmp_path / "v2" / "report_v2.html"
    report.parent.mkdir()
    image = "<img src='data:image/png;base64,/9j/4AAQ/abc/def'>"
    report.write_text(f"<p>from /home/me/candles/BTCUSDT_1h.csv</p>{image}")
    private = {
        "config": {"candles_dir": "/home/me/my candles", "output_dir": "C:\\Users\\me\\v2"},
        "run": {"command": "python train.py --base-url http://me:s3cret@host/api"},
        "verdict": "NO EDGE",
    }
    folder = small_bundle(tmp_path / "v2", **private)
    (folder / "training_log_v2.txt").write_text("candles of /home/me/candles/x.csv\n")
    metadata = hub_transfer.read_metadata(folder / "metadata_v2.json")
    metadata["files"][report.name] = hub_transfer.files.sha256_of(report)
    hub_transfer.files.write_json(folder / "metadata_v2.json", metadata)
    before = contents(folder)
    push(folder)
    arrived = loopback_hub.repositories["user/repo"].files
    for name, content in arrived.items():
        assert not any(one in content for one in (b"/home/me", b"Users", b"s3cret")), name
    assert arrived[report.name].decode() == f"<p>from BTCUSDT_1h.csv</p>{image}"
    assert arrived["training_log_v2.txt"] == b"candles of x.csv\n"
    for name in ("model.h5", "scalers_v2.pkl", "metrics_v2.json"):
        assert arrived[name] == before[name]
    assert contents(folder) == before
    assert "left out of what is pushed: report_v2.html, training_log_v2.txt, metadata_v2" in (
        caplog.text
    )
    pulled = hub_transfer.pull_bundle(Place("user/repo"), tmp_path / "pulled")  # hashes hold
    assert pulled.metadata["config"]["output_dir"] == "v2"


def test_the_same_bundle_again_makes_no_commit_and_a_changed_one_makes_one(loopback_hub, bundle):
    assert push(bundle) == push(bundle)
    push(small_bundle(bundle, verdict="EDGE"))
    assert [message for _, message, _ in loopback_hub.repositories["user/repo"].commits[1:]] == [
        "v2 bundle"
    ] * 2


def test_a_folder_of_many_networks_goes_below_a_folder_of_a_dataset(loopback_hub, tmp_path):
    folder = tmp_path / "v7"
    jobs = {}
    for name in ("BTCUSDT_1h", "ETHUSDT_15m"):
        small_bundle(folder)
        (folder / f"{name}_v7.h5").write_bytes(name.encode())
        jobs[name] = {
            "files": {f"{name}_v7.h5": hub_transfer.files.sha256_of(folder / f"{name}_v7.h5")}
        }
    small_bundle(folder, jobs=jobs)
    loopback_hub.add("datasets/user/data", {"README.md": b"theirs"})
    push(folder, "user/data", is_dataset=True, folder="models_v7")
    files = loopback_hub.repositories["datasets/user/data"].files
    assert {
        "models_v7/BTCUSDT_1h_v7.h5",
        "models_v7/ETHUSDT_15m_v7.h5",
        "models_v7/README.md",
    } < set(files)
    assert files["README.md"] == b"theirs"
    pulled = hub_transfer.pull_bundle(Place("user/data", True, "models_v7"), tmp_path / "pulled")
    assert contents(pulled.folder) == contents(folder)
    (folder / "BTCUSDT_1h_v7.h5").write_bytes(b"changed")
    with pytest.raises(
        ValueError, match="the bytes of BTCUSDT_1h_v7.h5 are not those that the metadata names"
    ):
        push(folder, "user/data")


DAMAGE = {
    "no metadata": (
        lambda folder: (folder / "metadata_v2.json").unlink(),
        "there is no complete bundle",
    ),
    "a file is missing": (lambda folder: (folder / "model.h5").unlink(), "model.h5 is missing"),
    "a file was changed": (
        lambda folder: (folder / "model.h5").write_bytes(b"x"),
        "the bytes of model.h5 are not",
    ),
    "metadata cut": (
        lambda folder: (folder / "metadata_v2.json").write_text("{"),
        "not readable as a bundle's JSON",
    ),
    "no files": (
        lambda folder: (folder / "metadata_v2.json").write_text("{}"),
        "does not say which files belong",
    ),
    "two bundles": (
        lambda folder: (folder / "metadata_v1.json").write_text("{}"),
        "there are several bundles",
    ),
}


@pytest.mark.parametrize(("damage", "message"), DAMAGE.values(), ids=DAMAGE.keys())
def test_what_is_no_whole_bundle_is_refused_before_anything_is_asked_of_the_hub(
    loopback_hub, bundle, damage, message
):
    damage(bundle)
    with pytest.raises(ValueError, match=message):
        push(bundle)
    assert loopback_hub.log == []


def test_a_bundle_is_not_mixed_with_another_generation_s(loopback_hub, bundle):
    loopback_hub.add("user/repo", {"metadata_v1.json": b"{}"})
    with pytest.raises(
        ValueError,
        match=r"holds another bundle \(metadata_v1.json\); give metadata_v2.json a reposi",
    ):
        push(bundle)
    assert len(loopback_hub.repositories["user/repo"].commits) == 1


REFUSALS = {
    "401": (Fault("POST", "/commit/", 401), "the token is missing, mistyped or expired"),
    "403 of the account": (
        Fault("POST", "/repos/create", 403),
        "the token may not do this; give it the right to write",
    ),
    "403": (
        Fault("POST", "/commit/", 403),
        "the token may not do this; give it the right to write",
    ),
    "409": (Fault("POST", "/commit/", 409), "somebody else changed the repository meanwhile"),
    "race": (Fault("POST", "/commit/", "race"), "somebody else changed the repository meanwhile"),
    "413": (Fault("POST", "/commit/", 413), "the Hub takes no files as large as these"),
    "429 for long": (
        Fault("POST", "/commit/", 429, 9, {"Retry-After": "3600"}),
        "requests, for another 3600 s; wait",
    ),
    "503": (
        Fault("POST", "/commit/", 503, 9),
        r"HTTP 503 .*the Hub is in trouble; try again later",
    ),
    "503 of an upload": (Fault("PUT", "/signed/", 503, 99), "HTTP 503"),
    "cut for good": (Fault("PUT", "/signed/", "cut", 99), "check network and repository"),
}


@pytest.mark.parametrize(("fault", "message"), REFUSALS.values(), ids=REFUSALS.keys())
def test_a_refusal_says_what_to_do_and_never_the_token(
    loopback_hub, bundle, naps, caplog, capsys, fault, message
):
    loopback_hub.faults = [fault]
    with pytest.raises(HubError, match=f"push to user/repo: .*{message}") as caught:
        push(bundle)
    shown = (
        f"{caught.value!r} {caught.value.__cause__!r} {caught.value.__context__!r} {caplog.text} "
        f"{capsys.readouterr()}"
    )
    assert TOKEN not in shown and SIGNATURE not in shown
    ours = [
        commit
        for commit in getattr(loopback_hub.repositories.get("user/repo"), "commits", [])
        if "v2" in commit[1]
    ]
    assert ours == []  # nothing half


PASSING = {
    "429": ([Fault("POST", "/commit/", 429, 1, {"Retry-After": "7"})], [7.0]),
    "503 twice": ([Fault("POST", "/commit/", 503, 2)], [2.0, 8.0]),
    "making the repository": ([Fault("POST", "/repos/create", 500)], [2.0]),
    "a commit cut in the middle": ([Fault("POST", "/commit/", "cut")], [2.0]),
    "a commit whose answer is lost": ([Fault("POST", "/commit/", "lost")], [2.0]),
    "an upload cut in the middle": ([Fault("PUT", "/signed/", "cut")], [1]),
    "an upload's 500": ([Fault("PUT", "/signed/", 500)], [1]),
    "before the upload": ([Fault("POST", "/preupload/", 502)], [1]),
}


@pytest.mark.parametrize(("faults", "waited"), PASSING.values(), ids=PASSING.keys())
def test_what_passes_is_tried_again_and_the_commit_is_made_once(
    loopback_hub, bundle, naps, faults, waited
):
    loopback_hub.faults = faults
    url = push(bundle)
    commits = loopback_hub.repositories["user/repo"].commits
    assert (
        len(commits) == 2
        and url.endswith(commits[-1][0])
        and set(contents(bundle)) < set(commits[-1][2])
    )
    assert naps == waited


def test_nobody_listening_is_an_error_that_names_the_network(
    bundle, naps, nothing_leaves, monkeypatch
):
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(
        huggingface_hub.constants, "HF_HUB_DISABLE_TELEMETRY", True
    )  # which the client reads once
    with pytest.raises(
        HubError, match="push to user/repo: .*refused.*; check network and repository"
    ):
        push(bundle)
    assert naps == [2.0, 8.0]


@pytest.mark.parametrize(
    "repo", ["repo", "a/b/c", "../repo", "user/..", "user/re po", "", "user/a--b", "-/x"]
)
def test_a_repository_that_is_no_user_and_name_is_refused(repo):
    with pytest.raises(ValueError, match="name it as user/repo"):
        Place(repo)
    with pytest.raises(ValueError, match="pass a relative one"):
        Place("user/repo", True, "../up")


def test_the_token_is_that_of_the_environment_else_of_a_login_else_of_a_hidden_prompt(
    monkeypatch, tmp_path
):
    import huggingface_hub.constants

    for name in ("HF_OIDC_RESOURCE", "HUGGING_FACE_HUB_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(huggingface_hub.constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
    monkeypatch.setattr("getpass.getpass", lambda prompt: " typed ")
    monkeypatch.setattr(hub_transfer, "_is_terminal", lambda: True)
    monkeypatch.setenv("HF_TOKEN", "of the environment")
    (tmp_path / "token").write_text("of the login\n")
    assert hub_transfer.find_token() == "of the environment"
    monkeypatch.delenv("HF_TOKEN")
    assert hub_transfer.find_token() == "of the login"
    (tmp_path / "token").unlink()
    assert hub_transfer.find_token() == "typed"
    monkeypatch.setattr(hub_transfer, "_is_terminal", lambda: False)
    with pytest.raises(ValueError, match="no Hugging Face token to push with; set HF_TOKEN"):
        hub_transfer.find_token()


def test_a_missing_huggingface_hub_is_an_error_that_names_the_remedy(bundle, monkeypatch):
    real_import = builtins.__import__

    def refuse(name, *arguments, **options):
        if name.startswith("huggingface_hub"):
            raise ImportError(name)
        return real_import(name, *arguments, **options)

    monkeypatch.setattr(builtins, "__import__", refuse)
    for ask in (
        hub_transfer.find_token,
        lambda: push(bundle),
        lambda: hub_transfer.list_bundle(Place("user/repo")),
    ):
        with pytest.raises(ValueError, match="pip install huggingface_hub"):
            ask()


@pytest.mark.parametrize("script", [train_v2_production, train_v1, train_v1_final])
def test_a_training_script_asks_for_the_token_before_it_does_anything(
    loopback_hub, script, tmp_path, monkeypatch
):
    monkeypatch.setenv("HF_TOKEN", "hf_ARevokedToken")
    config = replace(
        script.main.__defaults__[0], output_dir=tmp_path / "out", push_to_hub="user/repo"
    )
    with pytest.raises(HubError, match="the token is missing, mistyped or expired") as caught:
        script.main(config)
    assert not (tmp_path / "out").exists() and "Revoked" not in str(caught.value)


def test_a_push_after_training_that_fails_says_that_the_bundle_is_safe_and_how_to_go_on(
    loopback_hub, bundle, capsys
):
    hub.push_when_done(None)(bundle)
    push = hub.push_when_done("user/repo")
    loopback_hub.faults = [Fault("POST", "/commit/", 403)]
    with pytest.raises(
        ValueError,
        match=f"safe in {bundle}, .*again with: python -m pipeline.hub push {bundle} user/repo",
    ):
        push(bundle)
    push(bundle)
    assert f"pushed to {loopback_hub.url}/user/repo" in capsys.readouterr().out


def command(*arguments, home, **environment):
    environment = {
        "PATH": "",
        "HF_HOME": str(home),
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_DISABLE_XET": "1",
        **environment,
    }
    return subprocess.run(
        [sys.executable, "-m", "pipeline.hub", *map(str, arguments)],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
    )


@pytest.mark.parametrize("status", [200, 401, 403, 503])
def test_no_secret_is_in_the_output_or_any_file_of_a_push(loopback_hub, bundle, tmp_path, status):
    home = tmp_path / "home"
    if status != 200:
        loopback_hub.faults = [Fault("POST", "/commit/", status, 9, {"Retry-After": "0"})]
    done = command(
        "push",
        bundle,
        "user/repo",
        home=home,
        HF_TOKEN=TOKEN,
        HF_ENDPOINT=loopback_hub.url,
        HF_DEBUG="1",
    )
    assert done.returncode == (0 if status == 200 else 2), done.stderr
    assert ("pushed to" in done.stdout) == (status == 200) and "Traceback" not in done.stderr
    assert loopback_hub.count("POST", "/commit/") == (3 if status == 503 else 1)
    written = [path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()]
    pushed = [*loopback_hub.repositories["user/repo"].files.values()]
    for secret in (TOKEN, SIGNATURE):
        assert secret not in done.stdout + done.stderr
        assert not any(secret.encode() in content for content in written + pushed)


def test_the_command_pushes_lists_and_pulls(loopback_hub, bundle, tmp_path, capsys, monkeypatch):
    for arguments in (
        f"push {bundle} user/repo",
        "list user/repo",
        f"pull user/repo {tmp_path}/pulled",
    ):
        monkeypatch.setattr(sys, "argv", ["hub", *arguments.split()])
        hub.main()
    out = capsys.readouterr().out
    assert (
        "verdict  NO EDGE" in out
        and "1,000  model.h5".replace("1,000", f"{len(b'model.h5 of v2') * 100:,}") in out
    )
    assert contents(tmp_path / "pulled") == contents(bundle)
