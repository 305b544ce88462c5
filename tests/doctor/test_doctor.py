"""cmaclip doctor: what is good is called so; what is not is named with its host and its cure."""

import re
import socket
import subprocess
import sys
import threading
import time

import pytest
from support.commands import LOCAL_POD, QUICKSTART, environment
from support.small import small_config

from cmaclip_jax.data.bad_records import BadRecords
from cmaclip_jax.data.images import open_image
from cmaclip_jax.data.sources import open_sources
from cmaclip_jax.doctor.checks import judge_data, judge_mesh, judge_room
from cmaclip_jax.doctor.hosts import (
    Check,
    Finding,
    examine,
    judge_clocks,
    judge_devices,
    judge_sums,
    judge_versions,
    judged,
    source_hash,
    versions,
)
from cmaclip_jax.doctor.samples import read_some
from cmaclip_jax.doctor.shared_folder import SharedFolder
from cmaclip_jax.errors import UserError
from cmaclip_jax.main import main
from cmaclip_jax.parallel.joining import place
from cmaclip_jax.parallel.rendezvous import meet

SMALL = [QUICKSTART, "--config.data.shop.train_size=50", "--config.data.shop.val_size=20"]
SMALL += ["--config.data.shop.test_size=20"]


def doctor(capsys, *arguments) -> tuple[int, dict[str, str]]:
    """(status, {check: the line about it and what helps}) of a doctor in this process."""
    status = main(["doctor", *map(str, arguments)])
    found, name = {}, ""
    for line in capsys.readouterr().out.splitlines():
        if line.startswith(("good", "BAD")):
            name = line[6:21].strip()
            found[name] = ""
        found[name] = found.get(name, "") + line + "\n"
    return status, found


def bad(found: dict[str, str]) -> list[str]:
    return [name for name, said in found.items() if said.startswith("BAD")]


def test_one_machine_is_good(capsys, tmp_path):
    status, found = doctor(capsys, *SMALL, f"--workdir={tmp_path / 'new/run'}")
    assert (status, bad(found)) == (0, []), found
    assert list(found) == [
        *("versions", "devices", "mesh", "sum over all"),
        *("workdir written", "data", "model", "room"),
    ]
    assert "8 in all: 8 x cpu" in found["devices"]
    assert "36 from 8 device(s), exact" in found["sum over all"]
    assert "0 of 48 records" in found["data"]
    assert "ready: every check is good" in found["room"]
    assert list(tmp_path.iterdir()) == []  # nothing is left behind


def test_pairs_without_labels_are_good(capsys, tmp_path):
    contrastive = ["--config.data.labels=none", "--config.train.objective=contrastive"]
    status, found = doctor(capsys, *SMALL, *contrastive, f"--workdir={tmp_path}")
    assert (status, bad(found)) == (0, []), found


def test_without_a_config_the_machine_alone_is_checked(capsys):
    status, found = doctor(capsys)
    assert status == 0
    assert list(found) == ["versions", "devices", "sum over all", "room"]


def test_every_fault_has_its_line_and_the_others_are_still_looked_at(capsys, tmp_path):
    (tmp_path / "file").write_text("")
    faults = ["--config.mesh.tensor=3", "--config.data.source=table", "--config.data.path=nowhere"]
    status, found = doctor(capsys, *SMALL, *faults, f"--workdir={tmp_path}/file/run")
    assert status == 1
    assert bad(found) == ["mesh", "workdir written", "data", "model"]
    assert "does not fill 8 device(s)" in found["mesh"]
    assert "cannot write to" in found["workdir written"]
    assert "name another with --workdir" in found["workdir written"]
    assert "nowhere" in found["data"]
    assert "not ready: mesh, workdir written, data, model" in found["room"]
    status, found = doctor(capsys, *SMALL, "--config.train.batch_size=12", f"--workdir={tmp_path}")
    assert "use 8 or 16" in found["mesh"]
    assert (tmp_path / "file").exists()


@pytest.mark.slow
def test_two_hosts_are_good_and_host_0_alone_speaks(tmp_path):
    command = [str(LOCAL_POD), "--hosts=2", "--", "doctor", *SMALL, f"--workdir={tmp_path / 'run'}"]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    lines = [line for line in done.stdout.splitlines() if "Gloo" not in line]
    assert all(line.startswith("[0] ") for line in lines), lines
    assert [line[4:8] for line in lines[:-1]] == ["good"] * 11
    assert "3 from 2 device(s), exact" in done.stdout
    assert "the same folder on all 2 hosts" in done.stdout
    assert "0 of 96 records read on 2 host(s)" in done.stdout
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_a_host_that_ends_on_the_way_is_named_and_nobody_waits_for_it():
    """Host 1 joins as the doctor does, and then says nothing."""
    address = f"localhost:{free_port()}"
    silent = (
        "from cmaclip_jax.parallel.joining import join; import os\n"
        f"join('{address},1/2', silence=600); os._exit(0)"
    )
    first = (
        "from cmaclip_jax.parallel.joining import join; import os\n"
        "from cmaclip_jax.doctor.hosts import Check, Finding, examine\n"
        f"join('{address},0/2', silence=600)\n"
        "check = Check('test', lambda: 1, lambda facts: Finding(True, ''), seconds=1)\n"
        "print(examine([check, check], lambda name, finding: print(name, finding.says)))\n"
        "import sys; sys.stdout.flush(); os._exit(0)"
    )
    other = subprocess.Popen([sys.executable, "-c", silent], env=environment())
    start = time.monotonic()
    said = subprocess.run(
        [sys.executable, "-c", first], env=environment(), capture_output=True, text=True
    ).stdout
    other.wait()
    assert said == "test host 1: did not answer in time: it has ended or hangs\n(False, False)\n"
    assert time.monotonic() - start < 90


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        return probe.getsockname()[1]


def test_a_port_at_which_nobody_listens_ends_in_a_line_within_its_limit(capsys):
    port = free_port()
    start = time.monotonic()
    status, found = doctor(capsys, f"--cluster=localhost:{port},1/2", "--wait=2")
    assert time.monotonic() - start < 10
    assert status == 1
    assert list(found) == ["joining"]
    assert f"host 1: cannot reach process 0 at localhost:{port}" in found["joining"]
    assert f"nothing listens at port {port}; start process 0 there" in found["joining"]


def test_a_host_that_does_not_come_is_named_to_those_that_did():
    address, said = f"localhost:{free_port()}", {}

    def come(number: int) -> None:
        try:
            said[number] = meet(address, number, 4, 3)
        except UserError as error:
            said[number] = str(error)

    hosts = [threading.Thread(target=come, args=(number,)) for number in (0, 1, 3)]
    for host in hosts:
        host.start()
    for host in hosts:
        host.join(20)
    assert [said[number].split(" did")[0] for number in (0, 1, 3)] == ["host 2 of 4"] * 3


def test_all_meet_though_strangers_call_and_the_port_is_free_again():
    address = f"localhost:{free_port()}"
    port, tries = int(address.split(":")[1]), {}
    others = [
        threading.Thread(target=lambda k=k: tries.update({k: meet(address, k, 3, 20)}))
        for k in (1, 2)
    ]
    for other in others:
        other.start()
    time.sleep(1.2)  # they have to try more than once
    leader = threading.Thread(target=lambda: tries.update({0: meet(address, 0, 3, 20)}))
    leader.start()
    for other in (*others, leader):
        other.join(30)
    assert tries[0] == 1
    assert min(tries[1], tries[2]) > 1
    socket.create_server(("", port)).close()


def test_what_else_can_stand_in_the_way_is_told_apart():
    port = free_port()
    with (
        socket.create_server(("", port), family=socket.AF_INET6, dualstack_ipv6=True) as taken,
        pytest.raises(UserError, match=f"cannot listen at port {port}"),
    ):
        meet(f"localhost:{port}", 0, 2, 1)

    with socket.create_server(("localhost", 0)) as other:
        port = other.getsockname()[1]

        def answer():
            caller = other.accept()[0]
            caller.sendall(b"HTTP/1.1 400 Bad Request\r\n")
            caller.recv(100)
            caller.close()

        threading.Thread(target=answer).start()
        with pytest.raises(UserError, match=r"is no process 0 that waits.*HTTP"):
            meet(f"localhost:{port}", 1, 2, 2)
    with pytest.raises(UserError, match="knows no host of that name"):
        meet("nowhere.invalid:1234", 1, 2, 0.1)
    assert taken.fileno() == -1


def test_the_place_in_a_cluster_is_known_before_joining(monkeypatch):
    assert place("") == ("", 0, 1)
    assert place("10.0.0.2:8476,3/4") == ("10.0.0.2:8476", 3, 4)
    with pytest.raises(UserError, match="JAX finds no TPU pod"):
        place("auto")
    slurm = {"JOB_ID": "70001", "STEP_NODELIST": "node[3-4]", "NTASKS": "2", "PROCID": "1"}
    for name, value in (slurm | {"LOCALID": "0", "STEP_NUM_NODES": "2"}).items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    address, number, count = place("auto")
    assert address.startswith("node3:")
    assert (number, count) == (1, 2)


def test_a_host_with_other_software_is_named_and_how():
    here = versions()
    assert here["jax"] != "none"
    assert judge_versions([here] * 3).good
    other = here | {"jax": "0.1.2", "source": "12345678"}
    finding = judge_versions([here, here, other, here])
    assert not finding.good
    assert f"host 2: jax 0.1.2, elsewhere {here['jax']}" in finding.says
    assert f"host 2: source 12345678, elsewhere {here['source']}" in finding.says
    assert "install the same" in finding.do


def test_the_hash_of_the_source_sees_names_and_contents(tmp_path):
    (tmp_path / "a.py").write_text("x = 1\n")
    first = source_hash(tmp_path)
    (tmp_path / "notes.txt").write_text("")
    assert source_hash(tmp_path) == first
    (tmp_path / "a.py").write_text("x = 2\n")
    assert source_hash(tmp_path) != first
    (tmp_path / "a.py").write_text("x = 1\n")
    (tmp_path / "a.py").rename(tmp_path / "b.py")
    assert source_hash(tmp_path) != first


def test_devices_that_differ_are_missing_or_lie_idle():
    four = {"number": 4, "kind": "TPU v4", "all": 8, "idle": 0}
    assert judge_devices([four, four]).says == "8 in all: 4 x TPU v4 on each of 2 hosts"
    finding = judge_devices([four, four | {"number": 3}])
    assert not finding.good
    assert "host 1: 3 x TPU v4" in finding.says
    assert not judge_devices([four]).good  # 8 in all, and 4 here
    finding = judge_devices([four | {"all": 4, "idle": 2, "kind": "cpu"}])
    assert not finding.good
    assert "cmaclip_jax[tpu]" in finding.do


def test_a_wrong_sum_and_a_wrong_clock_are_named():
    right = {"wrong": 0, "expected": 36.0, "devices": 8, "seconds": 0.1}
    assert "36 from 8" in judge_sums([right, right]).says
    finding = judge_sums([right, right | {"wrong": 3}])
    assert not finding.good
    assert finding.says == "host 1: a sum over 8 devices is not 36"
    assert judge_clocks([100.0, 100.2, 99.9]).good
    finding = judge_clocks([100.0, 160.0, 100.0])
    assert not finding.good
    assert finding.says == "60 s apart: host 1 by +60 s"


def test_another_config_is_named():
    fact = {"says": "data 2", "config": "a"}
    assert judge_mesh([fact, fact]) == Finding(True, "data 2")
    finding = judge_mesh([fact, fact | {"config": "b"}])
    assert (finding.good, finding.says) == (False, "host 1: another config than on host 0")


def test_other_data_bad_records_and_too_little_room_are_named():
    fact = {"sizes": {"train": 9}, "read": 16, "wrong": [], "bad": 0, "most": 0.05, "digest": "a"}
    assert judge_data([fact, fact]).good
    finding = judge_data([fact, fact, fact | {"digest": "b"}])
    assert (finding.good, finding.says[:30]) == (False, "host 2: other data than on hos")
    few = fact | {"read": 40, "bad": 1, "wrong": ["train number 3: x.jpg: no such file"]}
    assert judge_data([few]).good
    finding = judge_data([fact, few | {"bad": 8}])
    assert not finding.good
    assert "8 of 56 records" in finding.says
    assert "host 1: train number 3" in finding.says
    room = {name: 10 for name in ("workdir", "/tmp", "memory")}
    room |= {f"{name}_needs": 5 for name in room}
    assert judge_room([room, room]).good
    finding = judge_room([room, room | {"workdir": 4}])
    assert not finding.good
    assert "host 1: too little in workdir" in finding.do
    assert judge_room([room | {"workdir": None}]).good  # a bucket


def test_records_are_read_to_the_end(catalogue, tmp_path):
    data = small_config().data
    data.source, data.path = "table", str(catalogue)
    source = open_sources(data, BadRecords())["train"]
    ids, wrong = read_some(source, 10)
    assert (len(ids), wrong) == (10, [])
    (tmp_path / "torn.png").write_bytes(b"\x89PNG")
    with pytest.raises(UserError, match="cannot read the picture"):
        open_image(str(tmp_path / "torn.png"))
    with pytest.raises(UserError, match=r"none\.png: No such file"):
        open_image(str(tmp_path / "none.png"))


def test_a_folder_that_is_another_one_elsewhere_is_noticed(tmp_path):
    hosts = [SharedFolder(str(tmp_path / name), 2, patience=0.1) for name in "ab"]
    words = [host.write() for host in hosts]
    for host in hosts:
        assert host.judge_written(words).good
    unseen = [host.read() for host in hosts]
    assert unseen == [[1], [0]]
    finding = hosts[0].judge_read(unseen)
    assert not finding.good
    assert "host 0 does not see what host 1 wrote" in finding.says
    assert "all of them share" in finding.do
    for host in hosts:
        host.clear()
    assert list(tmp_path.iterdir()) == []


def test_a_check_that_hangs_is_given_up_and_those_after_it_are_not_made():
    said, made = [], []
    checks = [
        Check("fails", lambda: 1 / 0, lambda facts: Finding(True, ""), do="mend it"),
        Check("hangs", lambda: time.sleep(60), lambda facts: Finding(True, ""), seconds=0.2),
        Check("never", lambda: made.append(1), lambda facts: Finding(True, "")),
    ]
    start = time.monotonic()
    assert examine(checks, lambda name, finding: said.append((name, finding))) == (False, False)
    assert time.monotonic() - start < 5
    assert said == [
        ("fails", Finding(False, "ZeroDivisionError: division by zero", "mend it")),
        ("hangs", Finding(False, "not finished after 0.2 s", "")),
    ]
    assert not made


def test_who_could_not_look_is_named_with_the_reason():
    check = Check("x", None, None, do="do this")
    seen = [{"fact": 1}, {"failed": "no"}, None, {"failed": "no"}]
    finding = judged(check, seen)
    assert re.match(r"hosts 1, 3: no; host 2: did not answer in time", finding.says)
    assert "start the doctor again" in finding.do
    finding = judged(check, [{"failed": "no"}] * 2)
    assert (finding.says, finding.do) == ("every host: no", "do this")
