"""What a checkpoint's folder holds, file by file, so that damage is noticed.

Orbax restores most flipped bits without a word, with wrong values. So each checkpoint has a
``manifest.json``::

    {"format": 1, "step": 12,
     "values": {...},                                   what the training loop noted
     "files": {"state/_METADATA": {"bytes": 2408, "sha256": "..."}, ...},
     "sha256": "..."}                                   of all of the above

It is written last. A folder without one is a save that was not finished.
"""

import hashlib
import json
import os
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Any

MANIFEST = "manifest.json"
FORMAT = 1


class DamagedError(Exception):
    """A checkpoint isn't what it was when it was made; the message names what is wrong."""


@dataclass(frozen=True)
class Manifest:
    """What was noted when a checkpoint was made.

    Attributes:
      step: completed updates.
      values: JSON values, the training loop's.
      num_bytes: of all files but the manifest.
    """

    step: int
    values: dict[str, Any]
    num_bytes: int


def write_manifest(folder: Path, step: int, values: dict[str, Any]) -> None:
    """Notes every file in a folder, and makes sure that they are on the disk.

    Args:
      folder: whole but for the manifest.
      step: completed updates.
      values: JSON values, finite.

    Example:
      >>> import tempfile
      >>> folder = Path(tempfile.mkdtemp())
      >>> _ = (folder / "weights").write_bytes(b"abc")
      >>> write_manifest(folder, 3, {"loss": 0.5})
      >>> read_manifest(folder)
      Manifest(step=3, values={'loss': 0.5}, num_bytes=3)
    """
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    files = {path.relative_to(folder).as_posix(): _describe(path, sync=True) for path in paths}
    content = {"format": FORMAT, "step": step, "values": values, "files": files}
    with open(folder / MANIFEST, "wb") as file:
        file.write(_text({**content, "sha256": _own_sha256(content)}))
        file.flush()
        os.fsync(file.fileno())
    for path in (folder, *(path for path in folder.rglob("*") if path.is_dir())):
        sync_folder(path)


def read_manifest(folder: Path) -> Manifest:
    """Checks every file in a folder against its manifest.

    Raises:
      DamagedError: it names the first file that isn't what it was.
    """
    content = _read(folder)
    for name, wanted in content["files"].items():
        path = folder / name
        try:
            size = _check_plain(path, name)
            if size != wanted["bytes"]:
                raise DamagedError(f"{name}: has {size:,} bytes, not {wanted['bytes']:,}")
            if _describe(path) != wanted:
                raise DamagedError(f"{name}: its SHA-256 isn't the one that was noted")
        except FileNotFoundError:
            raise DamagedError(f"{name}: is missing") from None
        except OSError as error:
            raise DamagedError(f"{name}: can't be read ({error.strerror})") from None
    total = sum(file["bytes"] for file in content["files"].values())
    return Manifest(content["step"], content["values"], total)


def _read(folder):
    try:
        _check_plain(folder / MANIFEST, MANIFEST)
        written = (folder / MANIFEST).read_bytes()
    except FileNotFoundError:
        raise DamagedError(f"has no {MANIFEST}: the save was not finished") from None
    except OSError as error:
        raise DamagedError(f"{MANIFEST}: can't be read ({error.strerror})") from None
    try:
        content = json.loads(written)
        digest = content.pop("sha256")
        # The text too: no bit of it may change.
        good = digest == _own_sha256(content) and written == _text({**content, "sha256": digest})
    except (ValueError, RecursionError, AttributeError, KeyError, TypeError):
        good = False
    if not good:
        raise DamagedError(f"{MANIFEST}: isn't what was written")
    if content.get("format") != FORMAT or not _is_manifest(content):
        raise DamagedError(f"{MANIFEST}: is of another version of digits_jax")
    return content


def _check_plain(path, name):
    """The size of a file; reading a pipe that lies there would wait for ever."""
    found = path.stat()
    if stat.S_ISREG(found.st_mode):
        return found.st_size
    raise DamagedError(f"{name}: isn't a file")


def _is_manifest(content):
    files = content.get("files")
    return (
        _is_count(content.get("step"))
        and isinstance(content.get("values"), dict)
        and isinstance(files, dict)
        and all(
            isinstance(file, dict)
            and file.keys() == {"bytes", "sha256"}
            and _is_count(file["bytes"])
            and name.isprintable()
            and len(name) < 200
            for name, file in files.items()
        )
    )


def _is_count(value):
    return type(value) is int and 0 <= value < 2**63


def _describe(path, *, sync=False):
    with open(path, "rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        if sync:
            os.fsync(file.fileno())
        return {"bytes": file.tell(), "sha256": digest}


def _own_sha256(content):
    return hashlib.sha256(_text(content)).hexdigest()


def _text(content):
    return (json.dumps(content, indent=1, sort_keys=True, allow_nan=False) + "\n").encode()


def sync_folder(path: Path) -> None:
    """Makes a folder's list of files lasting, where the operating system can."""
    if os.name != "posix":
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
