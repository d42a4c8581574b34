"""Files from outside, damaged at random or made to deceive: read, or refused in one line.

Pictures, ``.npz`` and IDX files may come from anywhere. A run's own files need only be refused when
they are cut off, empty or something else.
"""

import gzip
import io
import shutil
import struct
import subprocess
import sys
import zipfile
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from programs import assert_refused, environment

from digits_jax import predict as predict_program
from digits_jax.compare import read_predictions
from digits_jax.data.idx import read_idx
from digits_jax.data.own_data import load_own
from digits_jax.deploy.archive import read_archive, write_archive
from digits_jax.deploy.network import load_network
from digits_jax.deploy.sheet import is_sheet
from digits_jax.errors import DigitsError
from digits_jax.vision.decode import decode_image
from digits_jax.vision.segment import read_digit

COUNT = 12
IMAGES = np.random.default_rng(0).integers(0, 256, (COUNT, 28, 28), np.uint8)


def encode(mode, kind, **options):
    stream = io.BytesIO()
    Image.fromarray(IMAGES[0]).convert(mode).save(stream, kind, **options)
    return stream.getvalue()


def zip_of(members):
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as file:
        for name, content in members.items():
            file.writestr(name, content)
    return stream.getvalue()


def npz():
    stream = io.BytesIO()
    np.savez(stream, labels=np.arange(COUNT) % 10, logits=np.eye(COUNT, 10, dtype=np.float32))
    return stream.getvalue()


def npz_of_images():
    stream = io.BytesIO()
    np.savez(stream, images=IMAGES[:, ::4, ::4], labels=np.arange(COUNT) % 2)
    return stream.getvalue()


def csv():
    rows = np.concatenate(
        [np.arange(COUNT)[:, None] % 2, IMAGES[:, ::4, ::4].reshape(COUNT, -1)], 1
    )
    return "".join(",".join(map(str, row)) + "\n" for row in rows.tolist()).encode()


def idx(*shape):
    return struct.pack(f">4B{len(shape)}I", 0, 0, 8, len(shape), *shape)


def chunk(kind, body):
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png_claiming(width, height):
    """A PNG that claims a size and has four bytes of it."""
    head = chunk(b"IHDR", struct.pack(">2I5B", width, height, 8, 2, 0, 0, 0))
    body = chunk(b"IDAT", zlib.compress(b"1234")) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + head + body


def repair_png(data):
    """Chunks with right checksums, as far as they can be told apart."""
    repaired, position = data[:8], 8
    while position + 8 <= len(data):
        end = position + 8 + int.from_bytes(data[position : position + 4])
        repaired += chunk(data[position + 4 : position + 8], data[position + 8 : end])
        position = end + 4
    return repaired


# --- random damage -------------------------------------------------------------------------

EXTREMES = (0, 1, 2**8 - 1, 2**15, 2**31 - 1, 2**32 - 1, 2**63, 2**64 - 1)


@st.composite
def damaged(draw, data):
    """Bytes with one to three changes: cut, flipped, spliced, inserted, or another number."""
    data = bytearray(data)
    for _ in range(draw(st.integers(1, 3))):
        # Headers are at the beginning, and of a zip file at the end.
        place = st.integers(0, len(data)) | st.integers(-64, 64)
        at = min(draw(place) % (len(data) + 1), len(data))
        change = draw(st.sampled_from(["cut", "flip", "splice", "insert", "number"]))
        if change == "cut":
            del data[at:]
        elif change == "flip" and at < len(data):
            data[at] ^= 1 << draw(st.integers(0, 7))
        elif change == "splice":
            start, length = draw(st.integers(0, len(data))), draw(st.integers(1, 64))
            data[at : at + draw(st.integers(0, 64))] = data[start : start + length]
        elif change == "insert":
            data[at:at] = draw(st.binary(min_size=1, max_size=8))
        elif change == "number":
            number, size = draw(st.sampled_from(EXTREMES)), draw(st.sampled_from((1, 2, 4, 8)))
            order = draw(st.sampled_from(("little", "big")))
            data[at : at + size] = (number % 256**size).to_bytes(size, order)
    return bytes(data)


def damaged_png(data):
    return damaged(data).map(repair_png)


def damaged_gzip(data):
    return damaged(data) | damaged(gzip.decompress(data)).map(gzip.compress)


def damaged_zip(data):
    with zipfile.ZipFile(io.BytesIO(data)) as file:
        members = {name: file.read(name) for name in file.namelist()}
    names = st.sampled_from(sorted(members))
    inside = names.flatmap(lambda name: damaged(members[name]).map(lambda new: {name: new}))
    return damaged(data) | inside.map(lambda new: zip_of({**members, **new}))


def read_picture(path):
    grey = decode_image(path.read_bytes(), str(path))
    assert (grey.dtype, grey.ndim) == (np.uint8, 2)
    if grey.size <= 10_000:
        digit = read_digit(grey)
        assert digit is None or digit.shape == (28, 28)


def read_own(suffix):
    """A reader of user data, which are told apart by their names."""

    def read(path):
        own = path.with_suffix(suffix)
        own.write_bytes(path.read_bytes())
        images = load_own(own, [], "ink").train.images
        assert (images.dtype, images.shape[1:]) == (np.uint8, (28, 28, 1))

    return read


def read_images(path):
    images = read_idx(path.read_bytes(), str(path))
    assert images.dtype == np.uint8
    assert images.ndim in (1, 3)


def read_labels_and_logits(path):
    found = read_predictions(path, "a")
    labels, logits = np.asarray(found.labels), np.asarray(found.logits)
    assert logits.shape == (len(labels), 10)
    assert np.isfinite(logits.astype(np.float64)).all()
    assert labels.min() >= 0
    assert labels.max() < 10


EXIF = Image.Exif()
EXIF[0x0112] = 6
# A file, how it is damaged, and its reader.
FILES = {
    "PNG": (encode("L", "PNG"), damaged, read_picture),
    "PNG with right checksums": (encode("P", "PNG", transparency=3), damaged_png, read_picture),
    "JPEG": (encode("L", "JPEG", quality=60, exif=EXIF), damaged, read_picture),
    "progressive JPEG": (encode("RGB", "JPEG", progressive=True), damaged, read_picture),
    "WebP": (encode("RGBA", "WEBP", lossless=True), damaged, read_picture),
    "BMP": (encode("L", "BMP"), damaged, read_picture),
    "TIFF": (encode("F", "TIFF", compression="tiff_lzw"), damaged, read_picture),
    "sheet": (encode("L", "PNG"), damaged_png, is_sheet),
    "IDX": (gzip.compress(idx(COUNT, 28, 28) + IMAGES.tobytes()), damaged_gzip, read_images),
    "npz": (npz(), damaged_zip, read_labels_and_logits),
    "npz of images": (npz_of_images(), damaged_zip, read_own(".npz")),
    "CSV": (csv(), damaged, read_own(".csv")),
    "packed CSV": (gzip.compress(csv()), damaged_gzip, read_own(".csv.gz")),
}


def read_or_refuse(read, path):
    """Whether a file is read; else the error is one short line that names it."""
    try:
        read(path)
    except DigitsError as error:
        message = str(error)
    else:
        return True
    assert str(path) in message
    assert message.isprintable()
    assert len(message) <= 300 + len(str(path))
    return False


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("files") / "file"


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("count", [60, pytest.param(2000, marks=pytest.mark.slow)])
def test_damaged_files_are_read_or_refused(place, name, count):
    intact, damage, read = FILES[name]

    @given(damage(intact))
    @settings(max_examples=count, deadline=None)
    def check(data):
        place.write_bytes(data)
        read_or_refuse(read, place)

    check()


@pytest.mark.parametrize("name", FILES)
def test_intact_files_are_read_and_halves_are_refused(place, name):
    intact, _, read = FILES[name]
    place.write_bytes(intact)
    assert read_or_refuse(read, place)
    place.write_bytes(intact[: len(intact) // 2])
    assert read is is_sheet or not read_or_refuse(read, place)


def test_damaged_networks_are_read_or_refused(place, trained):
    write_archive(load_network(trained[0]), place)

    @given(damaged_zip(place.read_bytes()))
    @settings(max_examples=60, deadline=None)
    def check(data):
        place.write_bytes(data)
        read_or_refuse(read_archive, place)

    check()


# --- files that claim, or unpack to, more than there is ------------------------------------

GIGABYTES = 3  # what a bomb unpacks to
MEGABYTE = 2**20


def deflated_zeros(head, size):
    """Raw deflate of some bytes and many zeros: a megabyte is packed once, and repeated."""
    pack = zlib.compressobj(9, zlib.DEFLATED, -15)
    first = pack.compress(head) + pack.flush(zlib.Z_FULL_FLUSH)
    piece = pack.compress(bytes(MEGABYTE)) + pack.flush(zlib.Z_FULL_FLUSH)
    return first + piece * (size // MEGABYTE) + pack.flush(zlib.Z_FINISH)


def gzip_bomb(head):
    return b"\x1f\x8b\x08" + bytes(6) + b"\xff" + deflated_zeros(head, GIGABYTES * 10**9) + bytes(8)


def npy_header(shape, descr="<f4"):
    text = f"{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}".encode()
    text = text.ljust(117) + b"\n"
    return b"\x93NUMPY\x01\0" + struct.pack("<H", len(text)) + text


def npz_bomb(name, claimed):
    """One deflated member that unpacks to gigabytes, whatever size it claims."""
    head = npy_header(f"({claimed // 4},)")
    packed, member = deflated_zeros(head, GIGABYTES * 10**9), f"{name}.npy".encode()
    sizes = (len(packed), (len(head) + claimed) % 2**32)
    about = struct.pack("<HHHHHIII", 20, 0, 8, 0, 0, 0, *sizes) + struct.pack("<HH", len(member), 0)
    local = b"PK\x03\x04" + about + member + packed
    central = b"PK\x01\x02" + struct.pack("<H", 20) + about + bytes(14) + member
    end = struct.pack("<HHHHIIH", 0, 0, 1, 1, len(central), len(local), 0)
    return local + central + b"PK\x05\x06" + end


def npz_claiming(shape, descr):
    names = ("labels.npy", "logits.npy", "network.npy")
    return zip_of({name: npy_header(shape, descr) + bytes(64) for name in names})


WEBP = b"RIFF" + struct.pack("<I", 30) + b"WEBPVP8X" + struct.pack("<I", 10) + b"\0" * 4
BOMBS = {
    "npz": lambda: [
        npz_bomb("labels", GIGABYTES * 10**9),
        npz_bomb("network", GIGABYTES * 10**9),
        npz_bomb("labels", 4000),
        npz_claiming("(1099511627776,)", "<f4"),
        npz_claiming("(0, 9999999999999999999)", "|b1"),
        npz_claiming("(4611686018427387904,)", "<U100000000"),
    ],
    "IDX": lambda: [
        gzip_bomb(idx(COUNT, 28, 28)),
        gzip_bomb(b""),
        gzip.compress(idx(*(2**32 - 1,) * 3) + bytes(100)),
        gzip.compress(idx(COUNT, 9_000, 9_000) + bytes(100)),
    ],
    "picture": lambda: [
        *(png_claiming(*size) for size in [(2**31 - 1,) * 2, (24_000_001, 1), (100, 100)]),
        WEBP + (16382).to_bytes(3, "little") * 2 + b"\0" * 20,
    ],
}
WORKER = """
import resource, sys
from pathlib import Path
from digits_jax.errors import DigitsError
kind, megabytes, *paths = sys.argv[1:]
if kind == "npz":
    from digits_jax.compare import read_predictions
    from digits_jax.deploy.archive import read_archive
    readers = [lambda path: read_predictions(path, "a"), read_archive]
elif kind == "IDX":
    from digits_jax.data.idx import read_idx
    readers = [lambda path: read_idx(path.read_bytes(), str(path))]
else:
    from digits_jax.vision.decode import decode_image
    from digits_jax.vision.segment import read_digit
    readers = [lambda path: read_digit(decode_image(path.read_bytes(), str(path)))]
used = next(int(line.split()[1]) for line in open("/proc/self/status") if "VmData" in line)
resource.setrlimit(resource.RLIMIT_DATA, (1024 * used + int(megabytes) * 10**6, -1))
for path in map(Path, paths):
    for read in readers:
        try:
            print("read", read(path))
        except DigitsError as error:
            print(error)
"""


def read_in_little_memory(kind, megabytes, files, folder):
    """What a process prints of files: all its memory is limited, also that of libraries in C."""
    paths = [folder / str(number) for number in range(len(files))]
    for path, data in zip(paths, files, strict=True):
        path.write_bytes(data)
    done = subprocess.run(
        [sys.executable, "-c", WORKER, kind, str(megabytes), *map(str, paths)],
        env=environment(folder),
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines(), paths


@pytest.mark.skipif(sys.platform != "linux", reason="limits memory as Linux does")
@pytest.mark.parametrize("kind", BOMBS)
def test_files_that_claim_much_are_refused_in_little_memory(tmp_path, kind):
    lines, paths = read_in_little_memory(kind, 150, BOMBS[kind](), tmp_path)
    readers = 2 if kind == "npz" else 1
    assert len(lines) == readers * len(paths)
    for number, line in enumerate(lines):
        assert line.startswith(f"{paths[number // readers]}"), line
        assert "memory" not in line.lower()


@pytest.mark.skipif(sys.platform != "linux", reason="limits memory as Linux does")
def test_the_largest_pictures_are_read_in_little_memory(tmp_path):
    pictures = []
    for kind, mode, colour, size, options in (
        ("PNG", "RGBA", (255,) * 4, (6000, 4000), {}),
        ("TIFF", "F", 1, (6000, 4000), {"compression": "tiff_lzw"}),
        ("JPEG", "L", 255, (20_000, 20_000), {}),
    ):
        stream = io.BytesIO()
        Image.new(mode, size, colour).save(stream, kind, **options)
        pictures.append(stream.getvalue())
    # A process has 512 MB at least: the rest is for itself and a network.
    lines, _ = read_in_little_memory("picture", 330, pictures, tmp_path)
    assert lines == ["read None"] * 3


# --- a run's own files ---------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["config.json", "results.json", "predictions.npz", "checkpoints/*/SHA256SUMS"]
)
def test_a_runs_damaged_files_are_refused_in_one_line(trained, here, tmp_path, name):
    run = shutil.copytree(trained[0], tmp_path / "run")
    Image.fromarray(IMAGES[0]).save(tmp_path / "a.png")
    intact = {path: path.read_bytes() for path in run.glob(name)}
    for damage in (lambda data: data[: len(data) // 2], lambda _: b"", lambda _: b"?"):
        for path, data in intact.items():
            path.write_bytes(damage(data))
        assert_refused(here(predict_program, run, "a.png"), str(run))
