"""A recipe's ingredients: what taking them out changes, trains and is worth."""

import json
import shutil

import numpy as np
import pytest
import scipy.stats

from kerascnn import UsageError, describe, recipe
from kerascnn.cli import commands
from kerascnn.data.folders import SAMPLES
from kerascnn.report import ablation, cookbook, records

LISTED = [name for name in recipe.names() if records.text(f"{name}/ablation.toml")]


def loaded(variant, folder):
    file = folder / f"without_{variant.name}.py"
    source = recipe.find(variant.recipe).read_text("utf-8")
    file.write_text(variant.source(source, file.stem), "utf-8")
    return recipe.load(file)


@pytest.mark.parametrize("name", LISTED)
def test_each_ingredient_can_be_taken_out_and_changes_the_recipe(name, tmp_path):
    whole, *without = ablation.variants(name)
    assert without
    found = [recipe.load(name), *(loaded(each, tmp_path) for each in without)]
    for each in found:
        recipe.check_parameters(each, each.network())
    described = [describe.describe(each) for each in found]
    for each in described:
        each.pop("name", None)
    # A start that `adapt` sets is no part of a description; its edit is of the code.
    of_adapt = {"identity"}
    kept = [
        each
        for variant, each in zip([whole, *without], described, strict=True)
        if variant.name not in of_adapt
    ]
    texts = {json.dumps(each, sort_keys=True, default=str) for each in kept}
    assert len(texts) == len(kept)
    assert len({each.digest for each in (whole, *without)}) == len(described)


def test_an_edit_that_no_longer_fits_the_recipe_is_named():
    variant = ablation.Variant("fashion_mlp", "magic", edits=(("abracadabra", ""),))
    source = recipe.find("fashion_mlp").read_text("utf-8")
    with pytest.raises(UsageError, match="without magic: 'abracadabra' stands 0 times"):
        variant.source(source, "mine")


@pytest.fixture
def book(tmp_path, monkeypatch):
    """A cookbook of one recipe with one ingredient; a small set counts as full."""
    made = tmp_path / "recipes"
    (made / "fashion_mlp").mkdir(parents=True)
    (made / "fashion_mlp/ablation.toml").write_text(
        "[[without]]\nname = 'relu'\nwords = 'ReLU: tanh'\n"
        """edits = [{old = 'activation="relu"', new = 'activation="tanh"'}]\n"""
    )
    monkeypatch.setattr(records, "FOLDER", made)
    monkeypatch.setattr(recipe, "names", lambda: ["fashion_mlp"])
    monkeypatch.setenv("KERASCNN_CACHE_DIR", str(tmp_path / "cache"))
    full = tmp_path / "full"
    shutil.copytree(SAMPLES / "fashion_mnist", full / "fashion_mnist")
    monkeypatch.chdir(tmp_path)
    return full


def test_an_ingredient_is_worth_the_difference_of_the_means(book):
    fingerprint = "0" * 64
    rng = np.random.default_rng(0)
    whole, without = ablation.variants("fashion_mlp")
    drawn = {"": rng.normal(0.9, 0.01, 4), "relu": rng.normal(0.8, 0.02, 3)}
    for variant in (whole, without):
        for seed, accuracy in enumerate(drawn[variant.name]):
            record = {
                **{"recipe": "fashion_mlp", "fingerprint": fingerprint},
                **{"without": variant.name, "edits": variant.digest},
                **{"epochs": 2, "seed": seed, "result": {"test_accuracy": accuracy}},
            }
            records.add("fashion_mlp/ablation", record)
            # Of another length, other edits, a seed again: none of them counts.
            for other in ({"epochs": 3}, {"edits": "another"}, {}):
                wrong = {"result": {"test_accuracy": 0.1 + 0.01 * seed}}
                records.add("fashion_mlp/ablation", record | wrong | other)
    shown = ablation.section("fashion_mlp", fingerprint)
    first = shown[: shown.index("3 epochs")]
    full, half = 100 * drawn[""], 100 * drawn["relu"]
    # Welch and Satterthwaite, by hand.
    errors = full.var(ddof=1) / 4, half.var(ddof=1) / 3
    freedom = sum(errors) ** 2 / (errors[0] ** 2 / 3 + errors[1] ** 2 / 2)
    width = scipy.stats.t.ppf(0.975, freedom) * np.sqrt(sum(errors))
    worth = full.mean() - half.mean()
    assert f"| nothing | 4 | {full.mean():.2f} ± {full.std(ddof=1):.2f}% | – |" in first
    assert (
        f"| ReLU: tanh | 3 | {half.mean():.2f} ± {half.std(ddof=1):.2f}% | "
        f"{worth:+.2f} ({worth - width:+.2f} to {worth + width:+.2f}) | – | – |"
    ) in first


@pytest.mark.slow
def test_what_is_wanted_is_trained_and_stands_on_the_card(book, capfd):
    def kerascnn(*words):
        code = commands.main(["ladder", "ablation", "fashion_mlp", *map(str, words)])
        said = capfd.readouterr()
        return code, said.out, said.err

    words = "--data-dir", book, "--epochs", 2, "--seeds", 1
    # Too short for a run: nothing is kept, and nothing is lost.
    code, out, err = kerascnn(*words, "--hours", 1 / 3600)
    assert (code, err.count("1 of 2: fashion_mlp, seed 0")) == (0, 1)
    assert "0 of 2 runs have ended" in out
    code, out, err = kerascnn(*words, "--hours", 1)
    assert code == 0, err
    assert "2 of 2 runs have ended" in out
    kept = records.read("fashion_mlp/ablation")
    assert [each["without"] for each in kept] == ["", "relu"]
    assert {each["epochs"] for each in kept} == {2}
    hashes = {each["result"]["weights_sha256"] for each in kept}
    assert len(hashes) == 2
    card = (records.FOLDER / "fashion_mlp/README.md").read_text()
    assert "| ReLU: tanh | 1 |" in card
    assert not cookbook.pages().keys() - {
        *records.FOLDER.rglob("README.md"),
        *records.FOLDER.glob("*.svg"),
        records.FOLDER.parent / "README.md",
    }
    code, out, err = kerascnn(*words, "--hours", 1)
    assert (code, "No run is wanted" in out) == (0, True)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("fashion_mlp", "--hours", 1, "--only", "magic"), "--only magic: the ingred"),
        (("fashion_lenet", "--hours", 1), "has no list of ingredients"),
        (("fashion_nothing", "--hours", 1), "fashion_nothing"),
        (("fashion_mlp", "--hours", 0), "expected a positive number"),
        (("fashion_mlp", "--hours", 1, "--epochs", 0), "expected 1 or more"),
        (("fashion_mlp", "--hours", 1, "--data-dir", "."), "the full set of fashion"),
    ],
)
def test_mistakes_are_named(book, capsys, monkeypatch, words, said):
    monkeypatch.setattr(recipe, "names", lambda: ["fashion_lenet", "fashion_mlp"])
    code = commands.main(["ladder", "ablation", *map(str, words)])
    assert code == 2
    (line,) = [x for x in capsys.readouterr().err.splitlines() if "oading" not in x]
    assert said in line
