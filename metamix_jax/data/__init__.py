"""Image classification data sets as NumPy batches; the only package here that imports TensorFlow."""

from metamix_jax.data.pipeline import DatasetInfo
from metamix_jax.data.pipeline import classes_and_channels
from metamix_jax.data.pipeline import dataset_info
from metamix_jax.data.pipeline import evaluation_batches
from metamix_jax.data.pipeline import open_dataset
from metamix_jax.data.pipeline import train_epoch
