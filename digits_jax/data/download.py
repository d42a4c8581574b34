"""Downloads the original files of the registered data sets."""

import http.client
import sys
import threading
import urllib.error
import urllib.request
from pathlib import Path

from digits_jax.data.files import first_writable, scratch_folder
from digits_jax.data.originals import (
    DATA_DIR_VARIABLE,
    Registered,
    UnavailableError,
    sha256_of_file,
)
from digits_jax.errors import DataError

# Below the five seconds that a decision without a network may take, imports included.
REACH_SECONDS = 3.0
_PIECE = 2**20


def download_originals(data: Registered, roots: list[Path]) -> Path:
    """Downloads the original files into ``NAME`` in the first of ``roots`` that can be written.

    Returns:
      The folder of the files.

    Raises:
      UnavailableError: the server can't be reached, or sends something else.
      DataError: the files can't be written.
    """
    places = " or ".join(map(str, roots))
    wanted = (
        f"put {', '.join(data.sha256)} into a folder and give it as data_dir, or in "
        f"{DATA_DIR_VARIABLE}"
    )
    reason = why_unreachable(data.url + next(iter(data.sha256)))
    if reason:
        raise UnavailableError(
            f"{data.name} is not in {places}, and can't be downloaded from {data.url}: {reason}; "
            f"{wanted}"
        )
    root = first_writable(roots)
    if root is None:
        raise DataError(f"{places}: can't be written, so that {data.name} can't be downloaded")
    print(f"downloading {data.name} to {root} (once) ...", file=sys.stderr, flush=True)
    folder = root / data.base_name
    try:
        with scratch_folder(root) as scratch:
            for file in data.sha256:
                _fetch(data, file, scratch / file)
            folder.mkdir(exist_ok=True)
            for file in data.sha256:
                (scratch / file).replace(folder / file)
    except (urllib.error.URLError, http.client.HTTPException, TimeoutError) as error:
        reason = getattr(error, "reason", None) or error
        raise UnavailableError(
            f"{data.name} can't be downloaded from {data.url}: {reason}; {wanted}"
        ) from None
    except OSError as error:
        raise DataError(
            f"{data.name} can't be downloaded to {root}: {error.strerror or error}; free some "
            "space, or give another folder as data_dir"
        ) from None
    return folder


def _fetch(data: Registered, file: str, path: Path) -> None:
    from tqdm import tqdm

    with urllib.request.urlopen(data.url + file, timeout=30) as response, path.open("wb") as out:
        total = int(response.headers["Content-Length"] or 0) or None
        with tqdm(
            total=total, desc=file, unit="B", unit_scale=True, leave=False, disable=None
        ) as bar:
            while piece := response.read(_PIECE):
                bar.update(out.write(piece))
    if sha256_of_file(path) != data.sha256[file]:
        raise UnavailableError(f"{data.url}{file} is not the original file of {data.name}")


def why_unreachable(url: str, limit_seconds: float = REACH_SECONDS) -> str:
    """Asks once, and not for long, why a download can't start; empty if it can.

    The thread is left behind if it doesn't answer in time: a name lookup can block for a minute.
    """
    answer: list[str] = []

    def ask() -> None:
        request = urllib.request.Request(url, method="HEAD")
        try:
            urllib.request.urlopen(request, timeout=limit_seconds).close()
            answer.append("")
        except urllib.error.HTTPError as error:
            # 405: the server knows only GET, but is there.
            answer.append("" if error.code == 405 else f"HTTP status {error.code}")
        except (OSError, ValueError, http.client.HTTPException) as error:
            answer.append(f"no connection ({getattr(error, 'reason', None) or error})")

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(limit_seconds)
    return answer[0] if answer else f"no answer within {limit_seconds:.0f} s"
