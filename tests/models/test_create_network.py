"""Networks by name: what a name and its options may be, each mistake in one sentence."""

from flax import linen as nn
import pytest

from metamix_jax.errors import UserError
from metamix_jax.models import create_network
from metamix_jax.nn.scheme import QuantizationScheme

SCHEME = QuantizationScheme((3, 4, 8), 4, 8)


class Narrow(nn.Module):
  num_classes: int
  scheme: QuantizationScheme
  widths: tuple[int, ...]


class NoScheme(nn.Module):
  num_classes: int


HERE = "tests.models.test_create_network"


@pytest.mark.parametrize("name, options, sentence", [
    (f"{HERE}:Narrow", {}, f"config.network.options.widths is missing; {HERE}:Narrow needs it"),
    (f"{HERE}:Narrow", {"width": 1}, f"options.width is not a field of {HERE}:Narrow; allowed are widths"),
    (f"{HERE}:NoScheme", {}, f"config.network.name is '{HERE}:NoScheme', which has no field 'scheme'"),
    (f"{HERE}:Missing", {}, f"{HERE} has no class Missing"),
    (f"{HERE}:SCHEME", {}, f"{HERE} has no class SCHEME"),
    ("tests.missing:Net", {}, "tests.missing is not found; allowed is a module of the current folder or an installed"),
    (":Net", {}, "config.network.name is ':Net'; allowed is 'package.module:Class'"),
    (".own:Net", {}, "config.network.name is '.own:Net'; allowed is 'package.module:Class'"),
])
def test_names_and_options(name, options, sentence):
  with pytest.raises(UserError, match=sentence):
    create_network(name, 5, SCHEME, options)


def test_an_import_error_inside_a_users_module_keeps_its_traceback(tmp_path, monkeypatch):
  (tmp_path / "needs_something.py").write_text("import a_package_that_is_missing\n")
  monkeypatch.syspath_prepend(tmp_path)
  with pytest.raises(ModuleNotFoundError, match="a_package_that_is_missing") as error:
    create_network("needs_something:Net", 5, SCHEME, {})
  assert not isinstance(error.value, UserError)
