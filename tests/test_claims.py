"""Claims files: what is read, what is refused, and how intervals decide."""

import pytest

from toyalign.claims import Claim, holds, read_claims, verdict
from toyalign.errors import ToyalignError
from toyalign.intervals import Estimate, exactly

HEAD = 'title = "T"\nauthors = "A et al."\narxiv = "1234.5678"\n'
ONE = {
    "id": '"one"',
    "place": '"section 1"',
    "says": '"it is large"',
    "paper": '"0.5"',
    "relation": '">="',
    "measure": '"size"',
    "target": "0.1",
}


def written(tmp_path, *claims, head=HEAD):
    path = tmp_path / "claims.toml"
    rows = ["[[claim]]\n" + "".join(f"{k} = {v}\n" for k, v in claim.items()) for claim in claims]
    path.write_text(head + "\n".join(rows))
    return path


def test_a_claims_file_is_read(tmp_path):
    about, (claim,) = read_claims(written(tmp_path, ONE))
    assert about == {"title": "T", "authors": "A et al.", "arxiv": "1234.5678"}
    assert (claim.id, claim.target, claim.tolerance, claim.held_to) == ("one", 0.1, 0.0, "≥ 0.1")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"meassure": '"size"'}, "unknown key in .*claim 'one' 'meassure'; did you mean 'measure'"),
        ({"relation": '">"'}, "unknown relation in .*claim 'one' '>'; did you mean '>='"),
        ({"says": None}, "claim 'one': says is missing"),
        ({"measure": None}, "claim 'one': relation '>=' needs measure and target"),
        ({"target": None}, "relation '>=' needs measure and target"),
        ({"relation": '"none"'}, "relation 'none' takes no measure and target"),
        ({"relation": '"within"'}, "relation 'within' needs a tolerance above 0"),
        (
            {"relation": '"none"', "measure": None, "target": None},
            "relation 'none' needs the command that would tell",
        ),
    ],
)
def test_a_claim_that_could_not_be_judged_is_refused(tmp_path, changes, message):
    row = {k: v for k, v in {**ONE, **changes}.items() if v is not None}
    with pytest.raises(ToyalignError, match=message):
        read_claims(written(tmp_path, row))


def test_a_file_that_says_something_else_is_refused(tmp_path):
    with pytest.raises(ToyalignError, match="two claims are called 'one'"):
        read_claims(written(tmp_path, ONE, ONE))
    with pytest.raises(ToyalignError, match=r"unknown key in .* 'year'"):
        read_claims(written(tmp_path, ONE, head=HEAD + "year = 2024\n"))
    with pytest.raises(ToyalignError, match="has no arxiv"):
        read_claims(written(tmp_path, ONE, head='title = "T"\nauthors = "A"\n'))
    with pytest.raises(ToyalignError, match="there is no claims file"):
        read_claims(tmp_path / "nothing.toml")
    (tmp_path / "claims.toml").write_text("title = ")
    with pytest.raises(ToyalignError, match=r"claims\.toml: Invalid"):
        read_claims(tmp_path / "claims.toml")


def claim_of(relation, target, tolerance=0.0):
    return Claim("c", "p", "s", "n", relation, "m", target, tolerance)


def about(mean, half=0.1):
    return Estimate(mean, mean - half, mean + half, 9)


@pytest.mark.parametrize(
    ("relation", "tolerance", "mean", "expected"),
    [
        (">=", 0.0, 0.61, True),
        (">=", 0.0, 0.55, None),
        (">=", 0.0, 0.39, False),
        (">=", 0.2, 0.45, True),
        ("<=", 0.0, 0.39, True),
        ("<=", 0.0, 0.45, None),
        ("<=", 0.0, 0.61, False),
        ("within", 0.2, 0.55, True),
        ("within", 0.2, 0.65, None),
        ("within", 0.2, 0.81, False),
        ("within", 0.2, 0.19, False),
        ("within", 0.05, 0.5, None),
    ],
)
def test_the_whole_interval_decides(relation, tolerance, mean, expected):
    assert holds(claim_of(relation, 0.5, tolerance), about(mean)) is expected


@pytest.mark.parametrize("relation", [">=", "<=", "within"])
def test_what_could_not_be_measured_decides_nothing(relation):
    nothing = exactly(float("nan"))
    claim = claim_of(relation, 0.5, 0.1)
    assert holds(claim, nothing) is None
    assert verdict(claim, {"": nothing}) == "cannot tell"


@pytest.mark.parametrize(
    ("means", "expected"),
    [
        ([0.8, 0.9], "reproduced"),
        ([0.8, 0.1], "partly"),
        ([0.8, 0.5], "partly"),
        ([0.1, 0.2], "not reproduced"),
        ([0.1, 0.5], "not reproduced"),
        ([0.5], "cannot tell"),
        ([], "cannot tell"),
    ],
)
def test_settings_add_up_to_a_verdict(means, expected):
    effects = {str(place): about(mean) for place, mean in enumerate(means)}
    assert verdict(claim_of(">=", 0.5), effects) == expected
