"""The templates in `.cluster`: their forms, by their own validators where these are."""

import os
import re
import shutil
import stat
import subprocess
from pathlib import Path

import pytest
import tyro

from kerascnn.process import hosts
from kerascnn.training.options import Command

yaml = pytest.importorskip("yaml")

ROOT = Path(__file__).parent.parent
FOLDER = ROOT / ".cluster"
SBATCH = FOLDER / "train.sbatch"


def checked(program, *words):
    """Run a validator; skip where it is not installed."""
    found = shutil.which(program)
    if found is None:
        pytest.skip(f"{program} is not installed")
    done = subprocess.run([found, *map(str, words)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def documents(name):
    return list(yaml.safe_load_all((FOLDER / name).read_text()))


def containers(pod):
    (container,) = pod["spec"]["containers"]
    return container, {each["name"]: each["value"] for each in container["env"]}


def test_shellcheck_finds_nothing_in_the_batch_script():
    checked("shellcheck", SBATCH)


def test_hadolint_finds_nothing_in_the_image():
    file = ROOT / ".devcontainer/Dockerfile"
    checked("hadolint", "--failure-threshold", "warning", file)


def test_kubernetes_knows_the_job():
    checked("kubernetes-validate", "--strict", FOLDER / "job.yaml")


def test_every_shell_text_of_the_yaml_files_passes_shellcheck(tmp_path):
    job, jobset = documents("job.yaml")[1], documents("jobset.yaml")[0]
    inner = jobset["spec"]["replicatedJobs"][0]["template"]
    sky = documents("sky.yaml")[0]
    texts = [sky["setup"], sky["run"]]
    texts += [
        containers(each["spec"]["template"])[0]["args"][0] for each in (job, inner)
    ]
    for number, text in enumerate(texts):
        (tmp_path / f"{number}.sh").write_text(text)
    checked("shellcheck", "--shell=sh", *sorted(tmp_path.glob("*.sh")))


def slurm(tmp_path, **variables):
    """Run the batch script with programs that print what they are called with."""
    for name in ("srun", "scontrol"):
        file = tmp_path / name
        file.write_text(f'#!/bin/sh\necho {name} "$@"\n')
        file.chmod(file.stat().st_mode | stat.S_IEXEC)
    path = f"{tmp_path}:{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", SBATCH, "fashion_mlp", "--data", "sample"],
        cwd=tmp_path,
        env={"PATH": path, "SLURM_JOB_ID": "7"} | variables,
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


@pytest.mark.skipif(shutil.which("bash") is None, reason="bash is not installed")
def test_the_batch_script_begins_a_run_and_goes_on_with_it(tmp_path):
    step = "srun --kill-on-bad-exit=1 kerascnn "
    began = f"{step}run fashion_mlp --data sample --out runs/slurm-7"
    assert slurm(tmp_path) == [began]
    (tmp_path / "runs/slurm-7").mkdir(parents=True)
    (tmp_path / "runs/slurm-7/config.json").touch()
    assert slurm(tmp_path) == [f"{step}resume runs/slurm-7"]


def test_the_batch_script_s_directives():
    """What `sbatch --test-only` would read; there is no SLURM here to ask."""
    lines = [x for x in SBATCH.read_text().splitlines() if x.startswith("#SBATCH")]
    assert all(re.fullmatch(r"#SBATCH --[a-z-]+(=\S+)?", line) for line in lines)
    assert {"#SBATCH --signal=USR1@120", "#SBATCH --requeue"} <= set(lines)
    # SLURM takes no directive after the first command.
    text = SBATCH.read_text()
    assert text.rindex("#SBATCH") < text.index("set -euo")


@pytest.mark.parametrize("kind", ["job", "jobset"])
def test_the_pods_meet_where_their_names_are(kind, monkeypatch):
    """Required fields: the schemas of JobSet are not to be had without a network."""
    if kind == "job":
        service, job = documents("job.yaml")
        assert service["spec"]["clusterIP"] == "None"
        name = job["metadata"]["name"]
        selector = {"batch.kubernetes.io/job-name": name}
        assert service["spec"]["selector"] == selector
        pod = job["spec"]["template"]
        assert pod["spec"]["subdomain"] == service["metadata"]["name"]
        first = f"{name}-0.{pod['spec']['subdomain']}"
        port = service["spec"]["ports"][0]["port"]
    else:
        (jobset,) = documents("jobset.yaml")
        assert jobset["apiVersion"] == "jobset.x-k8s.io/v1alpha2"
        (workers,) = jobset["spec"]["replicatedJobs"]
        assert jobset["spec"]["network"]["enableDNSHostnames"]
        job = workers["template"]
        pod = job["spec"]["template"]
        name = f"{jobset['metadata']['name']}-{workers['name']}"
        first = f"{name}-0-0.{jobset['spec']['network']['subdomain']}"
        port = 8476
    assert job["spec"]["completionMode"] == "Indexed"
    assert job["spec"]["completions"] == job["spec"]["parallelism"] == 2
    container, variables = containers(pod)
    mounts = {each["name"] for each in container["volumeMounts"]}
    assert mounts == {each["name"] for each in pod["spec"]["volumes"]}
    assert variables["KERASCNN_COORDINATOR"] == f"{first}:{port}"
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("JOB_COMPLETION_INDEX", "1")
    group = hosts.wanted()
    assert (group.coordinator, group.processes, group.process) == (
        *(variables["KERASCNN_COORDINATOR"], 2, 1),
    )


def test_skypilot_s_variables_make_a_group():
    (sky,) = documents("sky.yaml")
    assert {"name", "num_nodes", "resources", "setup", "run"} <= set(sky)
    for name in hosts.VARIABLES:
        assert f"export {name}=" in sky["run"]


def test_the_commands_of_the_templates_are_ours():
    for file in FOLDER.iterdir():
        for words in re.findall(r"kerascnn run (.+)", file.read_text()):
            options = [w for w in words.split() if w.startswith("--")]
            values = {"--out": "x", "--data": "full"}
            known = [part for w in options for part in (w, values[w])]
            tyro.cli(Command, args=known)
