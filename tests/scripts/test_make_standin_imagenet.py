"""The script that writes a stand-in for ImageNet."""

import numpy as np

from metamix_jax import data
from tests.helpers.standin_batches import NUM_TRAIN, NUM_VALIDATION, evaluate


def test_standin_has_imagenets_features(imagenet_standin):
  assert data.dataset_info(imagenet_standin, train_split="train", evaluation_split="validation") == data.DatasetInfo(
      num_classes=1000, num_train=NUM_TRAIN, num_evaluation=NUM_VALIDATION, channels=3)
  assert set(imagenet_standin.info.features) == {"image", "label", "file_name"}
  assert len(imagenet_standin.info.splits["train"].shard_lengths) == 4  # 90 images, 25 to a file.
  labels = np.concatenate([batch["label"] for batch in evaluate(imagenet_standin, batch_size=NUM_VALIDATION)])
  assert np.bincount(labels).tolist() == [7, 7, 7]
