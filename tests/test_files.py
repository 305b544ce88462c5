import pytest

from cmaclip_jax.files import whole_file, write_text


def test_a_file_is_replaced_only_when_its_writer_is_done(tmp_path):
    path = tmp_path / "figures.json"
    write_text(path, "old")
    with pytest.raises(KeyboardInterrupt), whole_file(path) as part:
        part.write_text("half")
        assert path.read_text() == "old"
        assert part.suffix == path.suffix
        raise KeyboardInterrupt
    assert path.read_text() == "old"
    write_text(path, "new")
    assert [file.name for file in tmp_path.iterdir()] == ["figures.json"]
    assert path.read_text() == "new"
