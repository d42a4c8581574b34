"""Event files: what is in them, and what their writer doesn't import."""

import struct
import subprocess
import sys

import pytest

pytest.importorskip("tensorboardX")

from digits_jax.training.events import EventFile

# The format of a record: length, its checksum, the bytes, their checksum.
_HEAD, _TAIL = struct.Struct("<QI"), 4


def records(data):
    while data:
        length, _ = _HEAD.unpack_from(data)
        yield data[_HEAD.size : _HEAD.size + length]
        data = data[_HEAD.size + length + _TAIL :]


def test_numbers_are_in_the_file(tmp_path):
    file = EventFile(tmp_path / "events")
    file.write(3, {"loss": 0.5, "accuracy": 0.75})
    file.write(7, {"loss": 0.25})
    file.close()
    (path,) = tmp_path.iterdir()
    assert path.name.startswith("events.out.tfevents.")
    from tensorboardX.proto.event_pb2 import Event

    # The first record names the format's version.
    found = [Event.FromString(record) for record in records(path.read_bytes())][1:]
    values = [
        (event.step, value.tag, value.simple_value)
        for event in found
        for value in event.summary.value
    ]
    assert values == [(3, "loss", 0.5), (3, "accuracy", 0.75), (7, "loss", 0.25)]


@pytest.fixture
def with_torch(tmp_path):
    """A PyTorch that can be imported, and then says so."""
    (tmp_path / "torch").mkdir()
    (tmp_path / "torch/__init__.py").write_text("print('imported'); Tensor = int")

    def run(code):
        lines = f"import sys; sys.path.insert(0, {str(tmp_path)!r})\n{code}"
        done = subprocess.run(
            [sys.executable, "-c", lines], capture_output=True, text=True, timeout=120
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run


def test_pytorch_is_left_alone_where_it_is_installed(with_torch):
    assert with_torch("import digits_jax.training.events") == ""
    # The package itself does import it: this test can fail.
    assert with_torch("import tensorboardX") == "imported\n"


def test_the_package_is_whole_for_whoever_imports_it_later(with_torch):
    code = "import digits_jax.training.events, tensorboardX; print(tensorboardX.SummaryWriter)"
    assert "SummaryWriter" in with_torch(code)
    code = "import tensorboardX, digits_jax.training.events; print(tensorboardX.SummaryWriter)"
    assert "SummaryWriter" in with_torch(code)
