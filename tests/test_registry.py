"""Names: listing, lookup, the nearest match, and loading a user's file."""

import sys

import pytest

from toyalign.errors import ToyalignError, unknown
from toyalign.registry import Registry, import_submodules, load_from_file, load_module


@pytest.fixture
def fruit() -> Registry[int]:
    names = Registry("fruit", "see the market")
    names.add("apple", 1)
    names.add("blood_orange", 2)
    return names


def test_a_registry_is_a_dictionary_in_order(fruit):
    assert list(fruit) == ["apple", "blood_orange"]
    assert list(fruit.values()) == [1, 2]
    assert fruit["apple"] == 1
    assert fruit["blood-orange"] == 2
    assert "apple" in fruit
    assert "pear" not in fruit
    assert "blood-orange" in fruit
    fruit.remove("apple")
    assert list(fruit) == ["blood_orange"]


def test_a_taken_name(fruit):
    with pytest.raises(ToyalignError, match="fruit 'apple' exists already"):
        fruit.add("apple", 3)
    assert fruit["apple"] == 1


def test_the_nearest_name(fruit):
    with pytest.raises(ToyalignError) as caught:
        fruit["appel"]
    assert str(caught.value) == (
        "unknown fruit 'appel'; did you mean 'apple'? Known: apple, blood_orange (see the market)"
    )


def test_no_name_is_near(fruit):
    with pytest.raises(ToyalignError, match=r"^unknown fruit 'xyz'; Known: apple, blood_orange"):
        fruit["xyz"]


def test_discovery_happens_once_and_at_the_first_look():
    calls = []

    def discover():
        calls.append(1)
        names.add("found", 1)

    names = Registry("thing", discover=discover)
    assert calls == []
    assert "found" in names
    assert list(names) == ["found"]
    assert names["found"] == 1
    assert calls == [1]


def test_import_submodules():
    import_submodules("toyalign.policies")
    assert {"toyalign.policies.mlp", "toyalign.policies.tabular"} <= set(sys.modules)


def test_an_error_is_a_value_error():
    error = unknown("thing", "b", ["a"])
    assert isinstance(error, ToyalignError)
    assert isinstance(error, ValueError)
    assert str(error) == "unknown thing 'b'; Known: a"


# --- a user's file


def test_a_function_from_a_file(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text("from math import sqrt\n\ndef double(x):\n    return 2 * x\n")
    assert load_from_file(f"{path}:double")(4) == 8
    with pytest.raises(ToyalignError, match=r"did you mean 'double'\? Known: double$"):
        load_from_file(f"{path}:doubl")


def test_two_files_of_the_same_name_do_not_mix(tmp_path):
    functions = []
    for value in (1, 2):
        folder = tmp_path / str(value)
        folder.mkdir()
        (folder / "mine.py").write_text(f"def value():\n    return {value}\n")
        functions.append(load_from_file(f"{folder}/mine.py:value"))
    assert [function() for function in functions] == [1, 2]


def test_a_file_cannot_hide_an_installed_module(tmp_path):
    path = tmp_path / "json.py"
    path.write_text("def loads():\n    return 'mine'\n")
    import json

    assert load_from_file(f"{path}:loads")() == "mine"
    assert json.loads("1") == 1
    assert sys.modules["json"] is json


@pytest.mark.parametrize("spec", ["mine.py", "mine.py:", ":function"])
def test_a_spec_of_the_wrong_form(spec):
    with pytest.raises(ToyalignError, match="is not of the form path/to/file"):
        load_from_file(spec)


def test_a_missing_file(tmp_path):
    with pytest.raises(ToyalignError, match="there is no file"):
        load_from_file(f"{tmp_path}/none.py:f")


def test_a_file_that_is_not_python(tmp_path):
    path = tmp_path / "notes.txt"
    path.write_text("hello")
    with pytest.raises(ToyalignError, match="is not a Python file"):
        load_module(path)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("import a_module_that_is_not_there\n", "ModuleNotFoundError: No module named"),
        ("def broken(:\n", "SyntaxError"),
        ("1 / 0\n", "ZeroDivisionError: division by zero"),
    ],
)
def test_a_file_that_fails_to_import(tmp_path, source, message):
    path = tmp_path / "failing.py"
    path.write_text(source)
    before = set(sys.modules)
    with pytest.raises(ToyalignError, match=f"failing.py cannot be imported: {message}"):
        load_module(path)
    assert "toyalign_user_failing" not in set(sys.modules) - before
