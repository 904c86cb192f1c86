"""Training: one loop that can be read in one sitting (``loop.py``), and what keeps it safe around it.

``fit`` trains any model, ``results`` compares the outcome with the references, ``schedules`` says how the
learning rate moves, ``checkpoints`` saves and resumes, ``cards`` keeps what a run reached.
"""

from mmlearn.train import cards, checkpoints, schedules
from mmlearn.train.cards import results
from mmlearn.train.loop import fit
from mmlearn.train.optim import parameter_groups
from mmlearn.train.run import Run

__all__ = ["Run", "cards", "checkpoints", "fit", "parameter_groups", "results", "schedules"]
