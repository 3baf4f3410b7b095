"""Every study at its fast preset: its table is the committed one, and what it says is so.

The tables are made anew in a temporary folder and compared within the tolerance that the study
states. Claims that hold without any sampling are asserted; the verdicts of the committed full
preset are those of its committed table.
"""

import json
from dataclasses import asdict
from pathlib import Path

import pytest

from toyalign.study import differences, find_studies, read_table, regenerate

ROOT = Path(__file__).parents[2]
STUDIES = find_studies(ROOT / "studies")

ALWAYS = {  # claims of the fast preset that no sample size can weaken
    "chosen_falls": ["tabular_never_falls", "dpo_falls", "ipo_falls", "sign_is_predicted"],
    "mass_relocation": [
        "covering_is_quick",
        "seeking_waits",
        "sft_is_forward_kl",
        "condition_is_exact",
        "exchanged",
    ],
    "on_policy_or_negative_gradient": ["best_of_n_levels_off"],
}


@pytest.fixture(scope="module", params=sorted(STUDIES))
def made(request, tmp_path_factory):
    """A study, and the folder of its fast preset made anew."""
    study = STUDIES[request.param]
    place = tmp_path_factory.mktemp(study.name)
    regenerate(study, "fast", figures=place / "figures", cache=place / "cache")
    return study, place / "figures" / study.name / "fast"


def test_the_table_is_the_committed_one(made):
    study, folder = made
    committed = read_table(ROOT / "figures" / study.name / "fast" / "table.csv")
    assert differences(study, read_table(folder / "table.csv"), committed) == []


def test_the_certain_claims_hold(made):
    study, folder = made
    claims = json.loads((folder / "claims.json").read_text())
    assert set(claims) == set(study.claims)
    for name in ALWAYS.get(study.name, ()):
        assert claims[name]["holds"] == "holds", claims[name]["sentence"]


def test_every_figure_is_drawn(made):
    study, folder = made
    for name in study.figures:
        assert (folder / f"{name}.svg").stat().st_size > 5000
        assert (folder / f"{name}.png").stat().st_size > 5000


@pytest.mark.parametrize("name", sorted(STUDIES))
def test_the_committed_verdicts_follow_from_the_committed_table(name):
    folder = ROOT / "figures" / name
    table = read_table(folder / "table.csv")
    committed = json.loads((folder / "claims.json").read_text())
    again = {key: asdict(claim(table)) for key, claim in STUDIES[name].claims.items()}
    assert json.loads(json.dumps(again)) == committed


@pytest.mark.parametrize("name", sorted(STUDIES))
def test_the_manifest_knows_the_committed_tables(name):
    import hashlib

    manifest = json.loads((ROOT / "figures" / "MANIFEST.json").read_text())
    for preset, folder in (("full", "."), ("fast", "fast")):
        entry = manifest[f"{name}/{preset}"]
        table = (ROOT / "figures" / name / folder / "table.csv").read_bytes()
        assert entry["table_sha256"] == hashlib.sha256(table).hexdigest()
        assert entry["params"] == json.loads(json.dumps(asdict(STUDIES[name].presets[preset])))


def test_the_chosen_falls_study_takes_every_loss_on_given_pairs():
    from toyalign.objectives import OBJECTIVES

    study = STUDIES["chosen_falls"]
    labels = [label for label, _, _ in study.parts(study.presets["full"])]
    cards = [card for card in OBJECTIVES.values() if card.kind == "pairs"]
    pairs = [card.name for card in cards if "fixed" in card.sources]
    assert len(pairs) >= 40
    assert all(f"{name}, features" in labels for name in ["sft", *pairs])
