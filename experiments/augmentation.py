"""Shows what augmentation does to training images: python -m experiments.augmentation

Draws ten images of each class for each policy, and measures how long one change of 10,000 images
takes. Writes augmentation-POLICY.png and augmentation.json.
"""

import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import jax
import numpy as np
import tyro
from PIL import Image

from digits_jax import ConfigError, load_dataset, make_augment
from digits_jax.cli import parse, run_program
from digits_jax.hardware import cpu_count, processor_name
from digits_jax.runs.folder import hold_folder, write_json
from experiments.study import RESULTS

POLICIES = ("none", "shift", "affine", "elastic", "centred", "cutout", "noise")
TIMED_IMAGES, REPEATS = 10_000, 7


@dataclass(frozen=True)
class Arguments:
    """What to draw."""

    policies: tuple[str, ...] = POLICIES
    """Policies of --augment."""
    dataset: str = "mnist"
    """Data set, as for training."""
    data_dir: str | None = None
    """Folder of the data set, as for training."""
    output: Annotated[Path, tyro.conf.arg(aliases=["-o"])] = RESULTS / "augmentation"
    """Folder of the pictures."""


def main(argv: Sequence[str]) -> None:
    """Draws, measures, prints."""
    arguments = parse(Arguments, argv, doc=__doc__ or "")
    if unknown := set(arguments.policies) - set(POLICIES):
        raise ConfigError(f"--policies={min(unknown)}: give some of {', '.join(POLICIES)}")
    data = load_dataset(arguments.dataset, arguments.data_dir)
    images, labels = data.train.rows(np.arange(len(data.train)))
    chosen = [np.flatnonzero(labels == label)[:10] for label in range(data.num_classes)]
    many = np.resize(images, (TIMED_IMAGES, *images.shape[1:]))
    rows = []
    with hold_folder(arguments.output):
        for policy in arguments.policies:
            path = arguments.output / f"augmentation-{policy}.png"
            Image.fromarray(draw(policy, images[np.concatenate(chosen)])).save(path)
            rows.append({"policy": policy, **measure(policy, many)})
            print(f"{path}: {rows[-1]['seconds']:.3f} s for {TIMED_IMAGES:,} images")
        found = {"dataset": data.name, "images": TIMED_IMAGES, "rows": rows}
        device = jax.devices()[0]
        kind = processor_name() if device.platform == "cpu" else device.device_kind
        found |= {"device": f"{device.platform}: {kind}", "cores": cpu_count()}
        write_json(arguments.output / "augmentation.json", {**found, "jax": jax.__version__})


def compiled(policy: str) -> Callable[[np.ndarray], jax.Array]:
    """Returns a jitted change of uint8 images."""
    change = make_augment(policy) or (lambda key, images: images)
    key = jax.random.key(0)
    return jax.jit(lambda images: change(key, images.astype(np.float32) / 255))


def measure(policy: str, images: np.ndarray) -> dict[str, Any]:
    """Measures the median time of one change, compiled before, with the images on the device."""
    call, placed = compiled(policy), jax.device_put(images)
    call(placed).block_until_ready()
    seconds = []
    for _ in range(REPEATS):
        started = time.perf_counter()
        call(placed).block_until_ready()
        seconds.append(time.perf_counter() - started)
    return {"seconds": statistics.median(seconds), "repeats": seconds}


def draw(policy: str, images: np.ndarray) -> np.ndarray:
    """Returns a picture, uint8 [height, width]: ten changed images in a row."""
    changed = np.asarray(compiled(policy)(images))[..., 0].reshape(-1, 10, 28, 28)
    # A line of grey between the images, and each pixel three wide.
    framed = np.pad(changed, ((0, 0), (0, 0), (1, 1), (1, 1)), constant_values=0.35)
    sheet = framed.transpose(0, 2, 1, 3).reshape(len(changed) * 30, 300)
    return np.kron(np.round(255 * sheet).astype(np.uint8), np.ones((3, 3), np.uint8))


if __name__ == "__main__":
    sys.exit(run_program(main))
