"""The presets: the values that each fills in, by architecture and by the size of the data set.

They were chosen on validation images; docs/models.md states what they reach on MNIST.
"""

from typing import Any

_BOTH = {
    "batch_size": 256,
    "schedule": "one_cycle",
    "optimizer": "adamw",
    "weight_decay": 0.01,
    "label_smoothing": 0.1,
    "dropout": 0.0,
    "ema_decay": 0.0,
    "recalibrate_batch_norm": True,
    "batch_norm": True,
    "augment": "none",
    "augment_strength": 1.0,
    "adversarial": 0.0,
}
BASE = {
    "mlp": {**_BOTH, "learning_rate": 0.01, "hidden_sizes": (512, 512)},
    "cnn": {
        **_BOTH,
        "learning_rate": 0.02,
        "channels": (24, 48),
        "convs_per_block": 1,
        "dense_size": 128,
        "space_to_depth": True,
    },
}

# Without the dense layer, which would have most of the parameters.
_TINY_CNN = {
    "augment": "affine",
    "channels": (7, 9, 11),
    "convs_per_block": 2,
    "dense_size": 0,
    "space_to_depth": False,
}
# Of about a thousand images.
_SMALL = {
    "quick": {"recalibrate_batch_norm": False, "epochs": 15.0, "batch_size": 64},
    "standard": {"epochs": 60.0, "batch_size": 64, "augment": "affine"},
    "best": {"epochs": 200.0, "batch_size": 64, "augment": "affine"},
    "handwriting": {"epochs": 60.0, "batch_size": 64, "augment": "handwriting"},
}

# Data sets that a preset trains on if none is given, and how often it takes each.
SOURCES = {"handwriting": ("mnist+digits+strokes", (1, 5, 1))}

# The defaults of a run with a teacher.
DISTILLATION = {"teacher_weight": 0.9, "teacher_temperature": 2.0}

RECIPES = {
    ("cnn", "large"): {
        "quick": {
            "recalibrate_batch_norm": False,
            "epochs": 1.0,
            "batch_size": 128,
            "learning_rate": 0.025,
        },
        # Wider for fewer epochs, in smaller batches, is more accurate in the same time.
        "standard": {
            "epochs": 9.0,
            "batch_size": 128,
            "augment": "affine",
            "channels": (64, 128),
            "dense_size": 256,
        },
        # As standard, of more writers than MNIST has.
        "handwriting": {
            "epochs": 9.0,
            "batch_size": 128,
            "augment": "handwriting",
            "channels": (64, 128),
            "dense_size": 256,
        },
        # Single pixels for fewer epochs are more accurate than blocks of 2x2 for as many products.
        "best": {
            "epochs": 25.0,
            "augment": "elastic",
            "augment_strength": 0.7,
            "channels": (32, 64, 128),
            "convs_per_block": 2,
            "dense_size": 256,
            "space_to_depth": False,
        },
        "tiny": {
            **_TINY_CNN,
            "epochs": 40.0,
            "batch_size": 128,
            "label_smoothing": 0.0,  # so small a network needs no more
        },
    },
    ("mlp", "large"): {
        "quick": {"recalibrate_batch_norm": False, "epochs": 2.0},
        "standard": {"epochs": 8.0, "augment": "affine"},
        "handwriting": {"epochs": 12.0, "augment": "handwriting"},
        "best": {
            "epochs": 200.0,
            "augment": "elastic",
            "augment_strength": 0.7,
            "hidden_sizes": (1024, 1024, 512),
        },
        "tiny": {"epochs": 40.0, "hidden_sizes": (6,)},
    },
    ("cnn", "small"): {
        **_SMALL,
        "tiny": {**_TINY_CNN, "epochs": 200.0, "batch_size": 64},
    },
    ("mlp", "small"): {
        **_SMALL,
        "tiny": {"epochs": 200.0, "batch_size": 64, "hidden_sizes": (6,)},
    },
}


def preset_values(arch: str, preset: str, *, small: bool) -> dict[str, Any]:
    """Returns the values of a preset.

    Args:
      small: whether the data set has about a thousand images rather than tens of thousands.

    Examples:
      >>> preset_values("cnn", "quick", small=False)["epochs"]
      1.0
    """
    return {**BASE[arch], **RECIPES[arch, "small" if small else "large"][preset]}
