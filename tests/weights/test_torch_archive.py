"""PyTorch's files without PyTorch: every tensor as it is, and nothing that they ask to run."""

import os
import pickle
import zipfile

import numpy as np
import pytest

from cmaclip_jax.errors import UserError
from cmaclip_jax.main import main
from cmaclip_jax.weights.reader import read_weights
from cmaclip_jax.weights.torch_archive import read_torch_archive

torch = pytest.importorskip("torch", reason="the oracle; pip install -e '.[test]'")


class Harm:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


@pytest.mark.parametrize("wrap", [lambda harm: harm, lambda harm: {"state_dict": {"x": harm}}])
def test_a_pickle_that_runs_code_is_refused_and_nothing_ran(tmp_path, wrap, capsys):
    file, proof = tmp_path / "clip.pt", tmp_path / "ran"
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("clip/data.pkl", pickle.dumps(wrap(Harm(proof)), protocol=2))
    assert main(["convert", f"--source={file}", f"--output={tmp_path / 'out'}"]) == 2
    error = capsys.readouterr().err
    assert "system'" in error
    assert "refused" in error
    assert error.count("\n") == 1
    assert not proof.exists()
    assert not (tmp_path / "out").exists()


def rewritten(source, target, change):
    """A zip file with `change(name, content)` for every content."""
    with zipfile.ZipFile(source) as whole, zipfile.ZipFile(target, "w") as changed:
        for name in whole.namelist():
            changed.writestr(name, change(name, whole.read(name)))


def test_a_tensor_beyond_its_storage_is_refused(tmp_path):
    torch.save({"x": torch.zeros(4)}, tmp_path / "a.pt")
    rewritten(
        tmp_path / "a.pt", tmp_path / "b.pt", lambda n, c: c[:8] if n.endswith("data/0") else c
    )
    with pytest.raises(UserError, match="reaches beyond its storage"):
        read_weights(str(tmp_path / "b.pt"))


@pytest.mark.parametrize(
    ("index", "says"),
    [
        (b"(d.", "uses DICT"),
        (b"\x80\x02}X\x01\x00\x00\x00xctorch\nFloatStorage\n}b.", "tries to change"),
        (
            b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n"
            b"(X\x04\x00\x00\x00(4)fX\x01\x00\x00\x000\x86K\x00K\x04\x85K\x01\x85\x89}tR.",
            "without storage",
        ),
        (b"\x80\x02}r\xff\xff\xff\x0f.", "an index that is too high"),
        (b"\x80\x04\x8c\x08builtins\x8c\x04eval\x93.", "asks to run 'builtins.eval'"),
        (b"\x80\x04\x8c\x0bcollections\x8c\x14OrderedDict.__init__\x93.", "asks to run"),
        (b"\x80\x02}", "damaged"),
    ],
)
def test_a_crafted_index_is_refused_and_leaves_no_trace(tmp_path, index, says):
    with zipfile.ZipFile(tmp_path / "a.pt", "w") as archive:
        archive.writestr("a/data.pkl", index)
        archive.writestr("a/data/0", b"\0" * 16)
    with pytest.raises(UserError, match=says):
        read_torch_archive(tmp_path / "a.pt")
    torch.save({"x": torch.ones(2)}, tmp_path / "good.pt")
    np.testing.assert_array_equal(read_torch_archive(tmp_path / "good.pt")["x"], [1, 1])


def test_tensors_of_every_kind_are_read_as_torch_reads_them(tmp_path):
    base = torch.arange(24.0)
    tensors = {
        "plain": base.clone(),
        "sliced": base[3:9:2],
        "turned": base.reshape(4, 6).T,
        "spread": base[:1].expand(5),
        "scalar": torch.tensor(3.5),
        "empty": torch.zeros(0, 3),
        "half": base.half(),
        "bfloat": base.bfloat16(),
        "whole": torch.arange(5),
        "truth": torch.tensor([True, False]),
        "parameter": torch.nn.Parameter(base),
    }
    torch.save(tensors, tmp_path / "a.pt")
    torch.save(tensors, tmp_path / "b.pt", pickle_protocol=4)
    found = read_torch_archive(tmp_path / "a.pt")
    again = read_torch_archive(tmp_path / "b.pt")
    assert set(found) == set(again) == set(tensors)
    for name, x in tensors.items():
        np.testing.assert_array_equal(found[name], again[name])
        np.testing.assert_array_equal(found[name].astype(float), x.detach().double().numpy())
