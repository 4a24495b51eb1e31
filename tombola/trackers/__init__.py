"""Experiments told to trackers: MLflow, TensorBoard, Weights & Biases. One file each, and one line in `TRACKERS`.

entry        what is told of a training or of the whole experiment, as a value
record       the entries of an experiment's finished runs
mask_images  masks as pictures of a bounded size
tracker      what a tracker is
telling      tell a tracker what it does not have yet
live         the same while the experiment runs, from a process of its own

To add one: write a file like `tensorboard`, and name its `TRACKER` here.
"""

from tombola.trackers import mlflow, tensorboard, wandb
from tombola.trackers.tracker import Tracker

TRACKERS: dict[str, Tracker] = {
    tracker.name: tracker for tracker in (mlflow.TRACKER, tensorboard.TRACKER, wandb.TRACKER)
}
