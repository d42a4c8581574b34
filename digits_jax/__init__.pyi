"""The public names; `__init__.py` loads each on first use."""

from .config import (
    RunOptions as RunOptions,
    TrainConfig as TrainConfig,
    read_config as read_config,
)
from .data.augment import (
    add_noise as add_noise,
    cutout as cutout,
    make_augment as make_augment,
    warp as warp,
)
from .data.datasets import (
    Dataset as Dataset,
    Split as Split,
    load_dataset as load_dataset,
)
from .data.pipeline import (
    TrainStream as TrainStream,
    eval_batches as eval_batches,
)
from .errors import (
    CheckpointError as CheckpointError,
    ConfigError as ConfigError,
    DataError as DataError,
    DigitsError as DigitsError,
    TrainingDivergedError as TrainingDivergedError,
)
from .deploy.predictor import Predictor as Predictor
from .models.cnn import CNN as CNN
from .models.mlp import MLP as MLP
from .results_comparison import (
    ResultsComparison as ResultsComparison,
    compare_results as compare_results,
)
from .runs.folder import read_run as read_run
from .runs.run import Run as Run
from .training.ensemble import (
    EnsembleResult as EnsembleResult,
    fit_ensemble as fit_ensemble,
)
from .training.fit_result import FitResult as FitResult
from .training.loop import (
    fit as fit,
    resume as resume,
    train_members as train_members,
)
from .training.optimizers import (
    make_optimizer as make_optimizer,
    make_schedule as make_schedule,
)
from .training.parallel import (
    make_mesh as make_mesh,
    parallelize as parallelize,
)
from .training.resuming import load_trained as load_trained
from .training.setup import prepare as prepare
from .training.state import (
    TrainState as TrainState,
    create_train_state as create_train_state,
)
from .training.steps import (
    eval_step as eval_step,
    predict_step as predict_step,
    train_step as train_step,
)

__version__: str
