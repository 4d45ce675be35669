"""Image classification data sets as NumPy batches; the only package here that imports TensorFlow."""

from metamix_jax.data.datasets import DatasetInfo
from metamix_jax.data.datasets import classes_and_channels
from metamix_jax.data.datasets import dataset_info
from metamix_jax.data.datasets import open_dataset
from metamix_jax.data.event_file import EventFile
from metamix_jax.data.pipeline import RandomResizedCrop
from metamix_jax.data.pipeline import Shift
from metamix_jax.data.pipeline import evaluation_batches
from metamix_jax.data.pipeline import train_epoch
from metamix_jax.data.streaming import Reading
from metamix_jax.data.streaming import SkippedRecords
