"""Image classification data sets as NumPy batches; the only package here that imports TensorFlow."""

import os

# TensorFlow reads these when it is imported, below. A user's own values win.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # No notes about CPU features.
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")  # No note about oneDNN: nothing here computes with it.
os.environ.setdefault("TF_USE_LEGACY_KERAS", "1")  # Importing Keras 3 takes seconds, and nothing here uses it.

from metamix_jax.data.datasets import (
    DatasetInfo,
    classes_and_channels,
    dataset_info,
    describe,
    describe_in_words,
    open_dataset,
)
from metamix_jax.data.event_file import EventFile
from metamix_jax.data.pipeline import RandomResizedCrop, Shift, check_records, evaluation_batches, train_epoch
from metamix_jax.data.source import DataSource, open_source
from metamix_jax.data.streaming import ReadOptions, SkippedRecords

__all__ = [
    "DataSource",
    "DatasetInfo",
    "EventFile",
    "RandomResizedCrop",
    "ReadOptions",
    "Shift",
    "SkippedRecords",
    "check_records",
    "classes_and_channels",
    "dataset_info",
    "describe",
    "describe_in_words",
    "evaluation_batches",
    "open_dataset",
    "open_source",
    "train_epoch",
]
