"""Statistics and figures of predictions: pure functions of arrays, from any framework."""

from digits_jax.evaluation.bootstrap import bootstrap, permutation_test
from digits_jax.evaluation.calibration import (
    brier_score,
    calibration,
    negative_log_likelihood,
    reliability,
)
from digits_jax.evaluation.comparison import Comparison, compare
from digits_jax.evaluation.error_analysis import error_changes, hardest_images
from digits_jax.evaluation.metrics import class_accuracy, confusion_matrix, wilson_interval
from digits_jax.evaluation.overlap import cochrans_q, error_overlap, mcnemar_p_value
from digits_jax.runs.run import Run

__all__ = [
    "Comparison",
    "Run",
    "bootstrap",
    "brier_score",
    "calibration",
    "class_accuracy",
    "cochrans_q",
    "compare",
    "confusion_matrix",
    "error_changes",
    "error_overlap",
    "hardest_images",
    "mcnemar_p_value",
    "negative_log_likelihood",
    "permutation_test",
    "reliability",
    "wilson_interval",
]
