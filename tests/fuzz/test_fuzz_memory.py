"""Files that claim, or unpack to, more than there is: refused, and never allocated."""

import gzip
import struct
import subprocess
import sys
import tracemalloc
import zipfile
import zlib

import numpy as np
import pytest
from faults_log import log_faults
from programs import REPOSITORY, environment
from readers import COUNT, READERS, make_archive, make_run

from digits_jax.data.originals import read_idx
from digits_jax.deploy.archive import read_archive
from digits_jax.errors import DigitsError
from digits_jax.runs import folder as folder_module
from digits_jax.runs.folder import MAX_ARRAY_BYTES, read_json, read_metrics, read_npz, read_run
from digits_jax.vision.decode import decode_image

PEAK_BYTES = 30_000_000
GIGABYTES = 3  # what a bomb unpacks to
MEGABYTE = 2**20


def peak_of(act):
    """What ``act`` allocated at most beyond what was there, through Python and NumPy."""
    tracemalloc.start()
    try:
        act()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def deflated_zeros(head, size):
    """Raw deflate of some bytes and many zeros: a megabyte is packed once, and repeated."""
    pack = zlib.compressobj(9, zlib.DEFLATED, -15)
    first = pack.compress(head) + pack.flush(zlib.Z_FULL_FLUSH)
    piece = pack.compress(bytes(MEGABYTE)) + pack.flush(zlib.Z_FULL_FLUSH)
    return first + piece * (size // MEGABYTE) + pack.flush(zlib.Z_FINISH)


def gzip_bomb(head):
    start = b"\x1f\x8b\x08" + bytes(6) + b"\xff"
    return start + deflated_zeros(head, GIGABYTES * 10**9) + bytes(8)


def npy_header(shape, descr="<f4"):
    text = f"{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}".encode()
    text = text.ljust(117) + b"\n"
    return b"\x93NUMPY\x01\0" + struct.pack("<H", len(text)) + text


def zip_of_one(name, packed, size):
    """A zip file of one deflated member; its checksum is wrong, and would be met at its end."""
    member = name.encode()
    about = struct.pack("<HHHHHIII", 20, 0, 8, 0, 0, 0, len(packed), size % 2**32)
    about += struct.pack("<HH", len(member), 0)
    local = b"PK\x03\x04" + about + member + packed
    central = b"PK\x01\x02" + struct.pack("<H", 20) + about + struct.pack("<HHHII", 0, 0, 0, 0, 0)
    central += member
    end = struct.pack("<HHHHIIH", 0, 0, 1, 1, len(central), len(local), 0)
    return local + central + b"PK\x05\x06" + end


def npz_bomb(name="labels"):
    """It unpacks to what its header says."""
    count = GIGABYTES * 10**9 // 4
    head = npy_header(f"({count},)")
    return zip_of_one(f"{name}.npy", deflated_zeros(head, 4 * count), len(head) + 4 * count)


def refused(act, said):
    def again():
        with pytest.raises(DigitsError, match=said) as caught:
            act()
        assert str(caught.value).isprintable()

    assert peak_of(again) < PEAK_BYTES


HUGE = (
    "(1099511627776,)",
    "(4611686018427387904,)",
    "(0, 9999999999999999999999)",
    "(65536, 65536)",
)


@pytest.mark.parametrize("shape", HUGE)
@pytest.mark.parametrize("descr", ["<f4", "|b1", "<U100000000"])
def test_headers_of_arrays_that_claim_much(tmp_path, shape, descr):
    make_run(tmp_path)
    with zipfile.ZipFile(tmp_path / "predictions.npz", "w") as file:
        for name in ("labels", "logits", "validation_labels", "validation_logits"):
            file.writestr(f"{name}.npy", npy_header(shape, descr) + bytes(64))
    refused(lambda: read_run(tmp_path), r"predictions\.npz: can't be read \(")


def test_bombs_in_archives(tmp_path):
    make_run(tmp_path)
    (tmp_path / "predictions.npz").write_bytes(npz_bomb())
    (tmp_path / "model.npz").write_bytes(npz_bomb("network"))
    said = rf"{GIGABYTES},000,000,128 bytes unpacked; {MAX_ARRAY_BYTES:,} are allowed"
    refused(lambda: read_run(tmp_path), said)
    refused(lambda: read_archive(tmp_path / "model.npz"), said)
    from digits_jax.compare import read_arrays

    refused(lambda: read_arrays(tmp_path / "predictions.npz"), said)
    log_faults("npz bombs", 3, 3)


def test_a_bomb_that_lies_about_its_size(tmp_path):
    """What is unpacked beyond the size that the entry says is thrown away: after a megabyte."""
    path = tmp_path / "a.npz"
    head = npy_header("(1000,)")
    packed = deflated_zeros(head, GIGABYTES * 10**9)
    path.write_bytes(zip_of_one("labels.npy", packed, len(head) + 4000))

    def read():
        with pytest.raises(ValueError, match="Bad CRC"):
            read_npz(path)

    assert peak_of(read) < PEAK_BYTES


def idx(shape):
    return struct.pack(f">4B{len(shape)}I", 0, 0, 8, len(shape), *shape)


@pytest.mark.parametrize("shape", [(2**32 - 1,) * 3, (COUNT, 2**31, 2**31), (2**32 - 1,)])
def test_headers_of_idx_that_claim_much(shape):
    data = gzip.compress(idx(shape) + bytes(100))
    refused(lambda: read_idx(data, COUNT, "images.gz"), r"images\.gz says that it holds")


def test_a_claim_under_the_limit_is_not_allocated():
    """900 MB are claimed, and 100 bytes are there."""
    data = gzip.compress(idx((9, 10_000, 10_000)) + bytes(100))
    refused(lambda: read_idx(data, 9, "images.gz"), "holds fewer than 9 entries")


def test_a_bomb_in_gzip():
    for head in (idx((COUNT, 28, 28)), idx((COUNT,)), b"", idx((2**32 - 1,))):
        bomb = gzip_bomb(head)
        refused(lambda bomb=bomb: read_idx(bomb, COUNT, "images.gz"), r"images\.gz")
    log_faults("gzip bombs", 4, 4)


def test_json_of_any_size(tmp_path, monkeypatch):
    """A sparse file has the size of a disk and takes none of it."""
    monkeypatch.setattr(folder_module, "_MAX_JSON_BYTES", 5_000_000)
    for name in ("config.json", "metrics.jsonl"):
        with open(tmp_path / name, "wb") as file:
            file.truncate(20 * 10**9)
    said = "has more than 5,000,000 bytes"
    refused(lambda: read_json(tmp_path / "config.json"), said)
    refused(lambda: read_metrics(tmp_path), said)


def test_layers_that_would_make_a_huge_image(tmp_path):
    """Reading computes nothing: four megabytes of kernel would make an image of a gigabyte."""
    make_archive(tmp_path)
    with np.load(tmp_path / "model.npz") as file:
        arrays = dict(file)
    arrays["0.3.factor"] = arrays["0.3.offset"] = np.zeros(10**6, np.float32)
    np.savez_compressed(tmp_path / "model.npz", **arrays)
    refused(lambda: read_archive(tmp_path / "model.npz"), "don't fit each other")


def png_claiming(width, height):
    def chunk(kind, body):
        return (
            struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        )

    head = struct.pack(">2I5B", width, height, 8, 0, 0, 0, 0)
    parts = [chunk(b"IHDR", head), chunk(b"IDAT", zlib.compress(bytes(100))), chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


@pytest.mark.parametrize("size", [(2**31 - 1, 2**31 - 1), (10**5, 10**5), (5000, 5000)])
def test_pictures_that_claim_much(size):
    refused(lambda: decode_image(png_claiming(*size), "big.png"), r"big\.png: .*pixels")


LIMITED = """
import resource, sys
sys.path[:0] = ["tests", "tests/fuzz"]
from pathlib import Path
from readers import READERS
from digits_jax.errors import DigitsError
used = next(int(l.split()[1]) for l in open("/proc/self/status") if l.startswith("VmData")) * 1024
resource.setrlimit(resource.RLIMIT_DATA, (used + 300_000_000, -1))
for name, folder in zip(sys.argv[1::2], sys.argv[2::2], strict=True):
    try:
        READERS[name].read(Path(folder))
        print("read", name)
    except DigitsError as error:
        print(error)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="counts as Linux does")
def test_bombs_under_a_limit_of_the_system(tmp_path):
    """All memory of a process, that of libraries in C too: 300 MB more than it has."""
    bombs = {
        "predictions.npz": {"predictions.npz": npz_bomb()},
        "predictions to compare": {"a.npz": npz_bomb()},
        "model.npz": {"model.npz": npz_bomb("network")},
        "IDX images": {"images.gz": gzip_bomb(idx((COUNT, 28, 28)))},
        "PNG": {"picture.png": png_claiming(10**5, 10**5)},
    }
    arguments = []
    for number, (name, files) in enumerate(bombs.items()):
        place = tmp_path / str(number)
        place.mkdir()
        READERS[name].make(place)
        for file, data in files.items():
            (place / file).write_bytes(data)
        arguments += [name, str(place)]
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, *arguments],
        cwd=REPOSITORY,
        env=environment(tmp_path),
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) == len(bombs), done.stdout
    for line, files in zip(lines, bombs.values(), strict=True):
        assert next(iter(files)) in line
    log_faults("bombs under a limit of memory", len(bombs), len(bombs))
