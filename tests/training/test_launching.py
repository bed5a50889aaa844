"""Launchers: the configurations that ship, and a training over two machines."""

import json
import os
import subprocess
import sys
from importlib import resources

import pytest
from gloo import _free_port
from training_data import make_dataset

LAUNCH = resources.files("stablerep_hf.training") / "launch"
TINY = {
    "size": "micro",
    "image_size": 16,
    "patch_size": 8,
    "projection_hidden_dim": 16,
    "projection_dim": 8,
    "captions_per_batch": 4,
    "images_per_caption": 3,
    "max_steps": 3,
    "head_norm": "layer",  # statistics of four images would blow rounding up
    "learning_rate": 0.001,
    "save_strategy": "no",
    "logging_steps": 1,
}


@pytest.fixture
def data(tmp_path):
    folder = tmp_path / "data"
    folder.mkdir()
    make_dataset([4] * 8).to_parquet(folder / "train.parquet")
    return folder


def training(data, output, *flags):
    """Words of the command, after `python`."""
    tiny = [word for name, value in TINY.items() for word in (f"--{name}", str(value))]
    words = ["-m", "stablerep_hf.cli", "train", "--data", str(data), "--output", str(output)]
    return [*words, *tiny, *flags]


def record_of(output):
    return json.loads((output / "training.json").read_text())


def environment_of(config):
    """What `accelerate launch` tells the processes that it starts by a configuration."""
    from accelerate.commands.launch import _validate_launch_command, launch_command_parser
    from accelerate.utils.launch import prepare_multi_gpu_env

    words = launch_command_parser().parse_args(["--config_file", str(LAUNCH / config), "training.py"])
    arguments, _, _ = _validate_launch_command(words)
    return arguments, prepare_multi_gpu_env(arguments)


def test_accelerate_reads_the_configurations_as_they_are_meant():
    arguments, environment = environment_of("ddp.yaml")
    assert arguments.multi_gpu and not arguments.use_fsdp and arguments.num_processes == 8
    assert "ACCELERATE_USE_FSDP" not in environment
    arguments, environment = environment_of("fsdp2.yaml")
    assert arguments.use_fsdp and arguments.num_processes == 8
    assert {name: value for name, value in environment.items() if "FSDP" in name}.items() >= {
        "ACCELERATE_USE_FSDP": "true",
        "FSDP_VERSION": "2",
        "FSDP_AUTO_WRAP_POLICY": "TRANSFORMER_BASED_WRAP",
        "FSDP_RESHARD_AFTER_FORWARD": "true",
        "FSDP_STATE_DICT_TYPE": "FULL_STATE_DICT",
        "FSDP_CPU_RAM_EFFICIENT_LOADING": "false",
    }.items()


@pytest.mark.distributed
@pytest.mark.slow
def test_a_training_launched_over_two_machines_is_that_of_one_process(data, tmp_path):
    interface = "lo" if sys.platform != "darwin" else "lo0"
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": interface}
    port = str(_free_port())
    machines = [
        subprocess.Popen(
            [
                *(sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(LAUNCH / "ddp.yaml")),
                *("--num_machines", "2", "--num_processes", "2", "--machine_rank", str(rank)),
                *("--main_process_ip", "127.0.0.1", "--main_process_port", port),
                *training(data, tmp_path / "two"),
            ],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(2)
    ]
    one = [sys.executable, *training(data, tmp_path / "one")]
    subprocess.run(one, env=environment, check=True, capture_output=True)
    for machine in machines:
        told, _ = machine.communicate(timeout=240)
        assert machine.returncode == 0, told
    records = [record_of(tmp_path / run) for run in ("one", "two")]
    assert [record["processes"] for record in records] == [1, 2]
    # not the weights: where a gradient is mere rounding, as of the biases of keys, Adam makes whole steps of it
    losses = [[entry["loss"] for entry in record["log"] if "loss" in entry] for record in records]
    assert losses[1] == pytest.approx(losses[0], abs=1e-3) and len(losses[0]) == 3


def test_trackio_gets_the_parts_of_the_loss_by_name(data, tmp_path):
    import trackio  # noqa: F401  # without it the launched training could report to nothing

    environment = {**os.environ, "TRACKIO_DIR": str(tmp_path / "trackio")}  # read when trackio is imported
    flags = ["--report_to", "trackio", "--project", "siblings", "--run_name", "first"]
    words = training(data, tmp_path / "encoder", *flags)
    subprocess.run([sys.executable, *words], env=environment, check=True, capture_output=True, timeout=240)
    reading = (
        "import json; from trackio.sqlite_storage import SQLiteStorage; "
        "print(json.dumps(SQLiteStorage.get_logs('siblings', 'first'), default=str))"
    )
    told = subprocess.run([sys.executable, "-c", reading], env=environment, check=True, capture_output=True, text=True)
    logs = json.loads(told.stdout.strip().splitlines()[-1])
    for part in ("image_loss", "mean_positive_similarity", "mean_negative_similarity", "effective_positives"):
        expected = [entry[part] for entry in record_of(tmp_path / "encoder")["log"] if part in entry]
        assert [entry[f"train/{part}"] for entry in logs if f"train/{part}" in entry] == pytest.approx(expected)
        assert len(expected) == 3
