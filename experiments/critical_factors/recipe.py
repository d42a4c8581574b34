"""One small training, as plain values; and the recipe that every factor starts from."""

import dataclasses
import hashlib
from dataclasses import dataclass
from typing import Any

from digits_jax.config import TrainConfig

ARCHS = ("mlp", "cnn")
# What a training's compiled code doesn't depend on: trainings that differ in these alone share it,
# and run side by side.
NUMBERS = (
    *("learning_rate", "label_smoothing", "dropout", "preprocessing"),
    *("train_images", "label_noise"),
)


@dataclass(frozen=True)
class Recipe:
    """A training, but for its seed.

    Attributes:
      arch: "mlp" or "cnn".
      hidden_sizes: of the MLP's hidden layers.
      channels, convs_per_block, dense_size: of the CNN, as `digits_jax.CNN` has them.
      kernel: side of the CNN's filters, in pixels, odd.
      pooling, activation, normalization: see `networks`.
      augment: a name in `training.AUGMENTATIONS`.
      optimizer, weight_decay, schedule: as `digits_jax.training.optimizers` has them.
      batch_size: images.
      epochs: passes over all training images; with fewer ``train_images`` as many steps.
      learning_rate: the peak.
      label_smoothing: in [0, 1).
      dropout: in [0, 1).
      preprocessing: a name in `preprocess.PREPROCESSING`.
      train_images: how many are drawn to train on; 0 is all.
      label_noise: share of the training labels that are replaced by another class.
    """

    arch: str
    hidden_sizes: tuple[int, ...] = ()
    channels: tuple[int, ...] = ()
    convs_per_block: int = 1
    dense_size: int = 0
    kernel: int = 3
    pooling: str = "max"
    activation: str = "relu"
    normalization: str = "batch"
    augment: str = "none"
    optimizer: str = "adamw"
    weight_decay: float = 0.01
    schedule: str = "one_cycle"
    batch_size: int = 128
    epochs: float = 1.0
    learning_rate: float = 0.01
    label_smoothing: float = 0.0
    dropout: float = 0.0
    preprocessing: str = "scaling"
    train_images: int = 0
    label_noise: float = 0.0

    def changed(self, **changes: Any) -> "Recipe":
        """This recipe with some fields changed."""
        return dataclasses.replace(self, **changes)

    def compiled_alike(self) -> tuple:
        """The same for two recipes that one compiled step trains.

        Example:
          >>> recipe = Recipe("mlp", hidden_sizes=(8,))
          >>> recipe.changed(learning_rate=0.5).compiled_alike() == recipe.compiled_alike()
          True
          >>> recipe.changed(batch_size=64).compiled_alike() == recipe.compiled_alike()
          False
        """
        fields = dataclasses.asdict(self)
        kept = {name: value for name, value in fields.items() if name not in NUMBERS}
        return (*kept.items(), ("drops", self.dropout > 0))

    def digest(self) -> str:
        """Eight hexadecimal digits that tell recipes apart in a table.

        Example:
          >>> Recipe("mlp").digest() == Recipe("mlp", dropout=0.0).digest()
          True
        """
        return hashlib.sha256(repr(self).encode()).hexdigest()[:8]


def baseline(arch: str, dataset: str, *, quick: bool = False) -> Recipe:
    """What every factor starts from: the preset ``quick`` of the library.

    Args:
      arch: "mlp" or "cnn".
      dataset: the data set's name; small ones have a longer recipe.
      quick: smaller networks and fewer passes, to try the study and not to learn from it.

    Example:
      >>> baseline("cnn", "mnist").channels
      (24, 48)
    """
    preset = TrainConfig(arch=arch, preset="quick").resolve(dataset)
    sizes = {
        "mlp": {"hidden_sizes": preset.hidden_sizes or ()},
        "cnn": {
            "channels": preset.channels or (),
            "convs_per_block": preset.convs_per_block or 1,
            "dense_size": preset.dense_size or 0,
        },
    }[arch]
    recipe = Recipe(
        arch=arch,
        normalization="batch" if preset.batch_norm else "none",
        optimizer=preset.optimizer,
        weight_decay=preset.weight_decay,
        schedule=preset.schedule,
        batch_size=preset.batch_size,
        epochs=preset.epochs,
        learning_rate=preset.learning_rate,
        label_smoothing=preset.label_smoothing,
        dropout=preset.dropout,
        augment=preset.augment,
        **sizes,
    )
    if not quick:
        return recipe
    small = {"mlp": {"hidden_sizes": (64, 64)}, "cnn": {"channels": (8, 16), "dense_size": 32}}
    return recipe.changed(epochs=min(recipe.epochs, 3.0), **small[arch])
