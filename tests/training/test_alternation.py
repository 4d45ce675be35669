"""The steps on a batch of the search, and that a fork's take their place."""

from types import SimpleNamespace

from metamix_jax.training import phases
from metamix_jax.training.alternation import alternate

PROGRAMS = SimpleNamespace(
    bit_meta_step=lambda meta, batch: (f"{meta} meta {batch}", {"loss": 1.0, "loss_by_candidate": [0.5, 1.5]}),
    bit_search_steps=lambda archs, meta, batch: (
        f"{archs} searched on ({meta}) with {batch}", {"loss": 9.0, "gbops": [2.0], "task_loss": [3.0]}))


def test_a_bit_search_step_follows_a_bit_meta_step_on_the_same_batch():
  assert alternate(PROGRAMS, "w", "a", "x") == (
      "w meta x", "a searched on (w meta x) with x",
      {"loss": 1.0, "loss_by_candidate": [0.5, 1.5], "gbops": [2.0], "search_loss": [3.0]})


def test_the_contexts_alternation_takes_every_batch_after_the_bit_meta_only_epochs(monkeypatch):
  fork = lambda programs, meta, archs, batch: (f"{meta} fork {batch}", f"{archs} fork {batch}", {"loss": 0.0})
  context = SimpleNamespace(
      config=SimpleNamespace(
          bit_selection=SimpleNamespace(epochs=3, meta_only_epochs=1, learning_rate=0.5),
          arch=SimpleNamespace(learning_rate=0.1, final_learning_rate=0.0)),
      data=SimpleNamespace(steps_per_epoch=2), programs=PROGRAMS, alternation=fork, weight_optimizer=lambda rate: rate)

  def train(context, phase, state, add_targets, step, **saving):
    for epoch, batch in ((0, "x0"), (1, "x1"), (2, "x2")):
      state, _ = step(state, epoch, batch)
    return state, None

  monkeypatch.setattr(phases, "train", train)
  meta = SimpleNamespace(with_optimizer=lambda optimizer, phase: "w")
  assert phases.select_bits(context, meta, "a", None) == ("w meta x0 fork x1 fork x2", "a fork x1 fork x2")
