"""Everything that reads predictions: pure functions of arrays, for any classifier's answers."""

from digits_jax.evaluation.calibration import (
    Calibration,
    Reliability,
    Temperature,
    brier_score,
    calibration,
    fit_temperature,
    negative_log_likelihood,
    reliability,
)
from digits_jax.evaluation.metrics import (
    Accuracy,
    ClassAccuracy,
    accuracy,
    class_accuracy,
    confusion,
    wilson_interval,
)
from digits_jax.evaluation.overlap import (
    CochransQ,
    ErrorOverlap,
    cochrans_q,
    error_overlap,
    mcnemar,
)
from digits_jax.evaluation.repairs import (
    HardImage,
    Repair,
    hardest_images,
    repairs_by_class,
    repairs_by_confusion,
)
from digits_jax.evaluation.resampling import (
    BetweenOrWithin,
    Bootstrap,
    between_or_within,
    bootstrap,
)

__all__ = [
    "Accuracy",
    "BetweenOrWithin",
    "Bootstrap",
    "Calibration",
    "ClassAccuracy",
    "CochransQ",
    "ErrorOverlap",
    "HardImage",
    "Reliability",
    "Repair",
    "Temperature",
    "accuracy",
    "between_or_within",
    "bootstrap",
    "brier_score",
    "calibration",
    "class_accuracy",
    "cochrans_q",
    "confusion",
    "error_overlap",
    "fit_temperature",
    "hardest_images",
    "mcnemar",
    "negative_log_likelihood",
    "reliability",
    "repairs_by_class",
    "repairs_by_confusion",
    "wilson_interval",
]
