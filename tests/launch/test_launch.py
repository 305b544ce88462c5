"""The launch scripts, against stand-ins for gcloud and the others that record their words."""

import json
import os
import re
import shutil
import subprocess
import sys
import time

import pytest
import yaml
from support.commands import ROOT
from support.stage import LAUNCH, Stage

SCRIPTS = [LAUNCH / name for name in ("tpu_vm", "gke", "slurm", "on_worker", "common.sh")]

POD = {"NAME": "pod", "PROJECT": "p", "ZONE": "z", "ACCELERATOR": "v5litepod-256", "EVERY": "0"}
GKE = {"NAME": "job", "IMAGE": "us-docker.pkg.dev/p/r/cmaclip_jax:1", "TOPOLOGY": "4x4"}
GKE |= {"ACCELERATOR": "tpu-v5-lite-podslice"}
SLURM = {"NAME": "job", "NODES": "2", "GPUS": "8"}
PLACE = ["--project=p", "--zone=z"]
SSH = ["--quiet", "--ssh-flag=-oConnectTimeout=30", "--ssh-flag=-oServerAliveInterval=30"]
HARD = [
    "--config=a b.py",
    "it's",
    '"$HOME" $(id) `id`',
    "",
    "a\\b",
    "*",
    "ü",
    "$(NAME)",
    "two\nlines",
]


@pytest.fixture
def stage(tmp_path):
    return Stage(tmp_path)


def tpu(*words: str) -> list[str]:
    return ["gcloud", "compute", "tpus", *words]


def test_a_pod_is_rented_and_given_back(stage):
    assert stage.run("tpu_vm", "create", **POD).returncode == 0
    kinds = ["--accelerator-type=v5litepod-256", "--version=v2-alpha-tpuv5-lite"]
    assert stage.calls() == [tpu("tpu-vm", "create", "pod", *PLACE, *kinds)]
    more = {"SPOT": "1", "OPTIONS": "--network=n --reserved", "RUNTIME": "r"}
    stage.run("tpu_vm", "create", **POD, **more)
    kinds = [kinds[0], "--spot", "--network=n", "--reserved", "--version=r"]
    assert stage.calls() == [tpu("tpu-vm", "create", "pod", *PLACE, *kinds)]
    assert stage.run("tpu_vm", "delete", answer="n\n", **POD).returncode == 2
    assert stage.run("tpu_vm", "delete", **POD).returncode == 2  # nobody there to answer
    assert stage.calls() == []
    stage.run("tpu_vm", "delete", answer="y\n", **POD)
    stage.run("tpu_vm", "delete", "--yes", **POD)
    assert stage.calls() == [tpu("tpu-vm", "delete", "pod", *PLACE, "--quiet")] * 2


def test_slices_are_rented_together_and_all_are_reached(stage):
    slices = POD | {"SLICES": "2"}
    stage.answers(describe=["WAITING_FOR_RESOURCES", "PROVISIONING", "ACTIVE"])
    assert stage.run("tpu_vm", "create", **slices).returncode == 0
    kinds = ["--accelerator-type=v5litepod-256", "--runtime-version=v2-alpha-tpuv5-lite"]
    created, *looks = stage.calls()
    kinds += ["--node-count=2", "--node-prefix=pod"]
    assert created == tpu("queued-resources", "create", "pod", *PLACE, *kinds)
    look = tpu("queued-resources", "describe", "pod", *PLACE, "--format=value(state.state)")
    assert looks == [look] * 3
    stage.run("tpu_vm", "run", "--", "doctor", **slices)
    command = "--command=cmaclip_jax/launch/on_worker start doctor"
    assert stage.calls() == [
        tpu("tpu-vm", "ssh", f"pod-{k}", *PLACE, "--worker=all", *SSH, command) for k in range(2)
    ]
    stage.run("tpu_vm", "delete", "--yes", **slices)
    force = ["--force", "--quiet"]
    assert stage.calls() == [tpu("queued-resources", "delete", "pod", *PLACE, *force)]
    stage.answers(describe=["WAITING_FOR_RESOURCES", "FAILED"])
    result = stage.run("tpu_vm", "create", **POD, QUEUED="1")
    assert (result.returncode, "pod is FAILED" in result.stderr) == (2, True)
    assert stage.calls()[0][-1] == "--node-id=pod"


def test_setup_stop_and_logs(stage):
    assert stage.run("tpu_vm", "setup", **POD).returncode == 0
    copied, installed = stage.calls()
    files = ["cmaclip_jax.tar.gz", "pod:cmaclip_jax.tar.gz"]
    assert copied == tpu("tpu-vm", "scp", *files, *PLACE, "--worker=all", "--quiet")
    assert installed[:-1] == tpu("tpu-vm", "ssh", "pod", *PLACE, "--worker=all", *SSH)
    assert installed[-1].endswith("cmaclip_jax/launch/on_worker install")
    stage.run("tpu_vm", "setup", **POD, BUCKET="my-bucket")
    assert stage.calls()[-1][-1] == "--command=cmaclip_jax/launch/on_worker mount my-bucket"
    stage.run("tpu_vm", "stop", **POD)
    stage.run("tpu_vm", "logs", **POD, WORKER="3")
    stopped, logs = stage.calls()
    assert stopped[8:] == ["--worker=all", *SSH, "--command=cmaclip_jax/launch/on_worker stop"]
    assert logs[8:] == ["--worker=3", *SSH, "--command=tail -n 50 -F job/log"]
    stage.answers(fail=["scp"])
    assert stage.run("tpu_vm", "setup", **POD).returncode != 0
    assert stage.story() == ["scp"]  # nothing is installed where nothing was copied


def test_status_tells_what_gcloud_and_the_workers_say(stage):
    stage.answers(describe=["READY"], status=["running | ended with status 1"])
    told = stage.run("tpu_vm", "status", **POD).stdout
    assert told == "pod is READY\nthe job: ended with status 1\nrunning\n"


def test_keep_goes_on_until_the_job_is_done(stage):
    setting_up = ["not set up", "never started", "running"]
    stage.answers(
        describe=["MISSING", *["READY"] * 4, "PREEMPTED", "PREEMPTED", "MISSING", "READY"],
        status=[*setting_up, "unreachable", *setting_up, "ended with status 0"],
        fail=["delete"],  # the first time
    )
    result = stage.run("tpu_vm", "keep", "--", "--config=c", **POD, RENEW="1")
    assert result.returncode == 0, result.stderr
    once = ["create", "halt", "scp", "install", "halt", "start"]
    assert stage.story() == [*once, "delete", "delete", *once]
    assert "the job is done" in result.stderr


def test_keep_deletes_and_rents_only_what_it_may(stage):
    keep = ("tpu_vm", "keep", "--", "--config=c")
    stage.answers(describe=["READY", "PREEMPTED"], status=["running"])
    result = stage.run(*keep, **POD)
    assert (result.returncode, stage.story()) == (2, [])
    assert "RENEW=1 lets keep delete" in result.stderr
    stage.answers(describe=["READY", "MISSING"])
    result = stage.run(*keep, **POD, RENEW="1")
    assert (result.returncode, stage.story()) == (2, [])
    assert "deleted by somebody" in result.stderr
    # No network, no login, the wrong project, a repair: nothing of it means that there is none.
    looks = ["NO_LOGIN", "NO_PROJECT", "", "REPAIRING", "STOPPED", "READY"]
    stage.answers(describe=looks, status=["running", "ended with status 0"])
    result = stage.run(*keep, **POD, RENEW="1")
    assert (result.returncode, stage.story()) == (0, [])
    assert "refreshing your current auth tokens" in result.stderr
    stage.answers(describe=["MISSING"], fail=["create"])
    assert stage.run(*keep, **POD, RENEW="1").returncode == 2
    assert stage.story() == ["create"]


@pytest.mark.parametrize(
    ("answers", "starts", "said"),
    [
        (["running", "ended with status 2 | ended with status 1"], 0, "a mistake that the same"),
        (["running", "stopped | running"], 0, "the job was stopped"),
        (["never started", "ended with status 1"], 3, "failed 3 times (ended with status 1)"),
        (["ended with status 2", "running", "ended with status 0"], 1, "the job is done"),
        (["running", *["running | ended with status 1"] * 11, "ended with status 0"], 1, "done"),
        (["running", *["running | ended with status 1"] * 9, "ended with status 0"], 0, "done"),
    ],
)
def test_keep_starts_again_what_may_succeed(stage, answers, starts, said):
    stage.answers(describe=["READY"], status=answers)
    result = stage.run("tpu_vm", "keep", "--", "--config=c", **POD)
    assert said in result.stderr
    assert result.returncode == (0 if said.endswith("done") else 2)
    assert stage.story() == ["halt", "start"] * starts


@pytest.fixture
def worker(tmp_path):
    """A worker's home: the project, and a python that says what it was given and does as told."""
    home = tmp_path / "home"
    (home / "cmaclip_jax").mkdir(parents=True)
    shutil.copytree(LAUNCH, home / "cmaclip_jax/launch")
    (home / "cmaclip_jax/.installed").touch()
    (home / "venv/bin").mkdir(parents=True)
    python = home / "venv/bin/python"
    python.write_text(
        f"#!{sys.executable} -S\nimport json, os, signal, sys, time\n"
        "open(os.environ['HOME'] + '/given', 'w').write(json.dumps(sys.argv[1:]))\n"
        "signal.signal(signal.SIGTERM, lambda *_: 'deaf' in sys.argv or sys.exit(143))\n"
        "print('a line', flush=True)\n"
        "time.sleep(30 if 'long' in sys.argv or 'deaf' in sys.argv else 0)\n"
        "sys.exit(2 if 'wrong' in sys.argv else 0)\n"
    )
    python.chmod(0o755)

    def ask(command: str) -> subprocess.CompletedProcess:
        """As ssh has it: until nobody holds its pipes any more."""
        return subprocess.run(
            ["bash", "-c", command],
            cwd=home,
            env={"HOME": str(home), "PATH": os.environ["PATH"], "PATIENCE": "1"},
            capture_output=True,
            text=True,
            timeout=10,
        )

    yield ask
    ask("cmaclip_jax/launch/on_worker halt")


def wait_for(ask, status: str):
    deadline = time.monotonic() + 10
    while (told := ask("cmaclip_jax/launch/on_worker status").stdout) != f"job: {status}\n":
        assert time.monotonic() < deadline, told
        time.sleep(0.05)


def test_words_arrive_as_they_were_given(stage, worker):
    assert stage.run("tpu_vm", "run", "--", *HARD, **POD).returncode == 0
    (call,) = stage.calls()
    assert worker(call[-1].removeprefix("--command=")).returncode == 0
    wait_for(worker, "ended with status 0")
    given = json.loads((stage.folder / "home/given").read_text())
    assert given == ["-m", "cmaclip_jax.main", "--cluster=auto", *HARD]


def test_a_worker_starts_tells_and_stops(worker, tmp_path):
    on_worker = "cmaclip_jax/launch/on_worker"
    assert worker(f"{on_worker} status").stdout == "job: never started\n"
    assert worker(f"{on_worker} start wrong").returncode == 0
    wait_for(worker, "ended with status 2")
    assert worker(f"{on_worker} start long").returncode == 0  # though its pipes were waited for
    wait_for(worker, "running")
    again = worker(f"{on_worker} start long")
    assert (again.returncode, "stop it first" in again.stderr) == (1, True)
    assert worker(f"{on_worker} idle").returncode == 1
    assert worker(f"{on_worker} halt").returncode == 0
    wait_for(worker, "ended with status 143")
    worker(f"{on_worker} start long")
    assert worker(f"{on_worker} stop").returncode == 0
    assert worker(f"{on_worker} status").stdout == "job: stopped\n"
    worker(f"{on_worker} start deaf")
    assert "killing it" in worker(f"{on_worker} halt").stderr
    wait_for(worker, "ended with status 137")
    log = (tmp_path / "home/job/log").read_text()
    assert log.count("a line") == 4  # of all that ran
    worker("rm job/status; sleep 300 & echo $! > job/pid; kill $!")  # as after a reboot
    assert worker(f"{on_worker} status").stdout == "job: ended without a status\n"
    worker("rm cmaclip_jax/.installed")
    assert worker(f"{on_worker} status").stdout == "job: not set up\n"


@pytest.mark.parametrize(
    ("script", "verbs", "variables"),
    [
        ("tpu_vm", "create setup run logs status stop keep delete", POD),
        ("gke", "build show run logs status delete", GKE),
        ("gke", "xpk", GKE | {"CLUSTER": "c", "PROJECT": "p", "ZONE": "z", "TPU_TYPE": "t"}),
        ("slurm", "run logs status stop", SLURM),
    ],
)
def test_a_dry_run_shows_and_does_nothing(stage, script, verbs, variables):
    for verb in verbs.split():
        result = stage.run(script, "--dry-run", verb, "--", "--config=c", **variables)
        assert result.returncode == 0, result.stderr
        assert result.stdout
    assert stage.calls() == []
    told = stage.run(script, "--help").stdout
    assert all(f"launch/{script} {verb}" in told for verb in verbs.split())


def test_what_is_missing_is_named(stage):
    def said(*command, **variables):
        result = stage.run(*command, **variables)
        assert (result.returncode, stage.calls()) == (2, [])
        return result.stderr

    assert said("tpu_vm", "create", NAME="n") == "tpu_vm: set PROJECT ZONE; see --help\n"
    few = {name: POD[name] for name in ("NAME", "PROJECT", "ZONE")}
    assert "set ACCELERATOR;" in said("tpu_vm", "create", **few)
    assert "say after -- what to run" in said("tpu_vm", "keep", **POD)
    assert "set IMAGE ACCELERATOR TOPOLOGY;" in said("gke", "run", NAME="n")
    assert "set CLUSTER PROJECT ZONE TPU_TYPE;" in said("gke", "xpk", "--", "a", **GKE)
    assert "write it as 4x4" in said("gke", "run", "--", "a", **GKE | {"TOPOLOGY": "256"})
    assert "set NODES GPUS;" in said("slurm", "run", "--", "a", NAME="n")
    assert "unknown argument destroy" in said("tpu_vm", "destroy", **POD)
    assert "one thing at a time" in said("tpu_vm", "create", "delete", **POD)


@pytest.mark.parametrize("slices", [1, 2])
def test_the_manifest(stage, slices):
    variables = GKE | ({"SLICES": "2", "SPOT": "1"} if slices == 2 else {})
    assert stage.run("gke", "run", "--", *HARD, **variables).returncode == 0
    assert stage.calls() == [["kubectl", "create", "-f", "-"]]
    manifest = yaml.safe_load((stage.folder / "stdin").read_text())
    assert manifest == yaml.safe_load(stage.run("gke", "show", "--", *HARD, **variables).stdout)
    assert manifest["metadata"]["name"] == "job"
    spec = manifest["spec"]
    assert spec["failurePolicy"]["maxRestarts"] == 20
    (replicated,) = spec["replicatedJobs"]
    assert replicated["replicas"] == slices
    job = replicated["template"]["spec"]
    assert (job["parallelism"], job["completions"], job["backoffLimit"]) == (4, 4, 0)
    assert job["podFailurePolicy"]["rules"][0]["onExitCodes"]["values"] == [2]
    pod = job["template"]["spec"]
    assert pod["restartPolicy"] == "Never"
    selector = {
        "cloud.google.com/gke-tpu-accelerator": "tpu-v5-lite-podslice",
        "cloud.google.com/gke-tpu-topology": "4x4",
    }
    assert pod["nodeSelector"] == selector | (
        {"cloud.google.com/gke-spot": "true"} if slices == 2 else {}
    )
    (container,) = pod["containers"]
    assert container["resources"]["limits"] == {"google.com/tpu": 4}
    assert container["image"] == GKE["IMAGE"]
    assert "$$(NAME)" in container["args"]
    meant = [word.replace("$$(", "$(") for word in container["args"]]  # what Kubernetes makes of it
    assert meant == ["--cluster=auto", *HARD]


def test_hosts_of_a_slice(stage):
    def hosts_and_chips(**variables):
        shown = stage.run("gke", "show", "--", "a", **GKE | variables).stdout
        job = yaml.safe_load(shown)["spec"]["replicatedJobs"][0]["template"]["spec"]
        limits = job["template"]["spec"]["containers"][0]["resources"]["limits"]
        return job["parallelism"], limits["google.com/tpu"]

    assert hosts_and_chips(TOPOLOGY="16x16") == (64, 4)
    assert hosts_and_chips(TOPOLOGY="4x4x8") == (32, 4)
    assert hosts_and_chips(TOPOLOGY="1x1") == (1, 1)
    assert hosts_and_chips(TOPOLOGY="2x4", CHIPS="8") == (1, 8)


def test_the_image_and_xpk(stage):
    stage.run("gke", "build", **GKE)
    built, pushed = stage.calls()
    assert built[1:3] + built[4:5] == ["build", "--platform=linux/amd64", f"--tag={GKE['IMAGE']}"]
    assert pushed == ["docker", "push", GKE["IMAGE"]]
    where = {"CLUSTER": "c", "PROJECT": "p", "ZONE": "z", "TPU_TYPE": "v5litepod-16"}
    stage.run("gke", "xpk", "--", *HARD, **GKE, **where, SLICES="2")
    (call,) = stage.calls()
    flags = {"--num-slices=2", "--tpu-type=v5litepod-16", "--max-restarts=20"}
    assert flags < set(call)
    command = call[-1].removeprefix("--command=python -m cmaclip_jax.main --cluster=auto ")
    printed = subprocess.run(["bash", "-c", f"printf '%s\\0' {command}"], capture_output=True)
    assert printed.stdout.decode().split("\0")[:-1] == HARD
    stage.run("gke", "delete", answer="\n", **GKE)
    stage.run("gke", "delete", "--yes", **GKE)
    assert stage.calls() == [["kubectl", "delete", "jobset", "job", "--namespace=default"]]


def test_slurm_takes_a_script_that_comes_again_when_its_time_is_over(stage):
    flags = {"OPTIONS": "--partition=a --account=b"}
    assert stage.run("slurm", "run", "--", *HARD, **SLURM, **flags).returncode == 0
    (call,) = stage.calls()
    assert call[2:] == ["--partition=a", "--account=b"]
    script = (stage.folder / "stdin").read_text()
    asked = set(re.findall(r"^#SBATCH (.*)", script, re.MULTILINE))
    assert {"--nodes=2", "--ntasks-per-node=8", "--gpus-per-node=8", "--requeue"} < asked
    assert "--signal=TERM@600" in asked
    environment = os.environ | {"PATH": f"{stage.bin}:{os.environ['PATH']}", "SLURM_JOB_ID": "17"}
    environment["STAND_IN"] = str(stage.folder)
    for status in (0, 1, 2, 143):
        stage.answers(status=[str(status)])
        assert subprocess.run(["bash", "-c", script], env=environment).returncode == status
        srun, *requeued = stage.calls()
        assert srun[3:] == ["python", "-m", "cmaclip_jax.main", "--cluster=auto", *HARD]
        assert requeued == ([["scontrol", "requeue", "17"]] if status == 143 else [])
    (stage.bin / "srun").unlink()
    (stage.bin / "srun").write_text("#!/bin/sh\nkill $PPID\nexit 143\n")  # as scancel does
    (stage.bin / "srun").chmod(0o755)
    assert subprocess.run(["bash", "-c", script], env=environment).returncode == 143
    assert stage.calls() == []


def test_slurm_stops_without_coming_again(stage):
    stage.run("slurm", "stop", **SLURM)
    pending, _, *calls = stage.calls()
    assert pending == ["scancel", "--me", "--name=job", "--state=PENDING"]
    assert calls == [
        ["scontrol", "update", "JobId=17", "Requeue=0"],
        ["scancel", "--signal=TERM", "17"],
        ["scontrol", "update", "JobId=18", "Requeue=0"],
        ["scancel", "--signal=TERM", "18"],
    ]


def test_local_pod_gives_back_what_its_hosts_say(stage):
    shown = stage.run("local_pod", "--dry-run", "--hosts=3", "--", "--config=a").stdout.splitlines()
    places = [re.match(r"CMACLIP_CLUSTER=localhost:\d+,(\d/3) ", line)[1] for line in shown]
    assert places == ["0/3", "1/3", "2/3"]
    variables = {"PYTHONPATH": str(ROOT)}
    fine = stage.run("local_pod", "--", "--help", **variables)
    assert (fine.returncode, fine.stdout.count("trains and evaluates")) == (0, 2)
    wrong = stage.run("local_pod", "--", "no_such_verb", **variables)
    assert wrong.returncode == 2
    assert re.search(r"local_pod: host [01] of 2 ended first, with status 2", wrong.stderr)


@pytest.mark.skipif(shutil.which("shellcheck") is None, reason="shellcheck is not installed")
def test_shellcheck_has_nothing_to_say():
    command = [
        "shellcheck",
        "--external-sources",
        *map(str, SCRIPTS),
        str(ROOT / ".ci/run"),
        str(ROOT / ".ci/newest"),
    ]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout
