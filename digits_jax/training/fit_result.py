"""The result of a training."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from digits_jax.errors import ConfigError
from digits_jax.formatting import duration, html_table, percent, plural
from digits_jax.training.scoring import Score
from digits_jax.training.state import TrainState

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class FitResult:
    """A finished training.

    Attributes:
      results: what ``results.json`` holds.
      workdir: None for a training that leaves no folder.
      metrics: what ``metrics.jsonl`` holds, a row per epoch.
      validation, test: the scores of the two splits, with their logits.
    """

    state: TrainState
    results: dict[str, Any]
    workdir: Path | None
    metrics: list[dict[str, Any]]
    validation: Score
    test: Score

    def __repr__(self) -> str:
        results, test = self.results, self.test
        return (
            f"FitResult({results['arch']} on {results['dataset']}, seed {results['seed']}: test "
            f"accuracy {test.accuracy:.2%}, {plural(test.errors, 'error')} of {test.count:,} images"
            + (f"; {self.workdir})" if self.workdir else ")")
        )

    def _repr_html_(self) -> str:
        results = self.results
        facts = {
            "network": f"{results['arch']}, {results['num_params']:,} parameters",
            "data set": results["dataset"],
            "seed": results["seed"],
            "validation accuracy": percent(self.validation.accuracy),
            "test accuracy": percent(self.test.accuracy),
            "errors": f"{self.test.errors:,} of {self.test.count:,} images",
            "training": f"{results['steps']:,} steps, {duration(results['train_seconds'])}",
        }
        return html_table(facts | ({"folder": self.workdir} if self.workdir else {}), "FitResult")

    def plot_curves(self) -> "Figure":
        """Draws loss and error rate against epochs; a notebook shows the figure."""
        if not self.metrics:
            raise ConfigError("metrics are empty: no epoch was logged; train for at least one")
        from digits_jax.training.curves import draw_curves

        results = self.results
        title = f"{results['arch']} on {results['dataset']}, seed {results['seed']}"
        return draw_curves(self.metrics, title)
