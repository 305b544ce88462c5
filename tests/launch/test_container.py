"""The files that run the server in a container agree with what the server needs."""

import re
import subprocess
import sys
from importlib.metadata import requires

import yaml
from support.commands import ROOT

REQUIREMENTS = ROOT / "launch/serve_requirements.txt"
NAME = re.compile(r"[A-Za-z0-9_.-]+")
ONLY_TRAINING = ("tensorflow", "tensorflow_datasets", "h5py", "matplotlib", "torch", "transformers")


def plain(name):
    return name.lower().replace("_", "-").replace(".", "-")


def test_the_requirements_name_all_that_serving_imports(finished_run):
    code = f"""
import importlib.metadata, sys
for name in {ONLY_TRAINING!r}:
    sys.modules[name] = None
before = set(sys.modules)
import cmaclip_jax as cma
import cmaclip_jax.commands.serve, cmaclip_jax.server.serve
from cmaclip_jax.server.served_run import ServedRun
for _ in ServedRun(cma.load({str(finished_run)!r}), 1).warm_up():
    pass
homes = importlib.metadata.packages_distributions()
roots = {{name.split(".")[0] for name in set(sys.modules) - before}}
print("packages", *(home for root in roots for home in set(homes.get(root, []))))
"""
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    used = {plain(name) for name in done.stdout.splitlines()[-1].split()[1:]}
    lines = REQUIREMENTS.read_text().splitlines()
    listed = {plain(NAME.match(line)[0]) for line in lines if line and not line.startswith("#")}
    ours = [line for line in requires("cmaclip_jax") if "extra" not in line or '"serve"' in line]
    declared = {plain(NAME.match(line)[0]) for line in ours}
    assert len(used & declared) > 10
    assert not (used & declared) - listed
    assert not {"tensorflow", "tensorflow-cpu", "transformers", "pyarrow"} & used


def test_the_manifest_asks_the_routes_that_the_server_has():
    deployment, service = yaml.safe_load_all((ROOT / "launch/serve.yaml").read_text())
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    routes = (ROOT / "cmaclip_jax/server/open_inference.py").read_text()
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        path = container[probe]["httpGet"]["path"]
        assert f'"{path.removeprefix("/v2")}"' in routes
    assert service["spec"]["selector"] == deployment["spec"]["selector"]["matchLabels"]
    dockerfile = (ROOT / "launch/Dockerfile.serve").read_text()
    assert str(REQUIREMENTS.relative_to(ROOT)) in dockerfile
    volume = next(mount for mount in container["volumeMounts"] if mount["name"] == "model")
    assert f"--workdir={volume['mountPath']}" in dockerfile
