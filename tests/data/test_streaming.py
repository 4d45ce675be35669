"""Records streamed from files: the same bytes every time, every image once, damaged records named or counted."""

import itertools
import pathlib

import numpy as np
import pytest
import tensorflow_datasets as tfds

from metamix_jax import data
from metamix_jax.data import streaming
from tests.helpers.standin_batches import NUM_TRAIN, NUM_VALIDATION, as_bytes, evaluate, run_from, train


def test_same_bytes_with_any_number_of_threads(imagenet_standin):
  first = as_bytes(train(imagenet_standin), 3)
  assert as_bytes(train(imagenet_standin), 3) == first
  for num_threads in (1, 8):
    assert as_bytes(train(imagenet_standin, num_threads=num_threads), 3) == first


@pytest.mark.parametrize("first_batch", [1, 4, 9, 10])  # An epoch has 11 batches.
def test_resumes_with_the_batches_it_would_have_had(imagenet_standin, first_batch):
  whole = as_bytes(run_from(imagenet_standin, 2, 0), 14)
  assert as_bytes(run_from(imagenet_standin, 2, first_batch), 3) == whole[first_batch:first_batch + 3]
  assert whole[0] not in whole[11:]  # The next epoch has an order and crops of its own.


def test_crops_are_fresh_each_epoch_and_independent_of_the_seed_of_others(imagenet_standin):
  def pictures(**kwargs):
    return {image.tobytes() for batch in train(imagenet_standin, **kwargs) for image in batch["image"]}
  assert not pictures(epoch=0) & pictures(epoch=1)
  assert not pictures(seed=0) & pictures(seed=1)


@pytest.mark.parametrize("process_count", [1, 2, 3])
def test_an_epoch_has_every_image_once_with_any_number_of_processes(imagenet_standin, process_count):
  """The whole image at 32 x 32 tells which record it is; 90 images are 15 global batches of 6."""
  plain = data.Shift(0, 0)
  everything = {image.tobytes() for batch in evaluate(imagenet_standin, split="train", short_side=None, batch_size=90)
                for image in batch["image"]}
  seen = [
      image.tobytes() for index in range(process_count)
      for batch in train(imagenet_standin, batch_size=6 // process_count, process_index=index,
                         process_count=process_count, augmentation=plain) for image in batch["image"]]
  assert len(seen) == len(set(seen)) == len(everything) == NUM_TRAIN
  assert set(seen) == everything


@pytest.mark.parametrize("process_count", [1, 2, 4])
def test_evaluation_has_every_image_once(imagenet_standin, process_count):
  parts = [list(evaluate(imagenet_standin, batch_size=4, process_index=index, process_count=process_count))
           for index in range(process_count)]
  assert len({len(part) for part in parts}) == 1
  seen = [image.tobytes() for part in parts for batch in part
          for image, real in zip(batch["image"], batch["mask"], strict=True) if real]
  assert len(seen) == len(set(seen)) == NUM_VALIDATION


# Records and files that cannot be read.


@pytest.fixture(scope="module")
def damaged(imagenet_standin, tmp_path_factory):
  """A copy of the stand-in with training record 3 truncated and validation record 5 no image at all."""
  data_dir = tmp_path_factory.mktemp("damaged")
  builder = tfds.builder("imagenet2012", data_dir=data_dir)
  pathlib.Path(builder.info.data_dir).mkdir(parents=True)
  writer = tfds.core.SequentialWriter(builder.info, 25)
  writer.initialize_splits(["train", "validation"])
  for split, bad in (("train", 3), ("validation", 5)):
    records = imagenet_standin.as_dataset(split=split, decoders={"image": tfds.decode.SkipDecoding()})
    for number, record in enumerate(records.take(20).as_numpy_iterator()):
      if number == bad:
        record["image"] = record["image"][:2000] if split == "train" else b"no image"
      record["file_name"] = record["file_name"].decode()
      writer.add_examples({split: [record]})
  writer.close_all()
  return data.open_dataset("imagenet2012", str(data_dir))


def test_a_damaged_record_stops_the_run_and_is_named(damaged):
  for batches, name in (
      (train(damaged), "imagenet2012-train.tfrecord-00000__3"),
      (evaluate(damaged), "imagenet2012-validation.tfrecord-00000__5")):
    with pytest.raises(ValueError, match=f"record {name}") as caught:
      list(batches)
    assert "\n" not in str(caught.value) and "'skip'" in str(caught.value)


def test_damaged_records_can_be_skipped_and_are_counted(damaged, caplog):
  skipped = data.SkippedRecords()
  batches = [batch for epoch in range(2) for batch in train(damaged, epoch=epoch, skipped=skipped)]
  assert len(batches) == 4
  assert all(batch["image"].any((1, 2, 3)).all() for batch in batches)  # No zeros: a neighbour took its place.
  evaluated = list(evaluate(damaged, skipped=skipped))
  assert sum(batch["mask"].sum() for batch in evaluated) == 19
  # In the last batch of an epoch of 20 only 16 are used, so the damaged one may be among the others.
  assert skipped.names <= {
      "imagenet2012-train.tfrecord-00000__3", "imagenet2012-validation.tfrecord-00000__5"}
  assert len(skipped.names) == 2
  assert len([record for record in caplog.records if "cannot be decoded" in record.message]) == 2


def test_marking_changes_no_byte_of_good_records(imagenet_standin):
  assert as_bytes(train(imagenet_standin, skipped=data.SkippedRecords())) == as_bytes(train(imagenet_standin))
  assert as_bytes(evaluate(imagenet_standin, skipped=data.SkippedRecords())) == as_bytes(evaluate(imagenet_standin))


def test_what_is_left_out_is_not_decoded(damaged):
  """A run that continues behind the damaged record never meets it."""
  skipped = data.SkippedRecords()

  def read(number):
    return list(itertools.islice(train(damaged, batch_size=10, first_batch=number, skipped=skipped), 1))

  bad_batch = next(number for number in range(2) if (read(number), skipped.names)[1])
  if bad_batch == 0:
    assert len(list(train(damaged, batch_size=10, first_batch=1))) == 1
  with pytest.raises(ValueError, match="cannot be decoded"):
    list(train(damaged, batch_size=10, first_batch=bad_batch))


def test_gaps_are_filled_by_the_next_good_image():
  images, labels = np.arange(5, dtype=np.uint8)[:, None, None, None], np.arange(5, dtype=np.int32)
  filled, chosen = streaming.replace_undecodable((images, labels, np.array([False, True, True, False, False])))
  assert chosen.tolist() == filled.ravel().tolist() == [1, 1, 2, 1, 1]
  with pytest.raises(ValueError, match="none of the 5 records"):
    streaming.replace_undecodable((images, labels, np.zeros(5, bool)))


def test_a_damaged_file_is_one_sentence(imagenet_standin, tmp_path):
  folder = tmp_path / "imagenet2012" / "5.1.0"
  folder.mkdir(parents=True)
  for file in pathlib.Path(imagenet_standin.data_dir).iterdir():
    (folder / file.name).write_bytes(file.read_bytes())
  shard = folder / "imagenet2012-validation.tfrecord-00000"
  shard.write_bytes(shard.read_bytes()[:50_000])
  with pytest.raises(ValueError, match="the data set's files cannot be read: .*") as caught:
    list(evaluate(data.open_dataset("imagenet2012", str(tmp_path))))
  assert "\n" not in str(caught.value)
