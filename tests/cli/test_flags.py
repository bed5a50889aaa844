"""Flags of all commands: what they take, what they refuse, and how the help reads. Nothing is run."""

import argparse
import importlib
import os
import resource
import subprocess
import sys

import pytest
import yaml

from stablerep_hf.cli import COMMANDS, main
from stablerep_hf.cli.flags import Number, Switch, text
from stablerep_hf.cli.wording import in_flags
from stablerep_hf.errors import InputError
from stablerep_hf.training.presets import read_config


def command(name):
    return importlib.import_module(f"stablerep_hf.cli.{name.replace('-', '_')}").COMMAND


def flags():
    """(command, action) of every flag of every command, transformers' among them."""
    return [
        (name, action)
        for name in COMMANDS
        for action in command(name).parser(whole=True)._actions
        if action.option_strings
    ]


def names_of(name):
    return [f"n{place}" for place, shown in enumerate(command(name).names) if not shown.startswith("[")]


def refusal(name, *words):
    with pytest.raises(InputError) as error:
        command(name).parse([*names_of(name), *words])
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.fixture(scope="module")
def numeric():
    found = [(name, action) for name, action in flags() if isinstance(action.type, Number)]
    assert len(found) > 150
    return found


def read(action, value):
    return action.type(value)


@pytest.mark.parametrize(
    "value", ["nan", "inf", "-inf", "1e999", "-1e999", "٣", "३", "１", "", " 1", "1_0", "0x10", "one"]
)
def test_what_is_no_number_is_refused_by_every_numeric_flag(numeric, value):
    for _, action in numeric:
        with pytest.raises(argparse.ArgumentTypeError, match=r"number|range"):
            read(action, value)


def test_every_numeric_flag_has_a_range_and_keeps_to_it(numeric):
    for name, action in numeric:
        range_ = action.type.range
        low, high = (str(int(edge)) for edge in (range_.low, min(range_.high, 10**18)))
        assert read(action, low) == range_.low, (name, action.dest)
        for beyond in (10**21, -(10**21), int(range_.low) - 1):
            if range_.high >= 1e300 and beyond > 0:
                continue
            with pytest.raises(argparse.ArgumentTypeError, match="out of range: give"):
                read(action, str(beyond))
        assert read(action, high) == int(high)
        if action.type.kind is int:
            with pytest.raises(argparse.ArgumentTypeError, match="whole number"):
                read(action, "1.5")


def test_the_refusal_of_a_number_names_the_flag_as_typed_with_dashes():
    assert refusal("train", "--max_steps", str(10**21)).startswith(
        f"--max-steps {10**21} is out of range: give -1 or more;"
    )
    assert refusal("generate", "--guidance_scale=nan").startswith("--guidance-scale 'nan' is not a finite number;")
    assert refusal("demo-app", "--port", "-1").startswith("--port -1 is out of range: give a number from 0 to 65535;")


def test_a_home_folder_is_written_out_once_in_every_flag_that_takes_a_path(monkeypatch):
    monkeypatch.setenv("HOME", "/home/~somebody")
    texts = [action for _, action in flags() if action.type is text]
    assert {"output", "data", "captions", "generator", "config", "cache"} <= {action.dest for action in texts}
    # a path is text that a flag takes: none of them is read in another way
    assert not [action for _, action in flags() if action.type is None and action.nargs != 0]
    for action in texts:
        assert action.type("~/x[1]") == "/home/~somebody/x[1]"
        assert action.type("/home/~somebody/x[1]") == "/home/~somebody/x[1]"
        assert action.type("a ~ b") == "a ~ b"


def test_a_home_folder_is_written_out_in_names_and_in_yaml(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", "/home/somebody")
    file = tmp_path / "c.yaml"
    file.write_text("output: ~/index\nimage-column: picture\nexact_below: 5\n")
    data, encoder, settings = command("index").parse(["~/data", "~/encoder", "--config", str(file)])
    assert (data, encoder, settings.output) == (
        "/home/somebody/data",
        "/home/somebody/encoder",
        "/home/somebody/index",
    )
    assert (settings.image_column, settings.exact_below) == ("picture", 5)


@pytest.mark.parametrize("spelling", ["--exact-below 7", "--exact_below 7", "--exact_below=7", "--exact-below=7"])
def test_dashes_and_underscores_are_one(spelling):
    assert command("index").parse(["a", "b", *spelling.split()])[2].exact_below == 7
    assert command("index").parse([*spelling.split(), "a", "b"])[:2] == ("a", "b")


def test_switches_are_set_and_unset():
    parse = command("captions").parse
    assert [parse(["a", *words])[1].repair for words in ([], ["--repair"], ["--no-repair"], ["--no_repair"])] == [
        True, True, False, False,
    ]  # fmt: skip
    assert parse(["a", "--repair", "false"])[1].repair is False
    assert parse(["a", "--keep-personal"])[1].keep_personal is True
    assert "takes no value" in refusal("captions", "--no-repair", "false")
    assert "neither true nor false" in refusal("captions", "--repair", "maybe")


def test_items_of_yaml_never_become_flags(tmp_path):
    file = tmp_path / "c.yaml"
    file.write_text(yaml.safe_dump({"languages": ["en", "--seed", "5"], "blocked-words": "--keep-personal"}))
    _, settings, _ = command("captions").parse(["a", "--config", str(file)])
    assert settings.languages == ["en", "--seed", "5"]
    assert (settings.seed, settings.blocked_words, settings.keep_personal) == (0, "--keep-personal", False)


@pytest.mark.parametrize(
    ("content", "parts"),
    [
        ("seed: nan\n", ["--seed 'nan' is not a whole number"]),
        ("seed: 1e21\n", ["--seed '1e+21' is not a whole number"]),
        ("seed: [1, 2]\n", ["a list for 'seed'"]),
        ("seeds: 1\n", ["unknown key 'seeds'", "did you mean 'seed'?"]),
        ("config: other.yaml\n", ["unknown key 'config'"]),
        ("allocation: half\n", ["--allocation half: choose one of uniform, sqrt, target"]),
        ("a: &a [x, x]\nb: &b [*a, *a]\nc: &c [*b, *b]\n", ["aliases (*name) are not supported"]),
        ("min-words: 3\nlanguages: [en]\nmin_words: 4\n", ["'min_words' is there twice", "line 3"]),
        ("[" * 100_000, ["is not YAML that can be read"]),
        ("a" * 2_000_000, ["2,000,000 characters"]),
    ],
)
def test_yaml_that_cannot_work_is_one_sentence(tmp_path, content, parts):
    file = tmp_path / "c.yaml"
    file.write_text(content)
    said = refusal("captions", "--config", str(file))
    for part in parts:
        assert part in said


def test_yaml_is_read_as_yaml_1_2(tmp_path):
    file = tmp_path / "c.yaml"
    file.write_text("languages: [en, no]\nsplit: on\ncap: null\nnear-duplicates: 1e-1\n")
    with file.open("a") as more:
        more.write("keep_personal: true\nrepair: false\n")
    _, settings, _ = command("captions").parse(["a", "--config", str(file)])
    assert (settings.languages, settings.near_duplicates) == (["en", "no"], 0.1)
    assert (settings.keep_personal, settings.repair) == (True, False)
    assert (settings.split, settings.cap) == ("on", None)
    assert read_config(str(file))["near_duplicates"] == 0.1, "the same from Python"


@pytest.mark.parametrize(
    ("name", "typed", "meant"),
    [
        ("train", "--lr", "--learning-rate"),
        ("train", "--epochs", "--num-train-epochs"),
        ("train", "--batch_size", "--captions-per-batch"),
        ("train", "--model_size", "--size"),
        ("finetune", "--batch-size=3", "--images-per-batch"),
        ("generate", "--guidance", "--guidance-scale"),
        ("generate", "--ouput", "--output"),
        ("captions", "--colums", "--column"),
    ],
)
def test_a_mistyped_flag_is_pointed_to_the_one_that_was_meant(name, typed, meant):
    assert f"there is no flag {typed.partition('=')[0].replace('_', '-')}, did you mean {meant}" in refusal(
        name, typed, "1"
    )


@pytest.mark.parametrize(("name", "typed"), [("index", "--data"), ("index", "--encoder"), ("score", "--data")])
def test_a_flag_in_place_of_a_name_is_told_where_names_come(name, typed):
    usage = {"index": "DATASET ENCODER", "score": "DIR"}[name]
    assert f"there is no flag {typed}, names come without flags: `stablerep {name} {usage}`; " in refusal(
        name, typed, "x"
    )
    assert "names come" not in refusal(name, "--zzz", "x")


def test_a_mistyped_command_is_pointed_to_the_one_that_was_meant(capsys):
    assert [main(["genrate"]), main(["zzz"])] == [2, 2]
    said = capsys.readouterr().err.splitlines()
    assert said[0] == "stablerep: there is no command 'genrate': did you mean 'generate'?"
    assert "choose one of demo, captions" in said[1]


@pytest.mark.parametrize(
    ("message", "shown"),
    [
        ("guidance_scale=-1 drives images away.", "--guidance-scale -1 drives images away."),
        ("give `guidance_scale` or `seed`.", "give `--guidance-scale` or `--seed`."),
        ("no=1 flag and `load_dataset(x, seed=3)`", "no=1 flag and `load_dataset(x, seed=3)`"),
        ("give --guidance_scale 3, not --other_thing", "give --guidance-scale 3, not --other_thing"),
        ("call(seed=3), x.seed=4, data='a b'", "call(seed=3), x.seed=4, --data 'a b'"),
        ("seed = 3 and seed=", "seed = 3 and seed="),
        ("set data=True, or seed=False.", "set --data, or --no-seed."),
    ],
)
def test_arguments_in_errors_become_flags(message, shown):
    assert in_flags(message, {"guidance_scale", "seed", "data"}) == shown


@pytest.mark.parametrize("name", COMMANDS)
def test_help_describes_everything_and_loads_no_heavy_library(name):
    code = (
        "import sys\nfrom stablerep_hf.cli import main\ntry: main(sys.argv[1:])\nexcept SystemExit: pass\n"
        "print('LOADED', [m for m in ('torch', 'transformers', 'datasets', 'numpy', 'PIL') if m in sys.modules])"
    )
    environment = {**os.environ, "COLUMNS": "100"}
    run = subprocess.run(
        [sys.executable, "-c", code, name, "--help"], capture_output=True, text=True, check=True, env=environment
    )
    assert run.stdout.endswith("LOADED []\n")
    assert "(default: None)" not in run.stdout and "(default: False)" not in run.stdout
    for action in command(name).parser(whole=False)._actions:
        assert action.help, (name, action.dest)
    for shown in command(name).names:
        assert shown.strip("[].") in run.stdout


def test_help_takes_less_than_half_a_second():
    def cpu_seconds():  # what it takes, whatever else runs on the machine
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run(
            [sys.executable, "-m", "stablerep_hf", "train", "--help"], check=True, stdout=subprocess.DEVNULL
        )
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    assert min(cpu_seconds() for _ in range(3)) < 0.5


def test_the_help_of_train_lists_ours_and_help_all_the_rest(capsys):
    said = []
    for flag in ("--help", "--help-all"):
        with pytest.raises(SystemExit) as left:
            main(["train", flag])
        assert left.value.code == 0
        said.append(capsys.readouterr().out)
    short, whole = said
    assert "--captions-per-batch" in short and "--help-all lists them" in short
    assert "--fsdp" not in short and whole.index("--captions-per-batch") < whole.index("--fsdp")
    assert len(short.splitlines()) < 200 < len(whole.splitlines())


def test_every_switch_is_shown_by_what_it_does():
    for _, action in flags():
        if isinstance(action, Switch):
            assert action.option_strings == [
                f"--{action.dest}".replace("_", "-"),
                f"--no-{action.dest}".replace("_", "-"),
            ]


def test_shells_complete_commands_and_flags(capsys):
    assert main(["completion", "bash"]) == 0
    said = capsys.readouterr().out
    assert "--captions-per-batch" in said and "adapt-generator" in said
    run = subprocess.run(["bash", "-n"], input=said, text=True, capture_output=True)
    assert run.returncode == 0, run.stderr
    assert main(["completion", "csh"]) == 2


def test_env_says_what_a_bug_report_needs_and_no_secret(capsys, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    assert main(["env"]) == 0
    said = capsys.readouterr().out
    assert all(f"\n{name} " in f"\n{said}" for name in ("python", "torch", "transformers", "datasets", "accelerator"))
    assert "GiB free" in said and "hf_secret" not in said


@pytest.mark.parametrize("module", ["stablerep_hf", "stablerep_hf.cli"])
def test_the_package_runs_as_a_module(module):
    run = subprocess.run([sys.executable, "-m", module, "--version"], capture_output=True, text=True, check=True)
    assert run.stdout == "stablerep 0.1.0\n"


def test_what_a_terminal_cannot_show_is_escaped(tmp_path):
    (tmp_path / "c.txt").write_text("a red heart \N{HEAVY BLACK HEART}\n", "utf-8")
    code = "import sys\nfrom stablerep_hf.cli import main\nsys.exit(main(['show', 'no-\\u2764-file']))"
    run = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, "PYTHONIOENCODING": "ascii"}, capture_output=True, text=True
    )
    assert run.returncode == 2 and "Traceback" not in run.stderr and r"\u2764" in run.stderr
