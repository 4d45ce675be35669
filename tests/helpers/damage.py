"""Ways in which a file is damaged, for tests that read it again."""

from hypothesis import strategies as st

# What JSON can hold, to any depth that a file has.
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-10**20, 10**20) | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3), max_leaves=8)


@st.composite
def damaged(draw, content):
  """The content cut, with other bytes in it, with a part missing, or with a part twice."""
  start = draw(st.integers(0, len(content)))
  end = draw(st.integers(start, min(len(content), start + 40)))
  kind = draw(st.sampled_from(("cut", "replace", "remove", "repeat", "zeros")))
  if kind == "cut":
    return content[:start]
  if kind == "zeros":  # As a file system leaves a file whose end was not written before the power went.
    return content[:start] + bytes(len(content) - start)
  middle = {"replace": draw(st.binary(max_size=4)), "remove": b"", "repeat": 2 * content[start:end]}[kind]
  return content[:start] + middle + content[end:]
