"""YAML that people write, well and badly."""

import pytest
import yaml

from pipeline.core.documents import apply_overrides, parse_yaml, read_yaml, suggest
from pipeline.core.errors import ConfigError


def error_of(function, *arguments):
    with pytest.raises(ConfigError) as caught:
        function(*arguments)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def write(tmp_path, content):
    path = tmp_path / "config.yaml"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def test_a_mapping_is_read(tmp_path):
    assert read_yaml(write(tmp_path, "a: 1\nb: [x, 2.5, null]\n")) == {"a": 1, "b": ["x", 2.5, None]}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("a: 1\nb: [1, 2\n", ":3: not valid YAML"),
        ("a: 1\n\tb: 2\n", ":2: not valid YAML"),
        ("a: 1\nb: 2\na: 3\n", ":3: not valid YAML (the key 'a' is given twice)"),
        ("outer:\n  a: 1\n  a: 2\n", ":3: not valid YAML (the key 'a' is given twice)"),
        ("", "holds no keys"),
        ("- a\n- b\n", "holds no keys"),
        ("just text", "holds no keys"),
        (b"\xff\xfe\x00", "it is not UTF-8"),
        ("a: !!python/object/apply:os.system [ls]\n", "not valid YAML"),
        ("a: \x00\n", "not valid YAML"),
        ("[" * 5000, "nested too deeply"),
        ("a: 2024-99-99\n", "not valid YAML"),
        ("a: " + "x" * 1_000_001, "bytes"),
    ],
    ids=range(13),
)
def test_bad_files_are_one_line_with_file_and_line_number(tmp_path, content, words):
    path = write(tmp_path, content)
    message = error_of(read_yaml, path)
    assert words in message
    assert message.startswith(str(path))


def test_a_missing_file_and_a_folder_are_named(tmp_path):
    assert "no such file" in error_of(read_yaml, tmp_path / "nothing.yaml")
    assert "cannot be read" in error_of(read_yaml, tmp_path)


def test_aliases_that_stand_for_billions_are_refused_at_once(tmp_path):
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 12)]
    assert "aliases" in error_of(read_yaml, write(tmp_path, "\n".join(lines)))
    assert "aliases" in error_of(parse_yaml, "&a [*a]", "here")


def test_a_few_aliases_are_fine():
    assert parse_yaml("a: &x {k: 1}\nb: *x\n", "here") == {"a": {"k": 1}, "b": {"k": 1}}


# --- overrides ---------------------------------------------------------------------------------------------


def test_overrides_reach_into_sections_and_lists():
    before = {"methods": [{"name": "a"}, {"name": "b", "steps": 5}], "seed": 0}
    after = apply_overrides(
        before, ["methods.1.steps=10", "cluster.workers=4", "seed=3", "name=x=y", "note="]
    )
    assert after == {
        "methods": [{"name": "a"}, {"name": "b", "steps": 10}],
        "seed": 3,
        "cluster": {"workers": 4},
        "name": "x=y",
        "note": None,
    }
    assert before == {"methods": [{"name": "a"}, {"name": "b", "steps": 5}], "seed": 0}


def test_an_override_can_be_a_whole_section():
    value = apply_overrides({"a": 1}, ["methods=[{name: eap}]", "empty.b.c={x: 1}"])
    assert value == {"a": 1, "methods": [{"name": "eap"}], "empty": {"b": {"c": {"x": 1}}}}


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("seed", "key=value"),
        ("=3", "key=value"),
        ("a..b=3", "key=value"),
        ("methods.7.steps=1", "entries 0 to 0"),
        ("methods.-1.steps=1", "entries 0 to 0"),
        ("methods.x=1", "entries 0 to 0"),
        ("seed.x=1", "single value"),
        ("seed=[1", "not valid YAML"),
    ],
)
def test_overrides_that_fit_nowhere_say_why(override, words):
    message = error_of(apply_overrides, {"methods": [{"name": "a"}], "seed": 0}, [override])
    assert words in message
    assert override in message


def test_suggestions():
    assert suggest("stepz", ["steps", "rule"]) == "; did you mean 'steps'? known: rule, steps"
    assert suggest("qqqqq", ["steps", "rule"]) == "; known: rule, steps"


def test_the_safe_loader_is_left_alone():
    assert yaml.safe_load("a: 1\na: 2") == {"a": 2}
