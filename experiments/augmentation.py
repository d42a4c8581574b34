"""What training images look like as augmented: python -m experiments.augmentation

Draws a hundred images for each policy, ten of each class, and measures how long one change of
10,000 images takes. Writes ``augmentation-POLICY.png`` and ``augmentation.json``.
"""

import json
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from digits_jax.cli import parse, run_program
from digits_jax.config_checks import AUGMENTS
from digits_jax.errors import ConfigError
from experiments.running import results_folder

RESULTS = Path(__file__).parent / "results" / "augmentation"
TIMED_IMAGES = 10_000
REPEATS = 7


@dataclass(frozen=True)
class Arguments:
    """What to draw."""

    policies: tuple[str, ...] = AUGMENTS
    """Policies of --augment."""
    dataset: str = "auto"
    """As in training."""
    data_dir: Annotated[
        str | None, tyro.conf.arg(help_behavior_hint="(default: as in training)")
    ] = None
    """Its folder."""
    seed: int = 0
    """Of what is random."""
    output: Annotated[Path, tyro.conf.arg(aliases=["-o"])] = RESULTS
    """Folder of the pictures."""


def main(argv: Sequence[str]) -> None:
    """Draws, measures, prints."""
    arguments = parse(Arguments, argv, doc=__doc__)
    unknown = [name for name in arguments.policies if name not in AUGMENTS]
    if unknown or not arguments.policies:
        raise ConfigError(f"--policies={','.join(unknown)}: give some of {', '.join(AUGMENTS)}")
    if not 0 <= arguments.seed < 2**31:
        raise ConfigError(
            f"--seed={arguments.seed}: give a whole number, at least 0 and under 2**31"
        )
    from tqdm import tqdm

    from digits_jax.data.datasets import load_dataset

    data = load_dataset(arguments.dataset, arguments.data_dir)
    results_folder(arguments.output)
    rows = []
    for policy in tqdm(arguments.policies, "policies", leave=False, disable=None):
        rows.append(measure(policy, data.train.images, arguments.seed))
        path = arguments.output / f"augmentation-{policy}.png"
        draw(policy, ten_of_each(data.train, data.num_classes), arguments.seed, path)
    found = {"dataset": data.name, "images": TIMED_IMAGES, "seed": arguments.seed, "rows": rows}
    text = json.dumps({**found, **_machine()}, indent=2) + "\n"
    (arguments.output / "augmentation.json").write_text(text)
    for row in rows:
        print(f"{row['policy']:>8}: {row['seconds']:.3f} s for {TIMED_IMAGES:,} images")
    print(f"pictures: {arguments.output}")


def ten_of_each(split: Any, num_classes: int) -> Any:
    """The first ten images of each class, class by class: uint8 [10 * classes, 28, 28, 1]."""
    import numpy as np

    chosen = [np.flatnonzero(split.labels == label)[:10] for label in range(num_classes)]
    return split.images[np.concatenate(chosen)]


def _augmented(policy, images, seed):
    import jax

    from digits_jax.data.augment import make_augment
    from digits_jax.training.steps import to_float

    change = make_augment(policy) or (lambda key, images: images)
    call = jax.jit(lambda key, images: change(key, to_float(images)))
    return call, jax.random.key(seed), jax.device_put(images)


def measure(policy: str, images: Any, seed: int) -> dict[str, Any]:
    """The median time of one change of 10,000 images, compiled before, on the device."""
    import numpy as np

    repeated = np.resize(images, (TIMED_IMAGES, *images.shape[1:]))
    call, key, placed = _augmented(policy, repeated, seed)
    call(key, placed).block_until_ready()
    seconds = []
    for _ in range(REPEATS):
        started = time.perf_counter()
        call(key, placed).block_until_ready()
        seconds.append(time.perf_counter() - started)
    return {"policy": policy, "seconds": statistics.median(seconds), "repeats": seconds}


def draw(policy: str, images: Any, seed: int, path: Path) -> None:
    """Writes a picture: each class's ten images in a row."""
    import numpy as np
    from PIL import Image

    call, key, placed = _augmented(policy, images, seed)
    changed = np.asarray(call(key, placed))[..., 0]
    rows = changed.reshape(-1, 10, 28, 28)
    # A line of grey between the images, and each pixel three wide.
    framed = np.pad(rows, ((0, 0), (0, 0), (1, 1), (1, 1)), constant_values=0.35)
    sheet = framed.transpose(0, 2, 1, 3).reshape(len(rows) * 30, 300)
    enlarged = np.kron(np.round(255 * sheet).astype(np.uint8), np.ones((3, 3), np.uint8))
    Image.fromarray(enlarged).save(path)


def _machine():
    import jax

    from digits_jax.hardware import cpu_count
    from digits_jax.training.parallel import make_mesh
    from digits_jax.training.record import device_name

    mesh = make_mesh(jax.devices()[:1])
    return {"device": device_name(mesh), "cores": cpu_count(), "jax": jax.__version__}


if __name__ == "__main__":
    sys.exit(run_program(main))
