"""Runs: the run folder, the command line, pretrained networks, attacks, reports, export and copies of recipes."""

from common.runs.attacks import evaluate_attacks, save_percent_curves, write_attacked
from common.runs.classification import save_captioned
from common.runs.cli import run_command
from common.runs.pretrained import Classifier, frozen_features, load_pretrained
from common.runs.run import Run
from common.runs.warm_start import warm_start
from common.system.files import InputError
from common.system.options import Range

__all__ = [
    "Classifier",
    "InputError",
    "Range",
    "Run",
    "evaluate_attacks",
    "frozen_features",
    "load_pretrained",
    "run_command",
    "save_captioned",
    "save_percent_curves",
    "warm_start",
    "write_attacked",
]
