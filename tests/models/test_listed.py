"""The list of all models is the one that transformers makes by itself, whoever asks for it."""

import subprocess
import sys

import pytest

from pipeline.models.listed import _from_last

TEXTS = [
    "",
    "x = 1\n",
    '__all__ = ["A"]',
    'x = 1\n__all__ = ["A", "B"]\ny = 2\n',
    'x = 1\r\n__all__ = [\r\n    "A",\r\n    "B",\r\n]\r\n',
    '__all__ = ["A"]\n__all__ = [\n    "B",\n]\n',
    '__all__ = ["A"]\x0c__all__ = ["B"]\n',
    '__all__ = ["A"]\nx = "__all__"\n    __all__ = ["B"]\n',
    'x = 1\n__all__ += ["A"]',
    'x = "\n__all__ = ["A"',
]

SAME = """
import sys
from importlib.abc import Loader
from pathlib import Path
from pipeline.models.listed import quickly_listed
finders = [*sys.meta_path]
with quickly_listed():
    import transformers
assert [one for one in sys.meta_path if type(one).__module__ == "pipeline.models.listed"] == []
from transformers.utils import import_utils
assert import_utils.__loader__ is import_utils.__spec__.loader
assert import_utils.__loader__.get_filename() == import_utils.__file__
shortened = import_utils.fetch__all__
models = Path(transformers.__file__).parent / "models"
found = import_utils.create_import_structure_from_path(models)
import_utils.fetch__all__ = shortened.args[0]
import_utils.create_import_structure_from_path.cache_clear()
assert import_utils.create_import_structure_from_path(models) == found
assert transformers.GPT2Config.model_type == "gpt2"
"""


@pytest.mark.parametrize("text", TEXTS)
def test_names_of_a_file_are_found_as_in_the_whole_of_it(text):
    from transformers.utils.import_utils import fetch__all__

    assert _from_last(fetch__all__, text) == fetch__all__(text)


@pytest.mark.slow
def test_transformers_lists_the_same_models_and_is_otherwise_itself():
    done = subprocess.run([sys.executable, "-c", SAME], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
