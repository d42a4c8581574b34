"""The registered data sets: their original files found, downloaded, verified and read."""

import hashlib
import os
import sys
import threading
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from digits_jax.data.idx import read_idx
from digits_jax.errors import DataError
from digits_jax.files import first_writable, scratch_folder

DATA_DIR_VARIABLE = "DIGITS_JAX_DATA_DIR"
# Below the five seconds that a decision without a network may take, imports included.
REACH_SECONDS = 3.0
_IDX_FILES = {
    "train_images": "train-images-idx3-ubyte.gz",
    "train_labels": "train-labels-idx1-ubyte.gz",
    "test_images": "t10k-images-idx3-ubyte.gz",
    "test_labels": "t10k-labels-idx1-ubyte.gz",
}
_DIGITS = "0123456789"
_LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


class UnavailableError(DataError):
    """Neither cached nor prepared nor there as files nor downloadable: ``auto`` may fall back."""


@dataclass(frozen=True)
class Registered:
    """A data set that has its own name here.

    Attributes:
      name: as in tensorflow-datasets, with the config after a slash.
      version: of its preparation in tensorflow-datasets.
      urls: folders of the original files; the later ones are mirrors.
      sha256: sum of each original file, by name.
      first_label: label of the first class in the files.
      transposed: whether the files exchange rows and columns of the images.
      arrays_sha256: the `Dataset.sha256`, where it is known: other forms are recognized by it.
    """

    name: str
    version: str
    urls: tuple[str, ...]
    sha256: dict[str, str]
    train_count: int
    test_count: int
    class_names: tuple[str, ...]
    first_label: int = 0
    transposed: bool = False
    arrays_sha256: str = ""

    @property
    def base_name(self) -> str:
        """The name without the config: ``emnist`` of ``emnist/letters``."""
        return self.name.partition("/")[0]

    @property
    def config(self) -> str | None:
        """The config: ``letters`` of ``emnist/letters``, or None."""
        return self.name.partition("/")[2] or None

    def upright(self, images: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Converts [n, 28, 28] images and labels of the files to [n, 28, 28, 1], labels from 0."""
        images = images.transpose(0, 2, 1) if self.transposed else images
        return np.ascontiguousarray(images)[..., None], labels.astype(np.int32) - self.first_label


def _like_mnist(
    name: str, urls: tuple[str, ...], class_names: str, *sums: str, arrays_sha256: str = ""
) -> Registered:
    sha256 = dict(zip(_IDX_FILES.values(), sums, strict=True))
    names, counts = tuple(class_names.split("|")), (60_000, 10_000)
    return Registered(name, "3.0.1", urls, sha256, *counts, names, arrays_sha256=arrays_sha256)


def _emnist(config: str, train: int, test: int, names: str, first_label: int = 0) -> Registered:
    urls = ("https://biometrics.nist.gov/cs_links/EMNIST/",)
    sha256 = {"gzip.zip": "fb9bb67e33772a9cc0b895e4ecf36d2cf35be8b709693c3564cea2a019fcda8e"}
    counts = train, test, tuple(names)
    return Registered(f"emnist/{config}", "3.1.0", urls, sha256, *counts, first_label, True)


REGISTERED: dict[str, Registered] = {
    entry.name: entry
    for entry in (
        _like_mnist(
            "mnist",
            (
                "https://storage.googleapis.com/cvdf-datasets/mnist/",
                "https://ossci-datasets.s3.amazonaws.com/mnist/",
            ),
            "|".join(_DIGITS),
            "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
            "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
            "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
            "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
            arrays_sha256="d8c5b5ec8410847a161c24e0ebd79c1e6d540f520fb32462aa8535cb4f348184",
        ),
        _like_mnist(
            "fashion_mnist",
            (
                "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
                "https://github.com/zalandoresearch/fashion-mnist/raw/master/data/fashion/",
            ),
            "T-shirt/top|Trouser|Pullover|Dress|Coat|Sandal|Shirt|Sneaker|Bag|Ankle boot",
            "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84",
            "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845",
            "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073",
            "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5",
        ),
        _like_mnist(
            "kmnist",
            ("http://codh.rois.ac.jp/kmnist/dataset/kmnist/",),
            "o|ki|su|tsu|na|ha|ma|ya|re|wo",
            "51467d22d8cc72929e2a028a0428f2086b092bb31cfb79c69cc0a90ce135fde4",
            "e38f9ebcd0f3ebcdec7fc8eabdcdaef93bb0df8ea12bee65224341c8183d8e17",
            "edd7a857845ad6bb1d0ba43fe7e794d164fe2dce499a1694695a792adfac43c5",
            "20bb9a0ef54c7db3efc55a92eef5582c109615df22683c380526788f98e42a1c",
        ),
        _emnist("letters", 88_800, 14_800, _LETTERS, first_label=1),
        _emnist("balanced", 112_800, 18_800, _DIGITS + _LETTERS + "abdefghnqrt"),
        _emnist("digits", 240_000, 40_000, _DIGITS),
    )
}

DATASETS = ("auto", *REGISTERED, "digits", "strokes")
# Of user data, whose names are others, it isn't known: its labels 0 to 9 may stand for anything.
OF_DIGITS = {name for name, data in REGISTERED.items() if data.class_names == tuple(_DIGITS)}
OF_DIGITS |= {"digits", "strokes"}


def find_originals(data: Registered, root: Path) -> Path | None:
    """Finds the original files in ``root/NAME`` or in ``root`` and verifies them.

    Several data sets share their file names: another one's files count as absent.

    Returns:
      The folder of the files, or None if there are none.

    Raises:
      DataError: some files are missing, damaged or unpacked.
    """
    foreign = {
        digest
        for other in REGISTERED.values()
        if other.base_name != data.base_name
        for digest in other.sha256.values()
    }
    for place in (root / data.base_name, root):
        # os.path says no where pathlib raises: in folders that may not be entered.
        sums = {f: _sha256_of_file(place / f) for f in data.sha256 if os.path.isfile(place / f)}
        plain = [file.removesuffix(".gz") for file in data.sha256 if file.endswith(".gz")]
        names = (*plain, *(name.replace("-idx", ".idx") for name in plain))
        unpacked = next((name for name in names if os.path.isfile(place / name)), None)
        # To take the folder for an empty one would be worse.
        if not sums and unpacked and not data.arrays_sha256:
            raise DataError(
                f"{data.name}: {place / unpacked} is unpacked, and its checksum isn't known; put "
                f"the original files there: {', '.join(data.sha256)}, from {data.urls[0]}; for "
                f"your own data give dataset={place}"
            )
        if not sums or foreign.issuperset(sums.values()):
            continue
        if wrong := [file for file, digest in data.sha256.items() if sums.get(file) != digest]:
            raise DataError(
                f"{data.name}: {', '.join(wrong)} in {place} are missing, damaged or others of "
                f"that name (by their SHA-256); get them from {data.urls[0]}, or give "
                f"dataset={place} for your own data"
            )
        return place
    return None


def _sha256_of_file(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise DataError(f"{path} can't be read: {error.strerror}; check its permissions") from None


def download_originals(data: Registered, roots: list[Path]) -> Path:
    """Downloads the original files into ``NAME`` in the first of ``roots`` that can be written.

    Returns:
      The folder of the files.

    Raises:
      UnavailableError: no server can be reached or sends the files, or they can't be written.
    """
    reasons = []
    for url in data.urls:
        try:
            _open_url(url + next(iter(data.sha256)), "HEAD").close()  # before a folder is made
            root = first_writable(roots)
            if root is not None:
                print(f"downloading {data.name} to {root} (once) ...", file=sys.stderr, flush=True)
                return _download(data, url, root)
            reasons.append("no folder can be written")
            break
        except Exception as error:  # of urllib, http and the system
            reasons.append(f"{url}: {error}")
    raise UnavailableError(
        f"{data.name} is not in {folders_searched(roots)}, and can't be downloaded "
        f"({'; '.join(reasons)}); put {', '.join(data.sha256)} into a folder and give it as "
        f"data_dir, or in {DATA_DIR_VARIABLE}"
    )


def folders_searched(roots: list[Path]) -> str:
    """Names the folders of a message."""
    return " or ".join(map(str, roots)) or "any folder (data_dir isn't given, and HOME isn't set)"


def _download(data: Registered, url: str, root: Path) -> Path:
    from tqdm import tqdm

    folder = root / data.base_name
    with scratch_folder(root) as scratch:
        for file, digest in data.sha256.items():
            with _open_url(url + file) as response, (scratch / file).open("wb") as out:
                size = int(response.headers["Content-Length"] or 0) or None
                bar = {"total": size, "desc": file, "leave": False, "disable": None}
                with tqdm.wrapattr(out, "write", **bar) as counted:
                    while piece := response.read(2**20):
                        counted.write(piece)
            if _sha256_of_file(scratch / file) != digest:
                raise OSError(f"{file} isn't the original file")
        folder.mkdir(exist_ok=True)
        for file in data.sha256:
            (scratch / file).replace(folder / file)
    return folder


def _open_url(url: str, method: str = "GET") -> Any:
    """Opens an address in a thread that is left behind: a name lookup can block for a minute."""
    import urllib.error
    import urllib.request  # as long as all other imports of this module

    answer: list[Any] = []

    def ask() -> None:
        try:
            request = urllib.request.Request(url, method=method)
            answer.append(urllib.request.urlopen(request, timeout=30))
        except Exception as error:
            answer.append(error)

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(REACH_SECONDS)
    if not answer:
        raise TimeoutError(f"no answer within {REACH_SECONDS:g} s")
    if isinstance(answer[0], Exception):
        if isinstance(answer[0], urllib.error.HTTPError):
            answer[0].close()  # it is a response too
        raise answer[0]
    return answer[0]


def read_originals(data: Registered, folder: Path) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Reads the verified original files, in their order.

    Returns:
      For "train" and "test" the images, uint8 [n, 28, 28, 1], upright, and the labels, int32 [n]
      from 0.
    """

    def read(part: str, count: int) -> np.ndarray:
        name = _IDX_FILES[part]
        if data.config is None:
            packed = (folder / name).read_bytes()
        else:
            with zipfile.ZipFile(folder / "gzip.zip") as archive:
                file = f"gzip/emnist-{data.config}-{name.replace('t10k', 'test')}"
                packed = archive.read(file)
        return read_idx(packed, f"the {part} of {data.name}")[:count]  # as stock tfds does

    counts = {"train": data.train_count, "test": data.test_count}
    return {
        split: data.upright(read(f"{split}_images", count), read(f"{split}_labels", count))
        for split, count in counts.items()
    }
